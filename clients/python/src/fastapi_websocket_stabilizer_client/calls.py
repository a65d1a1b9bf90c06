"""Requests of this client to the server."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from . import writing
from .errors import LimitError
from .messages import Data

MAX_OPEN = 64
"""Requests in flight in each direction of a connection."""
MAX_WAITING = 1024
"""Requests that wait for a connection, or for an answer to another one."""


class Kind(Enum):
    REQUEST = "request"
    JOIN = "join"
    LEAVE = "leave"
    RENEWAL = "renewal"


REPEATED = frozenset({Kind.JOIN, Kind.LEAVE})
"""Requests with the same effect if they are carried out twice. The next connection sends them again."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request. ``subject`` is its name, the room or the token."""

    key: Hashable
    kind: Kind
    subject: str
    deadline_s: float
    data: Data = None
    is_repeated: bool = False
    """It was sent on an earlier connection, which may have carried it out."""

    def frame(self, number: int) -> str | bytes:
        match self.kind:
            case Kind.REQUEST:
                return writing.request(number, self.subject, self.data)
            case Kind.JOIN:
                return writing.join(self.subject, number)
            case Kind.LEAVE:
                return writing.leave(self.subject, number)
            case Kind.RENEWAL:
                return writing.renewal(self.subject, number)


class Calls:
    """Calls that wait, and calls in flight. Each ends once: it is removed when its outcome is returned."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, Call] = {}
        self._open: dict[int, Call] = {}
        self._numbers: dict[Hashable, int] = {}
        self._last = 0

    def add(self, call: Call) -> None:
        """Add a call that is not sent yet.

        Raises:
            LimitError: More than 1,024 calls wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise LimitError(f"{MAX_WAITING} requests wait to be sent: wait for answers before asking more")
        self._waiting[call.key] = call

    def ready(self) -> Iterator[str | bytes]:
        """Yield the frames to send on an open connection, and count them as in flight."""
        while self._waiting and len(self._open) < MAX_OPEN:
            call = self._waiting.pop(next(iter(self._waiting)))
            self._last += 1
            self._open[self._last] = call
            self._numbers[call.key] = self._last
            yield call.frame(self._last)

    def answered(self, number: int) -> Call | None:
        """Return the call of an answer, or None if nothing waits for it."""
        call = self._open.pop(number, None)
        if call is not None:
            del self._numbers[call.key]
        return call

    def drop(self, key: Hashable) -> tuple[Call, int | None] | None:
        """Remove a call. Return it with its number if it is in flight, or None if it has ended."""
        number = self._numbers.get(key)
        call = self._waiting.pop(key, None) if number is None else self.answered(number)
        return None if call is None else (call, number)

    def rooms(self, kind: Kind) -> set[str]:
        """Return the rooms of calls of a kind that have no outcome."""
        return {call.subject for call in self._all() if call.kind is kind}

    def overdue(self, now_s: float) -> list[Call]:
        """Return the calls whose time is over. They are not removed."""
        return [call for call in self._all() if call.deadline_s <= now_s]

    def interrupt(self) -> list[Call]:
        """End the connection. Return the calls that end with it; the others wait for the next one."""
        calls, self._open, self._numbers = list(self._open.values()), {}, {}
        again = {call.key: replace(call, is_repeated=True) for call in calls if call.kind in REPEATED}
        self._waiting = again | self._waiting
        return [call for call in calls if call.kind not in REPEATED]

    def end(self) -> list[Call]:
        """Remove and return all calls."""
        calls = self._all()
        self._waiting, self._open, self._numbers = {}, {}, {}
        return calls

    @property
    def soonest_s(self) -> float | None:
        """The first deadline, or None."""
        if not self._open and not self._waiting:
            return None
        return min((call.deadline_s for call in self._all()), default=None)

    def _all(self) -> list[Call]:
        return [*self._open.values(), *self._waiting.values()]
