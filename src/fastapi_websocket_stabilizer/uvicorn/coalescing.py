"""Coalesced writes: all data for a socket in one turn of the event loop is written together at its end."""

import asyncio
import logging
import os
from typing import ClassVar, Protocol, Self
from weakref import WeakKeyDictionary

from ..runtime.loops import running_loop

log: logging.Logger = logging.getLogger(__name__)

COALESCED_BYTES = 16_384
"""Largest number of bytes that wait for the end of the turn. More are written at once."""
WRITE_BUFFER_BYTES = 65_536
"""High-water mark of a socket's write buffer in bytes. Above it, messages stay in the outbox."""


class Flushable(Protocol):
    """A socket with gathered data."""

    def flush(self) -> None: ...


class TickFlusher:
    """Flushes all sockets with gathered data when a turn of the event loop ends.

    A socket with several messages is written to once. Writes directly one after the other also wake the peers less
    often than writes with other work in between.
    """

    _by_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Self]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._gathering: list[Flushable] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self:
        """Return the flusher of an event loop."""
        flusher = cls._by_loop.get(loop)
        if flusher is None:
            flusher = cls._by_loop[loop] = cls()
        return flusher

    def add(self, gathering: Flushable) -> None:
        if not self._gathering:
            running_loop().call_soon(self._end)
        self._gathering.append(gathering)

    def _end(self) -> None:
        ended, self._gathering = self._gathering, []
        for gathering in ended:
            try:
                gathering.flush()
            except Exception:  # otherwise the sockets behind this one would not be written to
                log.exception("a socket could not be written to")


class CoalescedWrites:
    """The writing half of a protocol.

    Attributes:
        flusher: The flusher of the protocol's event loop.
        descriptor: File descriptor of the socket while direct writes to it are allowed, otherwise -1.
    """

    transport: asyncio.Transport
    flusher: TickFlusher
    descriptor: int = -1
    _gathered: bytes = b""

    def write_soon(self, data: bytes) -> None:
        """Write at the end of this turn of the event loop, together with other data for this socket."""
        if not self._gathered:
            self.flusher.add(self)
        self._gathered += data
        if len(self._gathered) > COALESCED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the gathered data, or drop it if the transport is closing."""
        if self.transport.is_closing():
            self._gathered = b""
        elif self._gathered:
            self.write_now(b"")

    def write_now(self, data: bytes) -> None:
        """Write at once, behind the gathered data.

        The write goes to the descriptor, past the transport. A transport of uvloop gathers as well, which takes a
        third of the time of the system call and is of no use here.
        """
        if self._gathered:
            data, self._gathered = self._gathered + data, b""
        if self.descriptor < 0 or self.transport.get_write_buffer_size():
            self.transport.write(data)
            return
        try:
            sent = os.write(self.descriptor, data)
        except OSError:  # the buffer is full or the peer is gone: leave both cases to the transport
            sent = 0
        if sent < len(data):
            self.transport.write(data[sent:])
