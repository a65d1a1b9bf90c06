"""The demo's page: what people see of the registry in a real browser, also while replicas are killed."""

import re
import tomllib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Locator, expect

from tests.integration.demo_support import Demo, Tab, running_browser, running_demo
from tests.support.waiting import eventually

# One browser and one demo for all tests: starting both takes a second of two cores.
pytestmark = pytest.mark.asyncio(loop_scope="module")

# The lease lasts 3 s, a tab comes back after 5 to 8 s, its replica after 9 s and a start; two slow cores.
VANISH_MS = 6_000
RETURN_MS = 15_000
RESTART_MS = 30_000
expect.set_options(timeout=20_000)  # for what takes milliseconds on an idle machine

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def only_demo() -> Iterator[Demo]:
    with running_demo() as demo:
        yield demo


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def demo(only_demo: Demo, browser: Browser) -> AsyncIterator[Demo]:
    """The demo with all replicas alive and without clients."""
    yield only_demo
    for context in browser.contexts:
        await context.close()
    await eventually(only_demo.is_as_new, RESTART_MS / 1000, "replicas without clients")


async def test_two_tabs_on_two_replicas_see_and_hear_each_other(demo: Demo, browser: Browser) -> None:
    ada = await Tab.open(browser, demo.urls[0], "Ada")
    grace = await Tab.open(browser, demo.urls[1], "Grace")
    for tab in (ada, grace):
        await expect(tab.person("Ada", "replica-1")).to_be_visible()
        await expect(tab.person("Grace", "replica-2")).to_be_visible()

    await ada.say("hello <b>all</b>")
    await expect(grace.messages).to_have_count(1)
    await expect(grace.messages.last).to_contain_text("hello <b>all</b>")
    await expect(ada.messages.last).to_contain_text("hello <b>all</b>")

    await grace.say("only you", to="Ada")
    await expect(ada.messages.last).to_contain_text("to you")
    await expect(ada.messages.last).to_contain_text("only you")
    await expect(grace.messages.last).to_contain_text("to Ada")


async def test_admin_page_beside_the_chat_shows_all_replicas(demo: Demo, browser: Browser) -> None:
    ada = await Tab.open(browser, demo.urls[0], "Ada")
    await Tab.open(browser, demo.urls[1], "Grace")
    await expect(ada.person("Grace", "replica-2")).to_be_visible()
    async with ada.page.context.expect_page() as opened:
        await ada.page.get_by_role("link", name="admin page").click()
    admin = await opened.value
    tiles = admin.locator(".tile")
    await expect(tiles.filter(has_text="Ready nodes").locator("b")).to_have_text("3")
    await expect(tiles.filter(has_text="Connections").locator("b")).to_have_text("2")


async def test_only_who_is_in_a_room_hears_it(demo: Demo, browser: Browser) -> None:
    ada = await Tab.open(browser, demo.urls[0], "Ada")
    grace = await Tab.open(browser, demo.urls[1], "Grace")
    alan = await Tab.open(browser, demo.urls[2], "Alan")
    for tab in (ada, grace):
        await tab.toggle_room("chess")
    await expect(alan.page.get_by_role("button", name="#chess 2")).to_be_visible()

    await ada.say("e4", to="#chess")
    await ada.say("who else plays?")
    await expect(grace.messages).to_have_text(["Adareplica-1#chesse4", "Adareplica-1who else plays?"])
    await expect(alan.messages).to_have_text(["Adareplica-1who else plays?"])

    await grace.toggle_room("chess")
    await expect(alan.page.get_by_role("button", name="#chess 1")).to_be_visible()
    await ada.say("e5", to="#chess")
    await expect(ada.messages.last).to_contain_text("e5")
    await ada.say("over")
    await expect(grace.messages.last).to_contain_text("over")
    assert "e5" not in "".join(await grace.messages.all_inner_texts())


