"""Messages that wait for the application: in order, bounded, and read on beside it."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.sessions.incoming import MAX_WAITING, MAX_WAITING_BYTES, Backlog, Incoming
from fastapi_websocket_stabilizer.wire.client_input import Message
from tests.unit.fakes import turns


@given(steps=st.lists(st.integers(0, MAX_WAITING_BYTES) | st.none() | st.just(1), max_size=200))
def test_backlog_keeps_the_order_and_knows_when_it_is_full(steps: list[int | None]) -> None:
    backlog, waiting = Backlog(), list[tuple[Message, int]]()
    for number, size in enumerate(steps):
        if size is None:
            assert backlog.take() == (waiting.pop(0)[0] if waiting else None)
        else:
            waiting.append((Message(number), size))
            backlog.put(*waiting[-1])
        assert backlog.is_full == (
            len(waiting) >= MAX_WAITING or sum(size for _, size in waiting) >= MAX_WAITING_BYTES
        )


class Frames:
    """Frames that a client has sent: a text is a message, unless it begins with ``-``."""

    def __init__(self, *frames: str) -> None:
        self.unread = list(frames)
        self.acts: list[str] = []
        self.is_closed = asyncio.Event()

    async def next(self) -> str | None:
        if self.unread:
            return self.unread.pop(0)
        await self.is_closed.wait()
        return None

    def read(self, data: str | bytes) -> Message | None:
        if data[:1] != "-":
            return Message(data)
        self.acts.append(str(data))
        return None


async def test_frames_are_read_while_a_message_is_handled() -> None:
    frames = Frames("one", "-a", "two", "-b")
    incoming = Incoming(frames.next, frames.read)
    task = asyncio.create_task(incoming.run())
    assert await incoming.next() == Message("one")
    await turns()
    assert frames.acts == ["-a", "-b"]
    frames.is_closed.set()
    assert [await incoming.next(), await incoming.next()] == [Message("two"), None]
    await task


async def test_no_frame_is_read_while_too_many_messages_wait() -> None:
    frames = Frames(*map(str, range(MAX_WAITING + 5)), "-a")
    incoming = Incoming(frames.next, frames.read)
    task = asyncio.create_task(incoming.run())
    await turns()
    assert (len(frames.unread), frames.acts) == (6, [])
    for number in range(MAX_WAITING + 5):
        assert await incoming.next() == Message(str(number))
    await turns()
    assert frames.acts == ["-a"]
    frames.is_closed.set()
    await task


async def test_end_of_the_connection_ends_the_reading_although_messages_wait() -> None:
    frames = Frames(*map(str, range(MAX_WAITING + 5)))
    incoming = Incoming(frames.next, frames.read)
    task = asyncio.create_task(incoming.run())
    await turns()
    frames.is_closed.set()
    incoming.end()
    await task
    assert await incoming.next() == Message("0")
