"""Hooks: called in order, awaited, and harmless when they fail."""

import asyncio
import logging
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_websocket_stabilizer import ConfigurationError, Connection, WebSocketConnectionManager
from fastapi_websocket_stabilizer.models import CloseCause, PresenceEvent
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.registry.hooks import (
    Failures,
    HookDecorators,
    Hooks,
    Receiver,
    Responder,
    name_of,
)
from fastapi_websocket_stabilizer.registry.schemas import UnfitError
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.testing import FakeWebSocket
from fastapi_websocket_stabilizer.wire.client_frames import Fault
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
    connection.end(CloseCause.RELEASED)
    await hooks.call(lambda held: held.send("too late"), connection)
    assert counters.hooks_failed == 0
    other = connect("other")
    await hooks.call(lambda _: connection.send("to somebody else who left"), other)
    assert counters.hooks_failed == 1


# Messages in the type of their handler


class Say(BaseModel):
    text: str


async def test_function_that_takes_any_message_is_called_without_anything_in_between(hooks: Hooks) -> None:
    def chat(connection: Connection, message: str | bytes) -> None: ...

    def anything(connection, message): ...  # type: ignore[no-untyped-def]  # one that takes anything

    assert Receiver(hooks, chat).for_plain_sockets is chat
    assert Receiver(hooks, anything).for_plain_sockets is anything


@pytest.mark.parametrize("is_async", [False, True])
async def test_typed_message_of_a_plain_socket_is_validated(
    hooks: Hooks, counters: Counters, caplog: pytest.LogCaptureFixture, is_async: bool
) -> None:
    said: list[Say] = []

    def chat(connection: Connection, message: Say) -> None:
        said.append(message)

    async def chat_later(connection: Connection, message: Say) -> None:
        await asyncio.sleep(0)
        said.append(message)

    receive = Receiver(hooks, chat_later if is_async else chat).for_plain_sockets
    ann = connect("ann")
    for message in ('{"text":"one"}', '{"text":3}', "hunter2", b'{"text":"one"}', '{"text":"two"}'):
        await hooks.call(receive, ann, message)
    assert (said, counters.messages_unfit, counters.hooks_failed) == (
        [Say(text="one"), Say(text="two")],
        3,
        0,
    )
    [line] = caplog.messages  # of three within a minute
    assert "chat" in line
    assert "text: string_type" in line
    assert "hunter2" not in line


async def test_failure_of_a_typed_handler_is_one_of_the_function(hooks: Hooks, counters: Counters) -> None:
    seen: list[str] = []
    hooks.on_error.append(lambda connection, name, error: seen.append(name))

    def chat(connection: Connection, message: Say) -> None:
        raise ValueError("no")

    await hooks.call(Receiver(hooks, chat).for_plain_sockets, connect("ann"), '{"text":"one"}')
    assert (seen, counters.hooks_failed, counters.messages_unfit) == ([name_of(chat)], 1, 0)


async def test_decoded_message_is_handled_or_has_a_fault(hooks: Hooks, counters: Counters) -> None:
    said: list[Say] = []

    def chat(connection: Connection, message: Say) -> None:
        if message.text == "fail":
            raise ValueError("hunter2")
        said.append(message)

    receiver, ann = Receiver(hooks, chat), connect("ann")
    assert await receiver.receive(ann, {"text": "one"}) is None
    assert await receiver.receive(ann, {"text": 3}) == Fault("invalid", "text: string_type")
    fault = await receiver.receive(ann, {"text": "fail"})
    assert fault is not None
    assert (fault.code, fault.is_temporary, "hunter2" in fault.message) == ("failed", False, False)
    assert (said, counters.messages_unfit, counters.hooks_failed) == ([Say(text="one")], 1, 1)


async def test_function_that_takes_any_message_gets_decoded_json_as_text(hooks: Hooks) -> None:
    said: list[Any] = []

    def chat(connection: Connection, message: str | bytes) -> None:
        said.append(message)

    for data in ("hello", b"\x00", {"a": [1, None]}, None):
        assert await Receiver(hooks, chat).receive(connect("ann"), data) is None
    assert said == ["hello", b"\x00", '{"a":[1,null]}', "null"]