async def test_a_tab_moves_to_another_replica_and_stays_the_same_client(demo: Demo, browser: Browser) -> None:
    ada = await Tab.open(browser, demo.urls[0], "Ada")
    client_id = await ada.client_id("Ada")
    await ada.replica("replica-3").get_by_role("button", name="Move here").click()
    await expect(ada.person("Ada", "replica-3")).to_be_visible()
    await expect(ada.person("Ada")).to_have_count(1)
    assert await ada.client_id("Ada") == client_id
    await ada.page.reload()
    await expect(ada.person("Ada", "replica-1")).to_be_visible()
    assert await ada.client_id("Ada") == client_id


async def test_people_of_a_killed_replica_vanish_and_come_back_with_their_tokens(
    demo: Demo, browser: Browser
) -> None:
    restarts = demo.process.output.count("replica-2 is back")
    ada = await Tab.open(browser, demo.urls[0], "Ada")
    grace = await Tab.open(browser, demo.urls[1], "Grace")
    await expect(ada.person("Grace", "replica-2")).to_be_visible()
    client_id = await ada.client_id("Grace")

    await ada.kill("replica-2")
    await expect(ada.person("Grace")).to_have_count(0, timeout=VANISH_MS)
    await expect(ada.person("Grace")).to_have_count(1, timeout=RETURN_MS)
    await expect(ada.person("Grace", "replica-2")).to_have_count(0)
    assert await ada.client_id("Grace") == client_id
    await expect(grace.events.get_by_text("Grace is back on replica-")).to_be_visible()
    await expect(ada.events.get_by_text("Grace left")).to_be_visible()

    await ada.say("welcome back", to="Grace")
    await expect(grace.messages.last).to_contain_text("welcome back")
    await expect(ada.replica("replica-2").get_by_text("alive")).to_be_visible(timeout=RESTART_MS)
    await eventually(lambda: demo.process.output.count("replica-2 is back") == restarts + 1)


async def test_each_newcomer_is_logged_once_in_every_tab(demo: Demo, browser: Browser) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora")
    olaf = await Tab.open(browser, demo.urls[1], "Olaf")
    await expect(nora.person("Olaf")).to_be_visible()
    for _ in range(3):
        await nora.invite()
    for tab in (nora, olaf):
        await expect(tab.people).to_have_count(20)
    guests = set(await nora.people.all_inner_texts()) - {"Nora", "Olaf"}
    for tab in (nora, olaf):
        await expect(tab.events).to_have_count(1 + (tab is nora) + len(guests))
        for guest in guests:
            await expect(tab.events.filter(has_text=f"{guest} joined on replica-")).to_have_count(1)


def arrivals(tab: Tab, name: str) -> Locator:
    """Return the lines that say that a person has come.

    If an attempt redeems the token and then breaks, as on a busy machine, the person comes back as a new client.
    """
    return tab.events.get_by_text(re.compile(rf"{name} (joined|is back) on replica-"))


async def test_each_leave_is_logged_once_in_a_tab_with_guests(demo: Demo, browser: Browser) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora")
    olaf = await Tab.open(browser, demo.urls[1], "Olaf")
    await nora.invite()
    await expect(olaf.people).to_have_count(8)
    await expect(nora.people).to_have_count(8)
    victims = await nora.people_on("replica-1").all_inner_texts()
    assert len(victims) == 3
    before = {
        (tab, victim): await arrivals(tab, victim).count() for tab in (nora, olaf) for victim in victims
    }

    await nora.kill("replica-1")
    for tab in (nora, olaf):
        await expect(tab.people).to_have_count(5, timeout=VANISH_MS)
    for tab in (nora, olaf):
        await expect(tab.people).to_have_count(8, timeout=RETURN_MS)
        for victim in victims:
            await expect(tab.events.get_by_text(f"{victim} left")).to_have_count(1)
            await expect(arrivals(tab, victim)).to_have_count(before[tab, victim] + 1)


