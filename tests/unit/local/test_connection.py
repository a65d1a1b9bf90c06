"""One socket: in order, at most once, never in the caller's way, ended once."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket

from fastapi_websocket_stabilizer.close_codes import MAX_REASON_BYTES
from fastapi_websocket_stabilizer.exceptions import (
    ConnectionNotFoundError,
    ConnectionTimeoutError,
    MessageError,
    SlowConsumerError,
)
from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.local.lifecycle import Ended
from fastapi_websocket_stabilizer.local.sends import settled
from fastapi_websocket_stabilizer.models import CloseCause
from tests.unit.fakes import Clock, Node, Socket, connect, text, turns


class Asgi(Socket):
    """Hands out events that the test puts in ``events``, as a Starlette WebSocket's ``receive`` does."""

    def __init__(self, *events: dict[str, Any]) -> None:
        super().__init__()
        self.events = iter(events)

    async def receive(self) -> dict[str, Any]:
        return next(self.events)


def said(message: str | bytes) -> dict[str, Any]:
    return {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}


GONE = {"type": "websocket.disconnect", "code": 1001}


# Writing


async def test_message_is_written_before_push_returns() -> None:
    socket, node = Socket(), Node()
    sent = connect(socket=socket, node=node).push(text("hi"))
    assert (socket.sent, sent.error, sent.pending, node.counters.messages_sent) == (["hi"], None, None, 1)


async def test_each_form_is_written_by_its_method() -> None:
    socket, node = Socket(), Node()
    connection = connect(socket=socket, node=node)
    for message in ("text", b"binary", {"json": 1}, [1]):
        await connection.send(message)
    assert socket.sent == ["text", b"binary", {"json": 1}, [1]]


async def test_stalled_socket_does_not_hold_push_and_gets_everything_in_order() -> None:
    socket = Socket()
    socket.stall()
    connection = connect(socket=socket)
    outcomes = [connection.push(text(str(number))).pending for number in range(5)]
    assert (socket.sent, connection.writer.is_writing, connection.writer.queued_bytes) == ([], True, 4)
    socket.may_send.set()
    assert await connection.writer.drained() is None
    assert socket.sent == ["0", "1", "2", "3", "4"]
    assert [outcome.result(0) for outcome in outcomes if outcome] == [None] * 5


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["push", "stall", "go", "turn"]), max_size=40))
async def test_every_message_is_written_once_and_in_order(actions: list[str]) -> None:
    socket, pushed = Socket(), list[str]()
    connection = connect(socket=socket, node=Node(max_concurrent_broadcast=1))
    for number, action in enumerate(actions):
        if action == "push":
            pushed.append(str(number))
            connection.push(text(pushed[-1]))
        elif action == "turn":
            await turns(1)
        else:
            socket.may_send.set() if action == "go" else socket.stall()
    socket.may_send.set()
    await connection.writer.drained()
    assert socket.sent == pushed


async def test_failed_send_is_an_error_at_once() -> None:
    node = Node()
    connection = connect(socket=Socket(error=RuntimeError("gone")), node=node)
    sent = connection.push(text("hi"))
    assert (sent.error, node.lost_connections) == ("gone", [("alice", Ended.FAILED, "gone")])


async def test_failure_without_words_is_called_by_its_type() -> None:
    assert connect(socket=Socket(error=KeyError())).push(text("hi")).error == "KeyError"


class SyncSocket(Socket):
    def send_text(self, data: str) -> Any:
        raise RuntimeError("gone")


async def test_send_that_raises_at_the_call_is_an_error_too() -> None:
    node = Node()
    sent = connect(socket=SyncSocket(), node=node).push(text("hi"))
    assert (sent.error, node.lost_connections) == ("gone", [("alice", Ended.FAILED, "gone")])


async def test_late_failure_loses_the_connection_and_what_was_queued() -> None:
    socket, node = Socket(error=RuntimeError("gone")), Node()
    socket.stall()
    connection = connect(socket=socket, node=node)
    outcomes = [connection.push(text(message)).pending for message in "ab"]
    socket.may_send.set()
    await turns()
    assert node.lost_connections == [("alice", Ended.FAILED, "gone")]
    assert [outcome.result(0) for outcome in outcomes if outcome] == ["gone", "gone"]
    assert connection.push(text("c")).error == "connection has ended: failed"


