"""A connection on a native socket: frames go straight out, a slow peer has an outbox, and parking leaves ASGI."""

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocket

from fastapi_websocket_stabilizer.local.lifecycle import Ended
from fastapi_websocket_stabilizer.local.native import NativeTransport, open_transport
from fastapi_websocket_stabilizer.models import CloseCause
from fastapi_websocket_stabilizer.wire.frames import COMPRESS_FROM_BYTES
from tests.support.waiting import eventually
from tests.unit.fakes import Clock, Node, text, turns
from tests.unit.native_sockets import FakeNativeSocket, close_frame, connect_native, websocket_on


def frames(*messages: str) -> list[bytes]:
    return [text(message).frame(0) for message in messages]


async def test_message_is_one_frame_on_the_line() -> None:
    native, node = FakeNativeSocket(), Node()
    sent = connect_native(native=native, node=node).push(text("hi"))
    assert (native.writes, sent.error, sent.pending, node.counters.messages_sent) == (
        frames("hi"),
        None,
        None,
        1,
    )


async def test_socket_with_methods_of_its_own_keeps_them() -> None:
    class Own(WebSocket):
        async def send_text(self, data: str) -> None:
            said.append(data)

    said: list[str] = []
    native, plain = FakeNativeSocket(), websocket_on(FakeNativeSocket())
    websocket = Own(
        {**plain.scope, "extensions": {"fastapi_websocket_stabilizer": native}}, plain._receive, plain._send
    )
    websocket.client_state, websocket.application_state = plain.client_state, plain.application_state
    transport = open_transport(websocket, Node().limits)
    await transport.send(text("hi"))
    assert (type(transport), said, native.writes) == (NativeTransport, ["hi"], [])


async def test_paused_line_gets_an_outbox_and_then_everything_in_order() -> None:
    native = FakeNativeSocket()
    connection = connect_native(native=native)
    connection.push(text("1"))
    native.stall()
    connection.push(text("2"))
    connection.push(text("3"))
    await turns()
    assert (native.writes, connection.writer.queued_bytes) == (frames("1"), 2)
    native.read_all()
    await turns()
    connection.push(text("4"))
    assert native.writes == frames("1", "2", "3", "4")


async def test_full_outbox_ends_the_connection() -> None:
    native, node = FakeNativeSocket(), Node(outbox_size=3)
    connection = connect_native(native=native, node=node)
    native.stall()
    sent = [connection.push(text("ab")).error for _ in range(3)]
    assert (sent[0], sent[1]) == (None, "slow consumer: outbox over 3 bytes")
    assert node.lost_connections == [("alice", Ended.SLOW, "outbox over 3 bytes")]
    assert connection.writer.fast_path is None


async def test_send_whose_frame_cannot_be_made_ends_its_connection_only() -> None:
    """zlib refuses the window that the socket has agreed to, at once or behind messages that wait."""
    big = text("x" * COMPRESS_FROM_BYTES)
    for is_paused in (False, True):
        native, node = FakeNativeSocket(window_bits=8), Node()
        connection = connect_native(native=native, node=node)
        if is_paused:
            native.stall()
            assert connection.push(text("1")).error is None
        sent = connection.push(big)
        assert (sent.error is None) is is_paused
        native.read_all()
        await turns()
        assert native.writes == (frames("1") if is_paused else [])
        assert node.lost_connections == [("alice", Ended.FAILED, "Invalid initialization option")]


async def test_peer_that_takes_nothing_is_given_up() -> None:
    native, node = FakeNativeSocket(), Node(write_timeout_s=0.01)
    connection = connect_native(native=native, node=node)
    native.stall()
    await eventually(lambda: connection.ended is not None)
    assert [why for _, why, _ in node.lost_connections] == [Ended.SLOW]


async def test_peer_that_takes_something_is_waited_for() -> None:
    """Progress counts, not the length of one send: three deadlines pass, each with a little progress."""
    native, node = FakeNativeSocket(), Node(write_timeout_s=0.02)
    connection = connect_native(native=native, node=node)
    native.stall(buffered=400)
    sizes: list[int] = []

    class Draining(type(native.wire)):  # type: ignore[misc]  # a fake of a fake
        def get_write_buffer_size(self) -> int:
            sizes.append(400 - 50 * len(sizes))
            if len(sizes) > 6:
                native.read_all()
            return sizes[-1]

    native.wire.__class__ = Draining
    await eventually(lambda: not native.is_paused)
    assert (node.lost_connections, connection.ended) == ([], None)


async def test_peer_that_takes_nothing_may_be_given_more_time() -> None:
    native, node = FakeNativeSocket(), Node(write_timeout_s=0.01)
    transport = open_transport(websocket_on(native), node.limits)
    asked: list[float] = []

    def patience_s() -> float:
        asked.append(0.035 if len(asked) < 5 else 0.0)
        return asked[-1]

    native.stall()
    with pytest.raises(TimeoutError):
        await transport.drained(patience_s)
    assert asked == [0.035] * 4, "0.01, 0.02, 0.03 and 0.04 s"


