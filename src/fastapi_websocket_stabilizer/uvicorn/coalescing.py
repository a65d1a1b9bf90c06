"""Writing to sockets: what comes for one of them in a turn of the event loop is written together at its end."""

import asyncio
import logging
import os
from typing import ClassVar, Protocol, Self
from weakref import WeakKeyDictionary

from ..runtime.loops import running_loop

log: logging.Logger = logging.getLogger(__name__)

COALESCED_BYTES = 16_384
"""Bytes that wait for the end of the turn; more are written at once."""
WRITE_BUFFER_BYTES = 65_536
"""High-water mark of a socket's write buffer; above it messages wait in the outbox."""


class Flushable(Protocol):
    """What has gathered something to write."""

    def flush(self) -> None: ...


class TickFlusher:
    """Flushes, when a turn of the event loop ends, whatever gathered something during it.

    Sockets that are written to one right after the other wake their peers less often than sockets that are
    written to in between, and a socket that got several messages is written to once.
    """

    _by_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Self]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._gathering: list[Flushable] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self:
        """Return the one of an event loop."""
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
            except Exception:  # one socket's trouble is not the others'
                log.exception("a socket could not be written to")


class CoalescedWrites:
    """What a protocol writes with.

    Attributes:
        flusher: That of the protocol's event loop.
        descriptor: Of the socket, while it may be written to past the event loop; -1 when not.
    """

    transport: asyncio.Transport
    flusher: TickFlusher
    descriptor: int = -1
    _gathered: bytes = b""

    def write_soon(self, data: bytes) -> None:
        """Write when this turn of the event loop ends, together with what else comes for this socket."""
        if not self._gathered:
            self.flusher.add(self)
        self._gathered += data
        if len(self._gathered) > COALESCED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered, if there still is somebody to read it."""
        if self.transport.is_closing():
            self._gathered = b""
        elif self._gathered:
            self.write_now(b"")

    def write_now(self, data: bytes) -> None:
        """Write at once, behind what was gathered.

        uvloop gathers too, and costs a third of the system call; what is gathered need not pay for that twice.
        """
        if self._gathered:
            data, self._gathered = self._gathered + data, b""
        if self.descriptor < 0 or self.transport.get_write_buffer_size():
            self.transport.write(data)
            return
        try:
            sent = os.write(self.descriptor, data)
        except OSError:  # full, or gone: the transport finds out
            sent = 0
        if sent < len(data):
            self.transport.write(data[sent:])