async def test_send_over_its_deadline_is_a_slow_consumer() -> None:
    clock, socket, node = Clock(), Socket(), Node(write_timeout_s=2.0)
    socket.stall()
    connection = connect(socket=socket, node=node)
    connection.push(text("hi"))
    await turns()
    clock.advance(1.9)
    await turns()
    assert node.lost_connections == []
    clock.advance(0.2)
    await turns()
    assert [lost[:2] for lost in node.lost_connections] == [("alice", Ended.SLOW)]


async def test_each_send_has_a_deadline_of_its_own() -> None:
    clock, socket, node = Clock(), Socket(), Node(write_timeout_s=2.0)
    connection = connect(socket=socket, node=node)
    socket.stall()
    for number in range(4):
        connection.push(text(str(number)))
    for number in range(1, 5):
        clock.advance(1.5)
        await turns()
        socket.may_send.set()
        await turns(1)
        while len(socket.sent) < number:
            await turns(1)
        socket.stall()
    assert node.lost_connections == []


async def test_message_pushed_while_the_writer_ends_is_not_settled_before_it_was_written() -> None:
    socket = Socket()
    socket.stall()
    connection = connect(socket=socket)
    connection.push(text("a"))

    async def push_then() -> Any:
        await socket.may_send.wait()  # behind the writer: it has just written "a" and has nothing left
        socket.error = RuntimeError("gone")
        return connection.push(text("b")).pending

    pushing = asyncio.create_task(push_then())
    await turns()
    socket.may_send.set()
    pending = await pushing
    await turns()
    assert (socket.sent, pending.result(0)) == (["a"], "gone")


# The outbox


async def test_outbox_over_its_limit_is_a_slow_consumer() -> None:
    socket, node = Socket(), Node(outbox_size=5)
    socket.stall()
    connection = connect(socket=socket, node=node)
    errors = [connection.push(text("xxx")).error for _ in range(3)]
    assert errors == [None, None, "slow consumer: outbox over 5 bytes"]
    assert [lost[:2] for lost in node.lost_connections] == [("alice", Ended.SLOW)]


@pytest.mark.parametrize(
    ("policy", "kept", "error"),
    [("drop_oldest", ["0", "3", "4"], None), ("drop_newest", ["0", "1", "2"], "dropped: outbox is full")],
)
async def test_dropped_messages_are_counted(policy: str, kept: list[str], error: str | None) -> None:
    socket, node = Socket(), Node(outbox_size=2, outbox_policy=policy)
    socket.stall()
    connection = connect(socket=socket, node=node)
    errors = [connection.push(text(str(number))).error for number in range(5)]
    socket.may_send.set()
    await turns()
    assert (socket.sent, node.counters.messages_dropped) == (kept, 2)
    assert errors == [None, None, None, error, error]


class Waiting:
    """A Starlette WebSocket that is not accepted yet."""

    def __init__(self) -> None:
        inbound: asyncio.Queue[AsgiEvent] = asyncio.Queue()
        inbound.put_nowait({"type": "websocket.connect"})
        self.events: list[AsgiEvent] = []
        self.websocket = WebSocket({"type": "websocket"}, inbound.get, self._send)

    async def _send(self, event: AsgiEvent) -> None:
        self.events.append(event)


async def test_messages_wait_until_the_socket_is_accepted() -> None:
    socket = Waiting()
    connection = connect(socket=socket.websocket)
    for number in range(3):
        connection.push(text(str(number)))
    await turns()
    assert (socket.events, connection.is_open) == ([], False)
    await socket.websocket.accept()
    await turns()
    assert [event["type"] for event in socket.events] == ["websocket.accept", *["websocket.send"] * 3]
    assert [event.get("text") for event in socket.events[1:]] == ["0", "1", "2"]
    assert connection.is_open