async def test_a_rename_is_logged_as_a_rename_in_every_tab(demo: Demo, browser: Browser) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora")
    olaf = await Tab.open(browser, demo.urls[1], "Olaf")
    await expect(nora.person("Olaf")).to_be_visible()
    client_id = await olaf.client_id("Nora")

    await nora.rename("Nina")
    for tab in (nora, olaf):
        await expect(tab.person("Nina", "replica-1")).to_be_visible()
        await expect(tab.person("Nora")).to_have_count(0)
        await expect(tab.events.last).to_contain_text("Nora is now called Nina")
    assert await olaf.client_id("Nina") == client_id


async def test_a_move_and_a_change_of_rooms_are_logged_in_every_tab(demo: Demo, browser: Browser) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora")
    olaf = await Tab.open(browser, demo.urls[1], "Olaf")
    await expect(nora.person("Olaf")).to_be_visible()
    await nora.replica("replica-3").get_by_role("button", name="Move here").click()
    await expect(olaf.events.last).to_contain_text("Nora is now on replica-3")
    await nora.toggle_room("chess")
    await expect(olaf.events.last).to_contain_text("Nora entered #chess")
    await nora.toggle_room("chess")
    await expect(olaf.events.last).to_contain_text("Nora left #chess")
    for event in ("is now on replica-3", "entered #chess", "left #chess"):
        await expect(nora.events.get_by_text(f"Nora {event}")).to_have_count(1)


async def test_the_notice_of_a_lost_replica_counts_down_and_covers_nothing(
    demo: Demo, browser: Browser
) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora")
    await nora.kill("replica-1")
    await expect(nora.notice).to_contain_text("replica-1 is gone. Your token brings you back on replica-")
    for other in ("#seat", "#invite", "#replicas", "#messages", "#composer", "#log"):
        assert not await overlap(nora.notice, nora.page.locator(other)), other

    seconds = int(re.findall(r"in (\d+)\s*s", await nora.notice.inner_text())[0])
    await expect(nora.notice).to_contain_text(re.compile(rf"in [0-{seconds - 1}]\s*s"), timeout=3_000)
    await nora.page.get_by_role("button", name="Come back now").click()
    await expect(nora.notice).to_be_hidden()
    await expect(nora.events.get_by_text("Nora is back on replica-")).to_be_visible()


async def overlap(one: Locator, other: Locator) -> bool:
    """Return whether two elements share a pixel."""
    first, second = await one.bounding_box(), await other.bounding_box()
    assert first is not None
    assert second is not None
    return (
        first["x"] < second["x"] + second["width"]
        and second["x"] < first["x"] + first["width"]
        and first["y"] < second["y"] + second["height"]
        and second["y"] < first["y"] + first["height"]
    )


async def test_a_tab_whose_replicas_are_all_killed_shows_what_it_knows(demo: Demo, browser: Browser) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora")
    olaf = await Tab.open(browser, demo.urls[1], "Olaf")
    await expect(nora.person("Olaf")).to_be_visible()
    await expect(nora.page.get_by_role("button", name="#tea 2")).to_be_visible()
    nodes = [text.removeprefix("node ") for text in await nora.page.locator(".node").all_inner_texts()]
    for replica in ("replica-2", "replica-3", "replica-1"):
        await nora.kill(replica)

    await expect(nora.notice).to_contain_text("No replica is alive.")
    await expect(nora.notice).not_to_contain_text("replica-")
    await expect(nora.page.get_by_text("dead, restarts soon")).to_have_count(3, timeout=VANISH_MS)
    await expect(nora.page.get_by_role("button", name="#tea", exact=True)).to_be_visible()

    for tab in (nora, olaf):
        await expect(tab.notice).to_be_hidden(timeout=RESTART_MS)
        await expect(tab.page.get_by_text("alive", exact=True)).to_have_count(3, timeout=RESTART_MS)
    # Every leave is reported once the dead nodes' indexes are gone, and a message follows what was reported.
    await eventually(lambda: not any(node in key for node in nodes for key in demo.stored_keys()), 15.0)
    await olaf.say("all swept")
    for tab in (nora, olaf):
        await expect(tab.messages.last).to_contain_text("all swept")
        await expect(tab.events.filter(has_text="left #")).to_have_count(0)
        for name in ("Nora", "Olaf"):
            await expect(tab.person(name)).to_have_count(1)
            last = tab.events.filter(has_text=f"{name} ").last
            await expect(last).to_contain_text(re.compile(f"{name} is (back|now) on replica-"))


