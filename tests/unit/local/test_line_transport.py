"""A connection on a line: frames go straight out, a slow peer gets an outbox, and parking lets go of ASGI."""

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocket

from fastapi_websocket_stabilizer.local.line_transport import LineTransport, open_transport
from fastapi_websocket_stabilizer.local.owner import Ended
from tests.support.waiting import eventually
from tests.unit.fakes import Node, text, turns
from tests.unit.lines import FakeLine, connect_line, websocket_on


def frames(*messages: str) -> list[bytes]:
    return [text(message).frame(0) for message in messages]


async def test_message_is_one_frame_on_the_line() -> None:
    line, node = FakeLine(), Node()
    sent = connect_line(line=line, node=node).push(text("hi"))
    assert (line.writes, sent.error, sent.pending, node.written) == (frames("hi"), None, None, 1)


async def test_socket_with_methods_of_its_own_keeps_them() -> None:
    class Own(WebSocket):
        async def send_text(self, data: str) -> None:
            said.append(data)

    said: list[str] = []
    line, plain = FakeLine(), websocket_on(FakeLine())
    websocket = Own(
        {**plain.scope, "extensions": {"fastapi_websocket_stabilizer": line}}, plain._receive, plain._send
    )
    websocket.client_state, websocket.application_state = plain.client_state, plain.application_state
    node = Node()
    transport = open_transport(websocket, connect_line(node=node), node.limits)
    await transport.send(text("hi"))
    assert (type(transport), said, line.writes) == (LineTransport, ["hi"], [])


async def test_paused_line_gets_an_outbox_and_then_everything_in_order() -> None:
    line = FakeLine()
    connection = connect_line(line=line)
    connection.push(text("1"))
    line.stall()
    connection.push(text("2"))
    connection.push(text("3"))
    await turns()
    assert (line.writes, connection.queued_bytes) == (frames("1"), 2)
    line.read_all()
    await turns()
    connection.push(text("4"))
    assert line.writes == frames("1", "2", "3", "4")


async def test_full_outbox_ends_the_connection() -> None:
    line, node = FakeLine(), Node(outbox_size=3)
    connection = connect_line(line=line, node=node)
    line.stall()
    sent = [connection.push(text("ab")).error for _ in range(3)]
    assert (sent[0], sent[1]) == (None, "slow consumer: outbox over 3 bytes")
    assert node.lost_connections == [("alice", Ended.SLOW, "outbox over 3 bytes")]
    assert connection.open_line is None


async def test_peer_that_takes_nothing_is_given_up() -> None:
    line, node = FakeLine(), Node(write_timeout_s=0.01)
    connection = connect_line(line=line, node=node)
    line.stall()
    await eventually(lambda: connection.ended is not None)
    assert [why for _, why, _ in node.lost_connections] == [Ended.SLOW]


async def test_peer_that_takes_something_is_waited_for() -> None:
    """Progress counts, not the length of one send: three deadlines pass, each with a little progress."""
    line, node = FakeLine(), Node(write_timeout_s=0.02)
    connection = connect_line(line=line, node=node)
    line.stall(buffered=400)
    sizes: list[int] = []

    class Draining(type(line.wire)):  # type: ignore[misc]  # a fake of a fake
        def get_write_buffer_size(self) -> int:
            sizes.append(400 - 50 * len(sizes))
            if len(sizes) > 6:
                line.read_all()
            return sizes[-1]

    line.wire.__class__ = Draining
    await eventually(lambda: not line.is_paused)
    assert (node.lost_connections, connection.ended) == ([], None)


async def test_close_goes_behind_the_outbox() -> None:
    line = FakeLine()
    connection = connect_line(line=line)
    line.stall()
    connection.push(text("last"))
    connection.end(Ended.RELEASED)
    closing = asyncio.create_task(connection.finish(1000, "bye"))
    await turns()
    assert line.told == []
    line.read_all()
    assert await closing
    assert (line.writes, line.told) == (frames("last"), [("hang up", 1000, "bye")])


