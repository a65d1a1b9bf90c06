"""Hooks: called in order, awaited, and harmless when they fail."""

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from fastapi_websocket_stabilizer.hooks import Hooks
from fastapi_websocket_stabilizer.metrics import Counters


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def hooks(counters: Counters) -> Hooks:
    return Hooks(counters, logging.getLogger("hooks"))


async def test_hooks_run_in_order_of_registration_and_are_awaited(hooks: Hooks) -> None:
    called: list[Any] = []

    async def slow(*arguments: Any) -> None:
        await asyncio.sleep(0)
        called.append(("slow", *arguments))

    await hooks.run([slow, lambda *arguments: called.append(("quick", *arguments))], 1, "a")
    assert called == [("slow", 1, "a"), ("quick", 1, "a")]


async def fail_late() -> None:
    await asyncio.sleep(0)
    raise ValueError("late")


def fail_at_once() -> None:
    raise ValueError("at once")


@pytest.mark.parametrize("failing", [fail_late, fail_at_once, partial(fail_at_once)])
async def test_failing_hook_is_logged_and_counted_and_the_next_one_runs(
    hooks: Hooks, counters: Counters, caplog: pytest.LogCaptureFixture, failing: Any
) -> None:
    called: list[int] = []
    await hooks.run([failing, lambda: called.append(1)])
    assert (called, counters.hooks_failed) == ([1], 1)
    [record] = caplog.records
    assert (record.levelname, record.exc_info is not None) == ("ERROR", True)
    assert "fail" in vars(record)["hook"]


async def test_hook_that_is_cancelled_is_cancelled(hooks: Hooks, counters: Counters) -> None:
    began = asyncio.Event()

    async def wait() -> None:
        began.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(hooks.run([wait]))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counters.hooks_failed == 0


async def test_nothing_registered_is_nothing_called(hooks: Hooks) -> None:
    await hooks.run(hooks.on_connect)
    assert (hooks.on_connect, hooks.on_disconnect, hooks.on_presence, hooks.on_message) == ([], [], [], None)
