"""Hooks: called in order, awaited, and harmless when they fail."""

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from fastapi_websocket_stabilizer.hooks import Hooks
from fastapi_websocket_stabilizer.local.owner import Ended
from fastapi_websocket_stabilizer.metrics import Counters
from fastapi_websocket_stabilizer.models import PresenceEvent
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from tests.unit.fakes import connect, turns


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


async def test_line_of_a_failed_hook_carries_its_client(
    hooks: Hooks, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: PresenceEvent) -> None:
        raise ValueError("at once")

    node = NodeId("n1")
    await hooks.call(fail, PresenceEvent("1", "joined", "ann", ConnectionId("n1.1"), None, node))
    assert vars(caplog.records[0])["client_id"] == "ann"


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


async def test_cancellation_of_something_that_a_hook_waited_for_is_a_failure(
    hooks: Hooks, counters: Counters
) -> None:
    async def wait_for_what_is_cancelled() -> None:
        other = asyncio.create_task(asyncio.sleep(60))
        other.cancel()
        await other

    called: list[int] = []
    await hooks.run([wait_for_what_is_cancelled, lambda: called.append(1)])
    assert (called, counters.hooks_failed) == ([1], 1)


async def test_cancellation_of_whoever_runs_the_hook_is_not(hooks: Hooks, counters: Counters) -> None:
    task = asyncio.create_task(hooks.call(lambda: asyncio.sleep(60)))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counters.hooks_failed == 0


async def test_hook_that_finds_its_connection_over_has_not_failed(hooks: Hooks, counters: Counters) -> None:
    connection = connect()
    connection.end(Ended.RELEASED)
    await hooks.call(lambda held: held.send("too late"), connection)
    assert counters.hooks_failed == 0
    other = connect("other")
    await hooks.call(lambda _: connection.send("to somebody else who left"), other)
    assert counters.hooks_failed == 1