async def test_close_of_a_slow_consumer_says_so_at_once_and_is_aborted_when_it_does_not_come_through() -> (
    None
):
    line, node = FakeLine(), Node(close_timeout_s=0.01)
    connection = connect_line(line=line, node=node)
    line.stall()
    connection.end(Ended.SLOW)
    assert not await connection.finish(4008, "slow consumer")
    assert line.told == [("hang up", 4008, "slow consumer"), "abort"]


async def test_outbox_that_is_not_written_in_time_ends_in_an_abort() -> None:
    line, node = FakeLine(), Node(close_timeout_s=0.01)
    connection = connect_line(line=line, node=node)
    line.stall()
    connection.push(text("never"))
    connection.end(Ended.RELEASED)
    assert not await connection.finish(1000, "bye")
    assert (line.writes, line.told) == ([], ["abort"])


async def test_nothing_is_written_once_the_line_was_cut() -> None:
    line, node = FakeLine(), Node()
    connection = connect_line(line=line, node=node)
    line.is_open = False
    connection.cut()
    assert connection.push(text("late")).error
    assert (line.writes, node.lost_connections[0][1]) == ([], Ended.GONE)


async def test_parked_connection_lets_go_of_its_websocket() -> None:
    line = FakeLine()
    connection = connect_line(line=line)

    class Inbox:
        def put_nowait(self, event: Any) -> None: ...

    inbox = Inbox()
    connection.park(inbox)
    connection.push(text("hi"))
    connection.end(Ended.RELEASED)
    assert await connection.finish(1000, "bye")
    assert await connection.finish(1000, "bye"), "a second close has nothing to do"
    assert (connection.is_parked, line.inbox, line.writes) == (True, inbox, frames("hi"))
    assert line.told == [("hang up", 1000, "bye")]


@pytest.mark.parametrize("window_bits", [0, 12])
async def test_compression_is_what_the_line_agreed_to(window_bits: int) -> None:
    line, message = FakeLine(window_bits), text("x" * 5000)
    connect_line(line=line).push(message)
    assert line.writes == [message.frame(window_bits)]
    assert (len(line.writes[0]) < 5000) == bool(window_bits)


async def test_refused_message_is_counted() -> None:
    node = Node()
    connect_line(node=node).refused(1009)
    assert node.refused_codes == [1009]


async def test_connection_that_does_not_read_is_known() -> None:
    line = FakeLine()
    connection = connect_line(line=line)
    line.is_reading = False
    assert connection.is_deaf


async def test_line_that_was_paused_before_it_was_registered_has_a_writer_with_a_deadline() -> None:
    line, node = FakeLine(), Node(write_timeout_s=0.01)
    line.stall()
    connection = connect_line(line=line, node=node)
    assert connection.push(text("hi")).error is None
    assert connection.is_writing
    await eventually(lambda: node.lost_connections)
    assert (line.writes, node.lost_connections[0][1]) == ([], Ended.SLOW)


async def test_line_that_was_paused_before_it_was_registered_goes_on_when_its_peer_reads() -> None:
    line = FakeLine()
    line.stall()
    connection = connect_line(line=line)
    connection.push(text("1"))
    connection.push(text("2"))
    await turns()
    line.read_all()
    await turns()
    connection.push(text("3"))
    assert line.writes == frames("1", "2", "3")


async def test_parked_socket_that_is_let_go_is_hung_up() -> None:
    line = FakeLine()
    connection = connect_line(line=line)

    class Inbox:
        def put_nowait(self, event: Any) -> None: ...

    connection.park(Inbox())
    connection.let_go()
    assert line.told == [("hang up", 1001, "server shutdown")]


async def test_own_send_waits_for_what_was_sent_before_but_not_for_ever() -> None:
    line = FakeLine()
    connection = connect_line(line=line, node=Node(write_timeout_s=60))
    line.stall()
    connection.push(text("1"))
    flushing = asyncio.create_task(connection.flush())
    await turns()
    assert not flushing.done()
    line.read_all()
    await flushing
    assert line.writes == frames("1")