async def test_connection_that_ends_early_and_is_accepted_before_its_close_gets_what_was_queued() -> None:
    socket = Waiting()
    connection = connect(socket=socket.websocket)
    connection.push(text("last words"))
    connection.end(CloseCause.REPLACED)
    await socket.websocket.accept()
    assert await connection.finish(1000, "reconnected")
    assert [event["type"] for event in socket.events] == [
        "websocket.accept", "websocket.send", "websocket.close",
    ]  # fmt: skip


async def test_connection_that_ends_before_accept_is_denied_at_once_whatever_waits_in_its_outbox() -> None:
    websocket = Waiting().websocket
    connection = connect(socket=websocket)
    connection.push(text("welcome"))
    connection.end(CloseCause.REPLACED)
    assert await asyncio.wait_for(connection.finish(1000, "reconnected"), 1)
    with pytest.raises(HTTPException, match="409: a newer connection of client 'alice' took over"):
        await websocket.accept()


# The gate


async def test_sends_beyond_the_gate_wait_and_keep_their_order() -> None:
    node, first, second = Node(max_concurrent_broadcast=1), Socket(), Socket()
    first.stall()
    holder, waiter = connect("a", first, node), connect("b", second, node)
    holder.push(text("x"))
    for number in range(3):
        waiter.push(text(str(number)))
    await turns()
    assert (second.sent, node.limiter.deferred) == ([], 1)
    first.may_send.set()
    await turns()
    assert (second.sent, node.limiter.is_open()) == (["0", "1", "2"], True)


async def test_connection_that_ends_behind_the_gate_still_gets_what_was_queued() -> None:
    node, first, second = Node(max_concurrent_broadcast=1), Socket(), Socket()
    first.stall()
    connect("a", first, node).push(text("x"))
    waiter = connect("b", second, node)
    waiter.push(text("last words"))
    waiter.end(CloseCause.RELEASED)
    assert await waiter.finish(1000, "bye")
    assert (second.sent, second.closes) == (["last words"], [(1000, "bye")])


# Send, join, leave, close


async def test_send_is_an_error_when_the_message_has_no_encoding() -> None:
    socket = Socket()
    with pytest.raises(MessageError):
        await connect(socket=socket).send(object())  # type: ignore[arg-type]
    assert socket.sent == []


async def test_send_that_fails_says_why() -> None:
    connection = connect(socket=Socket(error=RuntimeError("gone")))
    with pytest.raises(ConnectionNotFoundError, match="failed: gone"):
        await connection.send("hi")


@pytest.mark.parametrize(
    ("cause", "error"),
    [
        (CloseCause.TIMED_OUT, ConnectionTimeoutError),
        (CloseCause.SLOW, SlowConsumerError),
        (CloseCause.RELEASED, ConnectionNotFoundError),
        (CloseCause.REPLACED, ConnectionNotFoundError),
    ],
)
async def test_send_and_join_after_the_end_raise_why(cause: CloseCause, error: type[Exception]) -> None:
    connection = connect()
    connection.end(cause)
    with pytest.raises(error):
        await connection.send("hi")
    with pytest.raises(error):
        await connection.join("x")


async def test_rooms_and_closing_are_the_nodes_business() -> None:
    node = Node()
    connection = connect(node=node)
    await connection.join("x")
    await connection.leave("x")
    await connection.close()
    assert node.room_calls == [("join", "x"), ("leave", "x")]
    assert node.ended == [("alice", CloseCause.RELEASED, 1000, "normal closure")]


async def test_connection_shows_who_it_is() -> None:
    connection = connect("alice")
    assert repr(connection) == f"<Connection {connection.connection_id} client_id='alice'>"


# Iterating


async def test_iteration_yields_what_the_client_says_until_it_is_gone() -> None:
    socket = Asgi(said("a"), said("pong"), said(b"b"), said(""), {"type": "websocket.receive"}, GONE)
    assert [message async for message in connect(socket=socket)] == ["a", "pong", b"b", "", b""]


async def test_answer_to_a_json_ping_is_not_yielded() -> None:
    socket = Asgi(said("pong"), said("a"), said("pong"), GONE)
    connection = connect(socket=socket)
    messages = aiter(connection)
    assert await anext(messages) == "pong"
    connection.ask(text("ping"))
    assert ([message async for message in messages], socket.sent) == (["a"], ["ping"])