async def test_close_goes_behind_the_outbox() -> None:
    native = FakeNativeSocket()
    connection = connect_native(native=native)
    native.stall()
    connection.push(text("last"))
    connection.end(CloseCause.RELEASED)
    closing = asyncio.create_task(connection.finish(1000, "bye"))
    await turns()
    assert native.writes == []
    native.read_all()
    assert await closing
    assert native.writes == [*frames("last"), close_frame(1000, "bye")]


async def test_close_of_a_slow_consumer_says_so_at_once_and_is_aborted_when_it_does_not_come_through() -> (
    None
):
    clock, native = Clock(), FakeNativeSocket()
    connection = connect_native(native=native, node=Node(close_timeout_s=5.0))
    native.stall()
    connection.end(CloseCause.SLOW)
    closing = asyncio.create_task(connection.finish(4008, "slow consumer"))
    await turns()
    assert (native.writes, native.was_aborted) == ([close_frame(4008, "slow consumer")], False)
    clock.advance(5.0)
    await turns()
    assert (closing.done(), native.was_aborted) == (True, True)


async def test_outbox_that_is_not_written_in_time_ends_in_an_abort() -> None:
    native, node = FakeNativeSocket(), Node(close_timeout_s=0.01)
    connection = connect_native(native=native, node=node)
    native.stall()
    connection.push(text("never"))
    connection.end(CloseCause.RELEASED)
    assert not await connection.finish(1000, "bye")
    assert (native.writes, native.was_aborted) == ([], True)


async def test_nothing_is_written_once_the_line_was_cut() -> None:
    native, node = FakeNativeSocket(), Node()
    connection = connect_native(native=native, node=node)
    native.hang_up(1000, "by the application", 60)
    assert connection.push(text("late")).error
    assert native.writes == [close_frame(1000, "by the application")]
    assert node.lost_connections[0][1] is Ended.GONE


async def test_parked_connection_lets_go_of_its_websocket() -> None:
    native = FakeNativeSocket()
    connection = connect_native(native=native)

    class Inbox:
        def put_nowait(self, event: Any) -> None:
            events.append(event)

    events: list[Any] = []
    connection.park(Inbox())
    connection.push(text("hi"))
    connection.end(CloseCause.RELEASED)
    assert await connection.finish(1000, "bye")
    assert await connection.finish(1000, "bye"), "a second close has nothing to do"
    assert (connection.is_parked, native.writes) == (True, [*frames("hi"), close_frame(1000, "bye")])
    assert events == [{"type": "websocket.disconnect", "code": 1000, "reason": "bye"}]


@pytest.mark.parametrize("window_bits", [0, 12])
async def test_compression_is_what_the_line_agreed_to(window_bits: int) -> None:
    native, message = FakeNativeSocket(window_bits), text("x" * 5000)
    connect_native(native=native).push(message)
    assert native.writes == [message.frame(window_bits)]
    assert (len(native.writes[0]) < 5000) == bool(window_bits)


async def test_refused_message_is_counted() -> None:
    node = Node()
    connect_native(node=node).refused(1009)
    assert node.counters.messages_too_large == 1


async def test_connection_that_does_not_read_is_known() -> None:
    native = FakeNativeSocket()
    connection = connect_native(native=native)
    assert not connection.is_deaf
    native.send("the application does not take it")
    assert connection.is_deaf


async def test_line_that_was_paused_before_it_was_registered_has_a_writer_with_a_deadline() -> None:
    native, node = FakeNativeSocket(), Node(write_timeout_s=0.01)
    native.stall()
    connection = connect_native(native=native, node=node)
    assert connection.push(text("hi")).error is None
    assert connection.writer.is_writing
    await eventually(lambda: node.lost_connections)
    assert (native.writes, node.lost_connections[0][1]) == ([], Ended.SLOW)


async def test_line_that_was_paused_before_it_was_registered_goes_on_when_its_peer_reads() -> None:
    native = FakeNativeSocket()
    native.stall()
    connection = connect_native(native=native)
    connection.push(text("1"))
    connection.push(text("2"))
    await turns()
    native.read_all()
    await turns()
    connection.push(text("3"))
    assert native.writes == frames("1", "2", "3")


async def test_parked_socket_that_is_let_go_is_hung_up() -> None:
    native = FakeNativeSocket()
    connection = connect_native(native=native)

    class Inbox:
        def put_nowait(self, event: Any) -> None: ...

    connection.park(Inbox())
    connection.let_go()
    assert native.writes == [close_frame(1001, "server shutdown")]


async def test_own_send_waits_for_what_was_sent_before_but_not_for_ever() -> None:
    native = FakeNativeSocket()
    connection = connect_native(native=native, node=Node(write_timeout_s=60))
    native.stall()
    connection.push(text("1"))
    flushing = asyncio.create_task(connection.flush())
    await turns()
    assert not flushing.done()
    native.read_all()
    await flushing
    assert native.writes == frames("1")
