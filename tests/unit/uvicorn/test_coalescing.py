"""Gathering: what comes for a socket in one turn is written together, in order, and never kept for long."""

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from fastapi_websocket_stabilizer.uvicorn.coalescing import COALESCED_BYTES, CoalescedWrites, TickFlusher
from tests.unit.fakes import turns
from tests.unit.native_sockets import Wire


class RaisingWire(Wire):
    """A transport that raises when the test says so."""

    error: Exception | None = None

    def write(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        super().write(data)


class Socket(CoalescedWrites):
    def __init__(self, descriptor: int = -1) -> None:
        self.wire = RaisingWire()
        self.transport = cast("asyncio.Transport", self.wire)
        self.flusher = TickFlusher.of(asyncio.get_running_loop())
        self.descriptor = descriptor


async def test_messages_of_one_turn_are_one_write() -> None:
    one, other = Socket(), Socket()
    one.write_soon(b"1")
    other.write_soon(b"a")
    one.write_soon(b"2")
    assert one.wire.writes == []
    await turns(1)
    assert (one.wire.writes, other.wire.writes) == ([b"12"], [b"a"])
    one.write_soon(b"3")
    await turns(1)
    assert one.wire.writes == [b"12", b"3"], "the next turn writes again"


async def test_what_is_written_now_comes_behind_what_was_to_be_written_soon() -> None:
    each = Socket()
    each.write_soon(b"1")
    each.write_now(b"2")
    await turns(1)
    assert each.wire.writes == [b"12"]


async def test_much_is_not_kept_for_the_end_of_the_turn() -> None:
    each = Socket()
    each.write_soon(b"x" * COALESCED_BYTES)
    assert each.wire.writes == []
    each.write_soon(b"y")
    assert [len(data) for data in each.wire.writes] == [COALESCED_BYTES + 1]


async def test_a_socket_that_is_being_closed_is_not_written_to() -> None:
    each = Socket()
    each.write_soon(b"1")
    each.wire.is_closed = True
    await turns(1)
    each.wire.is_closed = False
    each.write_soon(b"2")
    await turns(1)
    assert each.wire.writes == [b"2"]


async def test_a_socket_that_raises_does_not_keep_the_others_from_being_written_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good = Socket(), Socket()
    bad.wire.error = OSError("gone")
    bad.write_soon(b"1")
    good.write_soon(b"1")
    await turns(1)
    assert good.wire.writes == [b"1"]
    assert "could not be written to" in caplog.text


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_the_socket_itself_is_written_to_and_the_transport_gets_the_rest(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    each = Socket(ours.fileno())
    each.write_now(b"hi")
    assert (theirs.recv(10), each.wire.writes) == (b"hi", [])
    large = os.urandom(8 * 1024 * 1024)  # more than the kernel takes
    each.write_now(large)
    (rest,) = each.wire.writes
    assert 0 < len(rest) < len(large)
    assert large.endswith(rest)


async def test_a_transport_with_a_backlog_gets_everything(pair: tuple[socket.socket, socket.socket]) -> None:
    each = Socket(pair[0].fileno())
    each.wire.buffered = 1
    each.write_now(b"behind it")
    assert each.wire.writes == [b"behind it"]
