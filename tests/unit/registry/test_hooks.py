"""Hooks: called in order, awaited, and harmless when they fail."""

import asyncio
import logging
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_websocket_stabilizer import ConfigurationError, Connection, WebSocketConnectionManager
from fastapi_websocket_stabilizer.local.lifecycle import Ended
from fastapi_websocket_stabilizer.models import PresenceEvent
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.registry.hooks import Failures, HookDecorators, Hooks, name_of
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from tests.unit.fakes import Clock, connect, turns


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
    assert "fail" in record.getMessage()


async def test_line_about_a_failing_hook_names_it_its_client_and_the_error(
    hooks: Hooks, caplog: pytest.LogCaptureFixture
) -> None:
    def chat(connection: Connection, message: str) -> None:
        raise ValueError("no such room")

    await hooks.call(chat, connect("ann"), "hello")
    words = ("chat", "'ann'", "ValueError('no such room')")
    assert [word for word in words if word not in caplog.messages[0]] == []


async def test_hook_that_fails_again_and_again_is_logged_once_a_minute_and_counted(
    hooks: Hooks, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    for _ in range(50):
        await hooks.call(fail_at_once)
    await hooks.call(lambda: [].pop())
    assert (len(caplog.records), counters.hooks_failed) == (2, 51)
    clock.advance(Failures.EVERY_S)
    await hooks.call(fail_at_once)
    assert "49 more times" in caplog.messages[-1]


async def test_failures_that_are_remembered_are_bounded(hooks: Hooks) -> None:
    failures = Failures(logging.getLogger("failures"))
    for number in range(2 * Failures.MAX_KINDS):
        failures.log(f"hook {number}", None, ValueError("no"))
        assert len(failures._kinds) <= Failures.MAX_KINDS


async def test_on_error_is_called_with_the_connection_the_name_and_the_error(hooks: Hooks) -> None:
    seen: list[Any] = []

    def fail_too(*arguments: Any) -> None:
        raise ValueError("too")

    hooks.on_error += [fail_too, lambda *arguments: seen.append(arguments)]
    ann, event = connect("ann"), object()

    def chat(subject: object) -> None:
        raise ValueError("no")

    await hooks.call(chat, ann)
    await hooks.call(chat, event)
    assert [(connection, name, repr(error)) for connection, name, error in seen] == [
        (ann, name_of(chat), "ValueError('no')"),
        (None, name_of(chat), "ValueError('no')"),
    ]


async def test_hook_whose_parameters_do_not_fit_is_refused_when_it_is_given(hooks: Hooks) -> None:
    decorators = HookDecorators(hooks)

    def wrong(connection: Connection) -> None: ...

    for event in ("on_message", "on_disconnect", "on_error"):
        with pytest.raises(ConfigurationError) as caught:
            getattr(decorators, event)(wrong)
        said = str(caught.value)
        assert f"the {event} hook must be a function of (connection, " in said
        assert f"got {name_of(wrong)}: too many positional arguments" in said
    with pytest.raises(ConfigurationError, match=r"on_connect .* got None"):
        decorators.on_connect(None)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(ConfigurationError, match="on_message hook"):
        WebSocketConnectionManager().websocket(FastAPI(), "/ws", on_message=wrong)  # type: ignore[arg-type]  # the same


async def test_hooks_that_take_more_than_they_are_given_may_have_defaults(hooks: Hooks) -> None:
    def chat(connection: Connection, message: str | bytes, room: str = "lobby") -> None: ...

    assert HookDecorators(hooks).on_message(chat) is chat
    assert HookDecorators(hooks).on_connect(print) is print


async def test_line_of_a_failed_hook_carries_its_client(
    hooks: Hooks, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: PresenceEvent) -> None:
        raise ValueError("at once")

    node = NodeId("n1")
    await hooks.call(fail, PresenceEvent("1", "joined", "ann", ConnectionId("n1.1"), None, node))
    assert "for client 'ann'" in caplog.messages[0]


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
