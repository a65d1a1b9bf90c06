"""Shared budget of one turn of the event loop for sockets whose peers sent more than one turn may handle."""

from asyncio import AbstractEventLoop
from collections import deque
from typing import ClassVar, Protocol, Self
from weakref import WeakKeyDictionary, proxy

FRAMES_PER_TURN = 16
"""Frames per turn for the deferred input of all sockets: 0.1 ms of parsing. The first frames of a read are extra."""
BYTES_PER_FRAME = 4096
"""Bytes of inflated content that count as one more frame."""
MESSAGE_COST = 4
"""Additional frames that a message counts as, because the application handles it in the same turn."""
PAUSE_PER_FRAME_S = 0.0001
"""Seconds of pause after a part of a heavy socket, per frame of its cost. That is ten times the parsing time, so
heavy sockets together take a tenth of the time. A message of 1 MiB is inflated within 30 ms."""
LEAST_PAUSE_S = 0.001
"""Shortest such pause: uvloop rounds to milliseconds, so it would make none of less than half a millisecond."""
READ_BYTES = 32_768
"""Bytes of one read on asyncio. Its unparsed rest stays in memory. uvloop reads 250 KiB into a buffer of its own."""


class Reads(Protocol):
    """A socket with unparsed input."""

    def parse_on(self) -> None:
        """Parse the next part; call ``Intake.spend`` for it, and ``Intake.wait`` if more is left."""
        ...


class Intake:
    """The budget of one event loop for deferred input.

    A socket that sends little is parsed when its bytes arrive. A socket that sends more than its share is not read
    for a while. It continues in later turns, in order of arrival. While bytes of other sockets arrive, it skips every
    other turn. A socket is heavy if its last message was long, or if its frames carry almost nothing. Heavy sockets
    continue one by one, with pauses.

    Attributes:
        buffer: The buffer that all sockets of this loop are read into.
    """

    _by_loop: ClassVar[WeakKeyDictionary[AbstractEventLoop, Self]] = WeakKeyDictionary()

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = proxy(loop)  # a strong reference would keep the entry of the weak table alive
        self._waiting: deque[Reads] = deque()
        self._heavy: deque[Reads] = deque()
        self._left = FRAMES_PER_TURN
        self._is_scheduled = self._is_pausing = False
        self._has_arrivals = False  # since the last turn
        self._gives_way = False  # sockets that wait skip this turn; not two in a row
        self.buffer: memoryview = memoryview(bytearray(READ_BYTES))

    @classmethod
    def of(cls, loop: AbstractEventLoop) -> Self:
        """Return the intake of an event loop."""
        intake = cls._by_loop.get(loop)
        if intake is None:
            intake = cls._by_loop[loop] = cls(loop)
        return intake

    def buffer_of(self, size: int) -> memoryview:
        """Return ``buffer``, grown to at least ``size`` bytes."""
        if size > len(self.buffer):
            self.buffer = memoryview(bytearray(size))
        return self.buffer

    @property
    def has_room(self) -> bool:
        """Whether a socket may continue at once: the turn is not spent and no other socket is waiting."""
        return self._left > 0 and not self._waiting and not self._gives_way

    def spend(self, frames: int) -> None:
        """Charge this turn with the cost of ``frames`` frames."""
        self._left -= frames
        self._schedule()

    def arrive(self) -> None:
        """Note that a socket that does not wait has bytes, which it parses at once."""
        self._has_arrivals = True

    def wait(self, socket: Reads, *, heavy: bool = False, first: bool = False) -> None:
        """Call ``socket.parse_on`` once, in a later turn. With ``first``, no other heavy socket comes before it."""
        if not heavy:
            self._waiting.append(socket)
            self._schedule()
            return
        if first:
            self._heavy.appendleft(socket)
        else:
            self._heavy.append(socket)
        if not self._is_pausing:
            self._is_pausing = True
            self._loop.call_soon(self._continue_heavy)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_scheduled, self._left = False, FRAMES_PER_TURN
        # The application handles in this turn what arrived in the last one.
        self._gives_way = bool(self._waiting) and self._has_arrivals and not self._gives_way
        self._has_arrivals = False
        if not self._gives_way:
            for _ in range(len(self._waiting)):  # each socket at most once: parse_on may queue it again
                if self._left <= 0:
                    break
                self._waiting.popleft().parse_on()
        if self._waiting:
            self._schedule()

    def _continue_heavy(self) -> None:
        self._is_pausing = bool(self._heavy)
        if self._heavy:
            before = self._left
            try:
                self._heavy.popleft().parse_on()
            finally:
                pause_s = max(LEAST_PAUSE_S, (before - self._left) * PAUSE_PER_FRAME_S)
                self._loop.call_later(pause_s, self._continue_heavy)