async def test_iteration_ends_when_the_connection_was_ended() -> None:
    connection = connect(socket=Asgi(said("a"), said("b")))
    heard = []
    async for message in connection:
        heard.append(message)
        connection.end(CloseCause.REPLACED)
    assert heard == ["a"]


async def test_inbound_message_is_life_and_use() -> None:
    clock = Clock()
    connection = connect()
    clock.advance(40.0)
    connection.received(5, is_text=True)
    assert connection.used_at_s - connection.opened_at_s >= 40.0
    assert connection.heartbeat.poll(clock.now(), 30.0, 60.0).value == "wait"


async def test_message_over_the_limit_is_counted_and_ends_the_connection() -> None:
    node = Node()
    await connect(node=node).too_large(11, 10)
    assert (node.counters.messages_too_large, node.ended) == (
        1,
        [("alice", CloseCause.TOO_LARGE, 1009, "11 bytes, the limit is 10")],
    )


async def test_word_of_the_peer_that_it_left_is_kept() -> None:
    connection = connect()
    connection.hung_up(1001, "away")
    assert connection.closed_with == (1001, "away")


# Ending


async def test_finish_writes_what_is_queued_and_then_closes() -> None:
    socket = Socket()
    socket.stall()
    connection = connect(socket=socket)
    for message in "ab":
        connection.push(text(message))
    connection.end(CloseCause.RELEASED)
    closing = asyncio.create_task(connection.finish(1001, "bye"))
    await turns()
    assert socket.closes == []
    socket.may_send.set()
    assert await closing
    assert (socket.sent, socket.closes) == (["a", "b"], [(1001, "bye")])


@pytest.mark.parametrize("cause", [CloseCause.WRITE_FAILED, CloseCause.SLOW])
async def test_finish_of_a_socket_that_failed_writes_nothing_more(cause: CloseCause) -> None:
    socket = Socket()
    socket.stall()
    connection = connect(socket=socket)
    for message in "ab":
        connection.push(text(message))
    connection.end(cause)
    assert await connection.finish(4008, "slow consumer")
    socket.may_send.set()
    await turns()
    assert (socket.sent, socket.closes) == ([], [(4008, "slow consumer")])


@pytest.mark.parametrize("stalls", ["send", "close"])
async def test_finish_gives_up_at_its_deadline(stalls: str) -> None:
    clock, socket, node = Clock(), Socket(), Node(close_timeout_s=2.0, write_timeout_s=60.0)
    (socket.may_send if stalls == "send" else socket.may_close).clear()
    connection = connect(socket=socket, node=node)
    connection.push(text("a"))
    connection.push(text("b"))
    connection.end(CloseCause.RELEASED)
    closing = asyncio.create_task(connection.finish(1000, "bye"))
    await turns()
    clock.advance(2.1)
    assert await closing is False
    await turns()
    assert (socket.closes, connection.writer.is_writing) == ([], False)


async def test_finish_of_a_socket_that_cannot_be_closed_is_quiet() -> None:
    class Unclosable(Socket):
        async def close(self, code: int = 1000, reason: str = "") -> None:
            raise RuntimeError("already closed")

    assert await connect(socket=Unclosable()).finish(1000, "bye") is False


@pytest.mark.parametrize("reason", ["x" * 200, "é" * 100, "😀" * 40])
async def test_reason_is_cut_to_what_a_close_frame_holds(reason: str) -> None:
    socket = Socket()
    assert await connect(socket=socket).finish(1000, reason)
    [(_, written)] = socket.closes
    assert MAX_REASON_BYTES - 3 <= len(written.encode()) <= MAX_REASON_BYTES
    assert reason.startswith(written)


@pytest.mark.parametrize("reason", ["\ud800", None])
async def test_reason_that_has_no_bytes_does_not_keep_the_socket_open(reason: Any) -> None:
    socket = Socket()
    await connect(socket=socket).finish(1000, reason)
    assert [code for code, _ in socket.closes] == [1000]


