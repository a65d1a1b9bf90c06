"""examples/stream/ in a real browser: the answer is whole, whatever was killed and reloaded in its middle."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from examples.stream.app import SENTENCES
from playwright.async_api import Browser, Page

from tests.integration.example_support import running_example
from tests.support.waiting import eventually

PROJECT = Path(__file__).parents[2]
ANSWER_S = 60.0
WHOLE = " ".join(f"{number}. why?" for number in range(1, SENTENCES + 1))


async def question(page: Page) -> dict[str, Any]:
    """Return the last question of the page, with its answer."""
    found: dict[str, Any] = await page.evaluate(
        "JSON.parse(sessionStorage.getItem('chat')).questions.at(-1) ?? {}"
    )
    return found


async def ask(browser: Browser, url: str) -> Page:
    page = await browser.new_page()
    await page.goto(url)
    await page.get_by_label("Question").fill("why?")
    await page.get_by_role("button", name="Ask").click()
    await grows(page)
    return page


async def grows(page: Page, *, without: int = 0) -> int:
    """Wait for more text of a process other than ``without``; return that process."""
    before = len((await question(page))["answer"])

    async def has_grown() -> bool:
        found = await question(page)
        return len(found["answer"]) > before + 8 and found["process"] != without

    await eventually(has_grown, ANSWER_S, "more text")
    found = await question(page)
    assert not found.get("isDone"), "the answer was complete before anything happened to it"
    process: int = found["process"]
    return process


async def assert_whole(page: Page) -> None:
    async def is_done() -> bool:
        return bool((await question(page)).get("isDone"))

    await eventually(is_done, ANSWER_S, "the end of the answer")
    assert (await question(page))["answer"] == WHOLE
    assert await page.locator("article").all_inner_texts() == [f"why?\n\n{WHOLE}\n\ncomplete"]


@pytest.mark.timeout(240)
async def test_answer_is_whole_although_its_replicas_are_killed_and_the_page_is_reloaded(
    redis_url: str, namespace: str, browser: Browser
) -> None:
    registry = {"WS_REDIS_URL": redis_url, "WS_NAMESPACE": namespace, "TOKENS_PER_SECOND": "10"}
    with running_example("stream.app", "--workers", "2", environment=registry) as (_, url):
        page = await ask(browser, url)
        process = await grows(page)
        os.kill(process, signal.SIGKILL)
        process = await grows(page, without=process)
        await page.reload()
        assert await grows(page) == process
        os.kill(process, signal.SIGKILL)
        await grows(page, without=process)
        await assert_whole(page)


async def test_answer_in_memory_is_whole_although_the_page_is_reloaded(browser: Browser) -> None:
    with running_example("stream.app", environment={"TOKENS_PER_SECOND": "20"}) as (_, url):
        page = await ask(browser, url)
        process = await grows(page)
        for _ in range(3):
            await page.reload()
            assert await grows(page) == process
        await assert_whole(page)