async def test_cancelled_handler_of_a_typed_message_is_cancelled(hooks: Hooks, counters: Counters) -> None:
    began = asyncio.Event()

    async def chat(connection: Connection, message: Say) -> None:
        began.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Receiver(hooks, chat).receive(connect("ann"), {"text": "one"}))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counters.hooks_failed == 0


async def test_handler_with_an_annotation_that_cannot_be_used_is_refused_when_it_is_given(
    hooks: Hooks,
) -> None:
    class Opaque: ...

    def chat(connection: Connection, message: Opaque) -> None: ...

    manager = WebSocketConnectionManager()
    for give in (
        lambda: manager.on_message(chat),
        lambda: manager.websocket(FastAPI(), "/ws", on_message=chat),
    ):
        with pytest.raises(ConfigurationError, match=r"on_message: .*'message' of .*chat"):
            give()
    with pytest.raises(ConfigurationError, match=r"on_message: .*'message' of .*chat"):
        await manager.serve(FakeWebSocket(), "ann", on_message=chat)


# Requests and joins of clients


async def test_name_of_a_request_has_one_function(hooks: Hooks) -> None:
    decorators = HookDecorators(hooks)

    async def rename(connection: Connection, data: Say) -> Say:
        return data

    assert decorators.on_request("rename")(rename) is rename
    with pytest.raises(ConfigurationError, match=r"on_request\('rename'\) has a function already: .*rename"):
        decorators.on_request("rename")(rename)
    assert decorators.on_request("other")(rename) is rename


@pytest.mark.parametrize("name", ["", "x" * 129, None, 7, print])
async def test_name_of_a_request_is_a_text_of_bounded_length(hooks: Hooks, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name of 1 to 128 characters"):
        HookDecorators(hooks).on_request(name)


async def test_function_for_requests_is_checked_when_it_is_given(hooks: Hooks) -> None:
    class Opaque: ...

    def alone(connection: Connection) -> None: ...
    def opaque(connection: Connection, data: Opaque) -> None: ...
    def opaque_result(connection: Connection, data: Any) -> Opaque:
        return Opaque()

    cases: list[tuple[Any, str]] = [
        (alone, "connection, data"),
        (opaque, "'data'"),
        (opaque_result, "'return'"),
    ]
    for function, words in cases:
        with pytest.raises(ConfigurationError, match=f"on_request.*{words}"):
            HookDecorators(hooks).on_request("x")(function)
    assert hooks.on_request == {}


async def test_one_function_decides_about_joins(hooks: Hooks) -> None:
    decorators = HookDecorators(hooks)

    def may_join(connection: Connection, room: str) -> bool:
        return True

    with pytest.raises(ConfigurationError, match=r"on_join .*connection, room"):
        decorators.on_join(lambda connection: True)  # type: ignore[arg-type, misc]  # what is refused
    assert decorators.on_join(may_join) is may_join
    with pytest.raises(ConfigurationError, match=r"on_join has a function already: .*may_join"):
        decorators.on_join(may_join)


async def test_result_is_what_the_function_names(hooks: Hooks) -> None:
    class Inner(Say):
        secret: str = "hunter2"

    def typed(connection: Connection, data: Say) -> Say:
        return Inner(text=data.text)

    async def untyped(connection, data):  # type: ignore[no-untyped-def]  # one that takes anything
        return [data]

    def several(connection: Connection, data: int) -> list[Say]:
        return [Say(text="a")] * data

    respond = {function: Responder("on_request", function).respond for function in (typed, untyped, several)}
    assert await respond[typed](connect(), {"text": "hi"}) == {"text": "hi"}
    assert await respond[untyped](connect(), 7) == [7]
    assert await respond[several](connect(), 2) == [{"text": "a"}, {"text": "a"}]
    with pytest.raises(UnfitError, match="text: missing"):
        await respond[typed](connect(), {})