async def test_message_that_closing_dropped_was_not_written() -> None:
    """``confirm`` relies on it: what never reached the socket must not be confirmed."""
    clock, socket, node = Clock(), Socket(), Node(close_timeout_s=2.0, write_timeout_s=60.0)
    socket.stall()
    connection = connect(socket=socket, node=node)
    connection.push(text("a"))
    written = asyncio.create_task(connection.writer.drained())
    await turns()
    connection.end(CloseCause.RELEASED)
    closing = asyncio.create_task(connection.finish(1000, "bye"))
    await turns()
    clock.advance(2.1)
    await closing
    assert (socket.sent, await written is not None) == ([], True)


async def test_let_go_leaves_the_socket_open_and_writes_nothing_more() -> None:
    socket = Socket()
    socket.stall()
    connection = connect(socket=socket)
    connection.push(text("a"))
    connection.end(CloseCause.RELEASED)
    connection.let_go()
    socket.may_send.set()
    await turns()
    assert (socket.sent, socket.closes, connection.writer.is_writing) == ([], [], False)


async def test_cancelled_writer_gives_its_place_in_the_gate_back() -> None:
    node, socket = Node(max_concurrent_broadcast=1), Socket()
    socket.stall()
    connection = connect(socket=socket, node=node)
    connection.push(text("a"))
    connection.end(CloseCause.RELEASED)
    connection.let_go()
    await turns()
    assert node.limiter.is_open()


async def test_drained_tells_that_nothing_is_left_or_why_it_never_will() -> None:
    connection = connect()
    assert await connection.writer.drained() is None
    connection.end(CloseCause.EVICTED)
    assert await connection.writer.drained() == "connection has ended: evicted"


# From other event loops


class OtherLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    async def make(self, socket: Socket, node: Node) -> Connection:
        async def make() -> Connection:
            return connect(socket=socket, node=node)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), self.loop))

    def stop(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()


@pytest.fixture
def other() -> Iterator[OtherLoop]:
    other = OtherLoop()
    yield other
    other.stop()


async def test_message_from_another_loop_is_written_on_the_sockets_own(other: OtherLoop) -> None:
    socket = Socket()
    connection = await other.make(socket, Node())
    await connection.send("hi")
    assert socket.sent == ["hi"]


async def test_failure_on_another_loop_comes_back(other: OtherLoop) -> None:
    connection = await other.make(Socket(error=RuntimeError("gone")), Node())
    assert await connection.settled(connection.push(text("hi"))) == "gone"


async def test_send_that_waits_on_another_loop_is_pending_until_it_was_written(other: OtherLoop) -> None:
    socket = Socket()
    socket.stall()
    connection = await other.make(socket, Node())
    pending = connection.writer.hand_over(text("hi")).pending
    assert pending is not None
    assert not pending.done()
    other.loop.call_soon_threadsafe(socket.may_send.set)
    assert await asyncio.wrap_future(pending) is None


async def test_gate_that_opens_on_one_loop_wakes_a_socket_of_another(other: OtherLoop) -> None:
    node, here, there = Node(max_concurrent_broadcast=1), Socket(), Socket()
    here.stall()
    connect("a", here, node).push(text("x"))
    waiter = await other.make(there, node)
    pending = waiter.writer.hand_over(text("y")).pending
    while not node.limiter.deferred:
        await turns(1)
    here.may_send.set()
    assert pending is not None
    assert await asyncio.wrap_future(pending) is None
    assert there.sent == ["y"]


async def test_socket_whose_loop_is_closed_has_failed(other: OtherLoop) -> None:
    node = Node()
    connection = await other.make(Socket(), node)
    other.stop()
    assert await connection.settled(connection.push(text("hi"))) == "its event loop is closed"
    assert node.lost_connections == [("alice", Ended.FAILED, "its event loop is closed")]


async def test_pending_word_that_does_not_come_is_an_error() -> None:
    clock, node, socket = Clock(), Node(write_timeout_s=2.0, close_timeout_s=2.0), Socket()
    socket.stall()
    pending = connect(socket=socket).push(text("hi")).pending
    assert pending is not None
    waiting = asyncio.create_task(settled(pending, node.limits()))
    await turns(2)
    clock.advance(4.1)
    assert await waiting == "no confirmation within 2 s"
