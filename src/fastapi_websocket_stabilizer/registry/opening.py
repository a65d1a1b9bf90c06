"""The first frame of a connection that follows logs, and positions that move without a frame. Pure.

The first frame (``hi``) says of every log whether it continues. So it waits for the answers of all feeds. A feed that
has answered delivers from then on, because its member is LIVE. These deliveries wait in the outbox of the connection.

The order of frames is: ``hi``, what was missed, and then what has waited. What was missed in several logs is merged
by id. With one server that is the order of publication, because the ids are times of one clock.

``hi`` has the position from which each log continues: before the replay. If the socket breaks within the replay, the
client returns with what it has received, and not with what was only on its way.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any, Generic, TypeVar

from ..backends.log_ports import LogEntry
from .feed import Cursor, Joined

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Hello(Generic[L]):
    """The first frames of a connection, in this order.

    Attributes:
        at: The position of each log that the client continues from. A replay moves it.
        lost: Logs that lost continuity, with their position and the reason.
        continues: Whether each log of the cursor continues. None if the client gave no cursor.
        replay: The missed entries of all logs.
    """

    at: Mapping[L, int]
    lost: Sequence[tuple[L, int, str]]
    continues: bool | None
    replay: Sequence[tuple[L, LogEntry]]


def hello(cursors: Mapping[L, Cursor | None], answers: Mapping[L, Joined]) -> Hello[L]:
    """Return the first frames. ``cursors`` has a position or None for each log that has answered."""
    lost = [(log, answer.position, answer.code) for log, answer in answers.items() if answer.code]
    is_resumed = any(cursor is not None for cursor in cursors.values())
    missed = [[(log, entry) for entry in answer.entries] for log, answer in answers.items() if answer.entries]
    return Hello(
        {log: _start(cursors[log], answer) for log, answer in answers.items()},
        lost,
        not lost if is_resumed else None,
        _merged(missed),
    )


def _start(cursor: Cursor | None, answer: Joined) -> int:
    if cursor is None or answer.code:
        return answer.position
    # A log that was forgotten, because it was quiet, continues at 0. The cursor says more than that.
    return cursor.id if answer.entries else max(cursor.id, answer.position)


def _merged(missed: Sequence[list[tuple[L, LogEntry]]]) -> list[tuple[L, LogEntry]]:
    """Return what was missed in several logs, by id. One log is the usual case."""
    return missed[0] if len(missed) == 1 else list(merge(*missed, key=_id))


def _id(missed: tuple[Any, Any]) -> int:
    id_: int = missed[1].id
    return id_


class Skipped(Generic[L]):
    """Members of one log whose position moved without a frame, because an entry excludes them or is a second copy.

    Their client's cursor would be trimmed while they are connected. So they are told the position: after
    ``MAX_SKIPPED`` entries, at each ``due`` (after ``TOLD_AFTER_S``), and before an orderly end.

    Attributes:
        position: Id of the newest entry. All members here have skipped it.
    """

    __slots__ = ("_counts", "position")

    def __init__(self) -> None:
        self._counts: dict[L, int] = {}
        self.position: int = 0

    def __contains__(self, member: L) -> bool:
        return member in self._counts

    def delivered(self, id_: int, skipped: Collection[L] = ()) -> list[L]:
        """Note an entry that all but ``skipped`` were sent. Return the members to tell the position now."""
        self.position = id_
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
TOLD_AFTER_S = 3.0
"""Seconds after a skipped entry within which its members are told their position. The protocol promises 5."""
