"""The faults and the figures of ``benchmarks.browsers``. The clients themselves need packages of npm."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from benchmarks.browsers.door import Door
from benchmarks.browsers.faults import GIVE_UP_S, Outcome, count, median

from tests.support.waiting import eventually

ANSWER_S = 15.0


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A door to a server that sends everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    ports = [1, server.sockets[0].getsockname()[1]]  # nothing listens on port 1
    async with server, Door(ports) as door:
        yield door


class Line:
    """A connection through the door."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = b""
        self.is_open = True
        self._is_new = True
        self._writer = writer
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def open(cls, door: Door) -> "Line":
        return cls(*await asyncio.open_connection("127.0.0.1", door.port))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(1024):
                self.received += data
        except ConnectionError:
            pass
        self.is_open = False

    async def echoes(self, text: bytes) -> None:
        self.write(text)
        await eventually(lambda: self.received.endswith(text), ANSWER_S, "an echo")

    def write(self, text: bytes) -> None:
        self._writer.write(b"GET /ws HTTP/1.1\r\n\r\n" * self._is_new + text)
        self._is_new = False

    def close(self) -> None:
        self._writer.close()
        self._reading.cancel()


async def test_door_takes_the_first_port_that_accepts(door: Door) -> None:
    line = await Line.open(door)
    await line.echoes(b"here")
    line.close()


async def test_swallowed_connection_stays_open_and_gets_nothing_while_a_new_one_works(door: Door) -> None:
    old = await Line.open(door)
    await old.echoes(b"before")
    door.swallow()
    old.write(b"lost")
    new = await Line.open(door)
    await new.echoes(b"new")
    assert (old.received.endswith(b"before"), old.is_open) == (True, True)
    for line in (old, new):
        line.close()


async def test_closed_door_resets_connections_and_refuses_new_ones_until_it_opens(door: Door) -> None:
    lines = [await Line.open(door)]
    await lines[0].echoes(b"before")
    door.close()
    lines.append(await Line.open(door))
    await eventually(lambda: not any(line.is_open for line in lines), ANSWER_S, "the end of both connections")
    door.open()
    lines.append(await Line.open(door))
    await lines[-1].echoes(b"again")
    for line in lines:
        line.close()


async def test_door_answers_with_its_own_files(door: Door) -> None:
    door.files = {"/page": ("text/html", b"<p>hello")}
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"Content-Type: text/html" in head
    assert body == b"<p>hello"
    writer.close()


def test_outcome_counts_what_is_missing_and_doubled_since_the_first_message() -> None:
    seen = [(3, 1_000), (4, 1_050), (4, 1_060), (7, 4_060), (8, 4_070)]
    assert count(seen, 9, True, False) == Outcome(lost=2, doubled=1, silence_s=3.0, was_told=False)
    assert count(seen, 9, False, True) == Outcome(lost=None, doubled=1, silence_s=GIVE_UP_S, was_told=True)


def test_median_of_rounds_keeps_each_doubled_message_and_each_client_that_stayed_away() -> None:
    rounds = [Outcome(0, 0, 1.0, False), Outcome(2, 3, 2.0, True), Outcome(5, 0, 9.0, True)]
    assert median(rounds) == Outcome(2, 3, 2.0, False)
    assert median([*rounds, Outcome(None, 0, GIVE_UP_S, False)]).lost is None
