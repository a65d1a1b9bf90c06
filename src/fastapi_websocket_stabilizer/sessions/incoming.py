"""Messages of a client that the application has not taken yet.

The socket is read on while a message is handled. Otherwise an answer of the client could wait behind the function
that waits for it, and a request behind a slow message.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from ..wire.client_input import Message

MAX_WAITING = 64
"""Waiting messages of a connection from which on its socket is not read."""
MAX_WAITING_BYTES = 64 * 1024
"""Bytes of their frames from which on its socket is not read."""


class Backlog:
    """The waiting messages of one connection, in order. Pure."""

    __slots__ = ("_bytes", "_messages")

    def __init__(self) -> None:
        self._messages: deque[tuple[Message, int]] | None = None  # an empty one takes 760 bytes
        self._bytes = 0

    def put(self, message: Message, size: int) -> None:
        """Add a message whose frame has ``size`` bytes."""
        if self._messages is None:
            self._messages = deque()
        self._messages.append((message, size))
        self._bytes += size

    def take(self) -> Message | None:
        """Remove and return the oldest message, None if there is none."""
        if self._messages is None:
            return None
        message, size = self._messages.popleft()
        self._bytes -= size
        if not self._messages:
            self._messages = None
        return message

    @property
    def is_full(self) -> bool:
        """Whether no more may be read until a message is taken."""
        waiting = 0 if self._messages is None else len(self._messages)
        return waiting >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES


class Incoming:
    """Reads a socket that is not parked, and keeps the messages for the application."""

    __slots__ = ("_backlog", "_changed", "_has_ended", "_next_frame", "_read")

    def __init__(
        self,
        next_frame: Callable[[], Awaitable[str | bytes | None]],
        read: Callable[[str | bytes], Message | None],
    ) -> None:
        self._next_frame, self._read = next_frame, read
        self._backlog = Backlog()
        self._changed = asyncio.Event()
        self._has_ended = False

    async def run(self) -> None:
        """Read until the socket is closed."""
        try:
            while (data := await self._next_frame()) is not None:
                message = self._read(data)
                if message is not None:
                    self._backlog.put(message, len(data))
                    self._changed.set()
                    while self._backlog.is_full and not self._has_ended:
                        await self._wait()
        finally:
            self.end()

    async def next(self) -> Message | None:
        """Return the next message, None if no more follow."""
        while (message := self._backlog.take()) is None:
            if self._has_ended:
                return None
            await self._wait()
        self._changed.set()
        return message

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def end(self) -> None:
        """Note that the connection has ended. Messages that wait are still returned."""
        self._has_ended = True
        self._changed.set()
