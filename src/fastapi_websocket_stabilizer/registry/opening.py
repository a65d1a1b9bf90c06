"""A connection from its attachment to logs until its first frame, and copies of one message in several logs. Pure.

The first frame (``hi``) says of every log whether it continues. So it waits for the answers of all feeds. A feed that
has answered delivers from then on, because its member is LIVE. These deliveries are kept, and messages to the client.

The order of frames is: ``hi``, what was missed, and then what was kept. What was missed in several logs is merged by
id. With one server that is the order of publication, because the ids are times of one clock.

``hi`` has the position from which each log continues: before the replay. If the socket breaks within the replay, the
client returns with what it has received, and not with what was only on its way.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any, Generic, TypeVar

from ..backends.log_ports import LogEntry
from .feed import Cursor, Joined

MAX_COPIES = 256
"""Keys of messages to several rooms that are remembered for a connection. Clients remember as many."""

L = TypeVar("L")
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Hello(Generic[L, F]):
    """The first frames of a connection, in this order.

    Attributes:
        at: The position of each log that the client continues from. A replay moves it.
        lost: Logs that lost continuity, with their position and the reason.
        continues: Whether each log of the cursor continues. None if the client gave no cursor.
        replay: The missed entries of all logs.
        kept: What came in the meantime.
    """

    at: Mapping[L, int]
    lost: Sequence[tuple[L, int, str]]
    continues: bool | None
    replay: Sequence[tuple[L, LogEntry]]
    kept: Sequence[F]


class Opening(Generic[L, F]):
    """Collects what the first frame needs, and keeps everything else until then.

    The caller bounds what is kept: it is in the outbox of the connection.
    """

    __slots__ = ("_answers", "_cursors", "_kept")

    def __init__(self, cursors: Mapping[L, Cursor | None]) -> None:
        self._cursors = dict(cursors)  # of each log; None: the client has no position
        self._answers: dict[L, Joined] = {}
        self._kept: list[F] = []

    @property
    def is_ready(self) -> bool:
        """Whether each feed has answered."""
        return len(self._answers) == len(self._cursors)

    def answered(self, log: L, answer: Joined) -> None:
        """Take the answer of the feed of ``log``."""
        if log in self._cursors:
            self._answers[log] = answer

    def left(self, log: L) -> None:
        """Forget a log: the connection left it before the first frame."""
        self._cursors.pop(log, None)
        self._answers.pop(log, None)

    def keep(self, frame: F) -> None:
        """Keep a frame for later: a delivery of a feed, its loss, or a message to the client."""
        self._kept.append(frame)

    def hello(self) -> Hello[L, F]:
        """Return what to write, once ``is_ready``."""
        answers = self._answers
        lost = [(log, answer.position, answer.code) for log, answer in answers.items() if answer.code]
        is_resumed = any(cursor is not None for cursor in self._cursors.values())
        return Hello(
            {log: self._start(log, answer) for log, answer in answers.items()},
            lost,
            not lost if is_resumed else None,
            list(merge(*(self._missed(log) for log in answers), key=_id)),
            self._kept,
        )

    def _start(self, log: L, answer: Joined) -> int:
        cursor = self._cursors[log]
        if cursor is None or answer.code:
            return answer.position
        # A log that was forgotten, because it was quiet, continues at 0. The cursor says more than that.
        return cursor.id if answer.entries else max(cursor.id, answer.position)

    def _missed(self, log: L) -> Iterator[tuple[L, LogEntry]]:
        return ((log, entry) for entry in self._answers[log].entries)


def _id(missed: tuple[Any, Any]) -> int:
    id_: int = missed[1].id
    return id_


class Copies:
    """The messages to several rooms that one connection was sent. A second copy only moves the position.

    This is exact: a socket that was not sent the first copy, because it waited, is sent the second one. Clients drop
    what they have already, also across connections.
    """

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}

    def is_first(self, key: str) -> bool:
        """Return whether ``key`` was not sent yet, and remember it. The oldest of ``MAX_COPIES`` is forgotten."""
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > MAX_COPIES:
            del self._keys[next(iter(self._keys))]
        return True


class Skipped(Generic[L]):
    """Members of one log whose position moved without a frame, because an entry excludes them or is a second copy.

    Their client's cursor would be trimmed while they are connected. So they are told the position at times: after
    ``MAX_SKIPPED`` entries, and at each ``due`` (with each beat).
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[L, int] = {}

    def __contains__(self, member: L) -> bool:
        return member in self._counts

    def delivered(self, skipped: Sequence[L] = ()) -> list[L]:
        """Note an entry that all but ``skipped`` were sent. Return the members to tell the position now."""
        if not skipped and not self._counts:
            return []
        self._counts = {member: self._counts.get(member, 0) + 1 for member in skipped}
        told = [member for member, count in self._counts.items() if count >= MAX_SKIPPED]
        for member in told:
            del self._counts[member]
        return told

    def due(self) -> list[L]:
        """Return the members to tell the position."""
        told, self._counts = list(self._counts), {}
        return told

    def left(self, member: L) -> None:
        """Forget a member."""
        self._counts.pop(member, None)


MAX_SKIPPED = 64
"""Skipped entries after which a member is told its position."""