async def test_a_dead_replica_is_probed_less_often_than_once_in_three_seconds(
    demo: Demo, browser: Browser
) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora")
    olaf = await Tab.open(browser, demo.urls[1], "Olaf")
    await expect(nora.person("Olaf")).to_be_visible()
    failures: dict[Tab, list[str]] = {nora: [], olaf: []}
    for tab, texts in failures.items():
        tab.page.on("console", partial(collect_error, texts))
    began_s = monotonic()
    await olaf.kill("replica-3")
    for tab in failures:
        await expect(tab.replica("replica-3").get_by_text("dead, restarts soon")).to_be_visible(
            timeout=VANISH_MS
        )
    for tab in failures:
        await expect(tab.replica("replica-3").get_by_text("alive")).to_be_visible(timeout=RESTART_MS)
    for texts in failures.values():
        assert len(texts) <= 1 + (monotonic() - began_s) / 3, texts


def collect_error(texts: list[str], message: ConsoleMessage) -> None:
    if message.type == "error":
        texts.append(message.text)


async def test_the_whole_demo_fits_a_laptops_screen(demo: Demo, browser: Browser) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora", width=1280, height=800)
    await nora.invite()
    await expect(nora.people).to_have_count(7)
    await expect_on_screen(nora)


async def test_the_whole_demo_fits_a_phones_screen(demo: Demo, browser: Browser) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora", width=390, height=844)
    await nora.invite()
    await expect(nora.people).to_have_count(7)
    await expect_on_screen(nora)
    assert await nora.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def expect_on_screen(tab: Tab) -> None:
    for button in await tab.page.get_by_role("button", name="kill -9").all():
        await expect(button).to_be_in_viewport(ratio=1)
    for part in ("#messages", "#composer", "#log"):
        await expect(tab.page.locator(part)).to_be_in_viewport(ratio=1)
    await expect(tab.events.last).to_be_in_viewport(ratio=0.9)  # scrolled to whole pixels


async def test_the_labels_of_buttons_are_in_their_middle(demo: Demo, browser: Browser) -> None:
    measure = """button => {
      const range = document.createRange();
      range.selectNodeContents(button);
      const [text, box] = [range, button].map(each => each.getBoundingClientRect());
      return Math.abs((text.top + text.bottom) - (box.top + box.bottom)) / 2;
    }"""
    for width in (390, 1280):
        nora = await Tab.open(browser, demo.urls[0], "Nora", width=width, height=844)
        for button in await nora.page.locator("button:visible").all():
            assert await button.evaluate(measure) < 0.25, await button.inner_text()
        await nora.page.close()


async def test_the_page_names_the_library_and_links_to_its_home(demo: Demo, browser: Browser) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora")
    about = nora.page.get_by_text("fastapi-websocket-stabilizer is a distributed connection registry")
    await expect(about).to_be_in_viewport(ratio=1)
    link = nora.page.get_by_role("link", name="fastapi-websocket-stabilizer")
    await expect(link).to_have_attribute("href", PROJECT["urls"]["Homepage"])


async def test_the_page_connects_with_the_client_that_its_replica_serves(
    demo: Demo, browser: Browser
) -> None:
    nora = await Tab.open(browser, demo.urls[0], "Nora")
    assert 'import { connect } from "/stabilizer/client.js";' in await nora.page.content()
    assert "new WebSocket" not in await nora.page.content()
    loaded = await nora.page.evaluate(
        "performance.getEntriesByType('resource').map(({ name }) => new URL(name).pathname)"
    )
    assert "/stabilizer/client.js" in loaded
