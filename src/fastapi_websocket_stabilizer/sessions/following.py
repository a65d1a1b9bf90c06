"""The logs that one connection of ``stabilizer.v1`` follows: positions, replays and losses.

A log that has answered before the first frame is told there. One that answers later is told by frames of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from ..backends.log_ports import LogEntry
from ..local.connection import Connection
from ..models import ResumeOutcome
from ..names import ConnectionId
from ..registry import feed
from ..registry.feed import Joined
from ..registry.logs import ForClient
from ..registry.opening import Hello, hello
from ..registry.registration import Succession
from ..runtime.metrics import Counters
from ..wire import client_frames as frames
from ..wire.client_frames import EVERYBODY, MAILBOX, Lost, LostLog, Positions
from ..wire.cursors import Cursor
from ..wire.messages import ControlFrame, Encoded, Series

Log = ForClient
"""A room, ``MAILBOX`` or ``EVERYBODY``."""
MAX_UNUSED = 1000
"""Positions of rooms that a connection is not in, kept for joins. With more, each room that it joins is lost."""
MAX_SPENT = 1000
"""Rooms that a connection has left and that are remembered. With more, no room is new to it: see ``is_new``."""
NONE: frozenset[Log] = frozenset()
"""The sets of all idle connections. One of its own would take 216 bytes, and a connection has three."""
OTHERS_S = 5.0
"""Seconds that the answer of a room behind the first frame waits for those of other rooms."""
UNREADABLE = Cursor("", 0)
"""A cursor whose positions are unknown, because it cannot be read. No cursor of a client has an empty ``s``."""


class FollowingNode(Protocol):
    """The node, as the logs of a connection need it."""

    counters: Counters

    def replayed(
        self, connection: Connection, former: Iterable[ConnectionId], missed: Iterable[tuple[Log, Any]]
    ) -> Iterable[Encoded]:
        """Yield the entries of a replay that are meant for a connection, which had the ids ``former`` before."""
        ...

    def replay(
        self, connection: Connection, former: Iterable[ConnectionId], missed: Sequence[tuple[Log, Any]]
    ) -> Series:
        """Return the same as ``replayed``, for a connection that is sent all of it now."""
        ...

    def stop(self, connection: Connection, log: Log, position: int) -> bool:
        """Send a slow connection no more of a log, until ``go_on``. Return False if there is no such log."""
        ...

    def put_off(self, connection: Connection, log: Log, position: feed.Cursor) -> bool:
        """Send a connection no more of a log behind a position, until ``go_on``."""
        ...

    def is_behind(self, connection: Connection) -> bool:
        """Whether a connection lacks messages of logs that it is sent after ``go_on``."""
        ...

    def go_on(self, connection: Connection) -> None:
        """Send a connection what it has missed of the logs that were stopped or put off."""
        ...


@dataclass(frozen=True, slots=True)
class Beginning:
    """The part of the first frame that is about logs, and what follows it.

    Attributes:
        outcome: See ``Hi.outcome``.
        replay: What was missed, and the end of the replay unless the outcome is put off.
    """

    outcome: bool | Literal["later"] | None
    lost: Sequence[LostLog]
    positions: Positions
    replay: Sequence[Encoded | Series]


class Following:
    """Tells a client of its logs.

    Args:
        node: The node.
        connection: The connection.
        record: What the registry knows of the session.
        cursor: Positions that the client wants to continue from: None for a new client, ``UNREADABLE`` if unknown.
    """

    __slots__ = (
        "_answered", "_begins", "_connection", "_cursor", "_fed", "_has_forgotten", "_is_marked", "_is_patient",
        "_is_whole", "_late", "_node", "_owed", "_owes_outcome", "_record", "_replayed", "_spent",
    )  # fmt: skip

    def __init__(
        self, node: FollowingNode, connection: Connection, record: Succession, cursor: Cursor | None
    ) -> None:
        self._node, self._connection, self._record, self._cursor = node, connection, record, cursor
        self._fed: dict[Log, Joined] = {}  # answers of logs, until the first frame
        self._late = NONE  # logs that have not answered yet
        self._owed = NONE  # those of them that the first frame could not tell
        self._answered = NONE  # owed rooms that have answered, and wait for the others
        self._is_patient = True  # rooms wait for others
        self._owes_outcome = False
        self._begins: dict[Log, int] = {}  # positions before messages that a new client receives
        self._is_marked = False  # that of the mailbox is where the client said that it was
        self._spent = NONE  # logs whose position in the cursor is of a former stay
        self._is_whole = cursor is not UNREADABLE  # no log of the cursor was lost
        self._has_forgotten = cursor is UNREADABLE  # any room that is joined later may be one of the cursor
        self._replayed = 0

    def outcome(self) -> ResumeOutcome | None:
        """Return what the client has missed, as known before its first frame. None if it gave no cursor."""
        if self._cursor is None:
            return None
        answers = self._fed.items()
        lost: dict[str | int, str] = {log: joined.code for log, joined in answers if joined.code}
        missed = sum(len(joined.entries) for log, joined in answers if self._position(log) is not None)
        is_whole = self._is_whole and not lost
        return ResumeOutcome(None if self._late else is_whole, missed, lost, self._record.is_taken)

    def begin(self) -> Beginning:
        """Return what the first frame says."""
        first, self._fed = self._hello(self._fed), {}
        self._owed = self._late
        self._owes_outcome = bool(self._owed) and self._cursor is not None
        lost = [LostLog(log, top, Lost(code)) for log, top, code in first.lost]
        self._is_whole = self._is_whole and not lost
        replay = self._node.replay(self._connection, self._record.formers, first.replay)
        self._replayed = len(replay.messages)
        known = {log: position for log in self._owed if (position := self._position(log)) is not None}
        self._node.counters.resumes_later += self._owes_outcome
        if self._cursor is not None and not self._owed:
            self._count_outcome()
        end = [] if self._owes_outcome else [ControlFrame(frames.live(self._replayed))]
        beginning = Beginning(
            None if self._cursor is None else "later" if self._owed else self._is_whole,
            lost if self._cursor is not None else tuple(row for row in lost if self._may_lose(row.log)),
            positions({**known, **first.at}, dict.fromkeys(sorted(self._connection.rooms))),
            [replay, *_moved_by(first.replay, replay.messages), *end],
        )
        self._keep_unused()
        return beginning

    def _keep_unused(self) -> None:
        """Keep only the positions of the cursor that later answers and joins use."""
        cursor = self._cursor
        if cursor is None or not cursor.rooms:
            return
        used = self._connection.rooms - self._owed
        unused = {room: position for room, position in cursor.rooms.items() if room not in used}
        if len(unused) > MAX_UNUSED:
            self._has_forgotten = True
            unused = {room: position for room, position in unused.items() if room in self._owed}
            self._node.counters.cursors_shortened += 1
        self._cursor = replace(cursor, rooms=unused)

    def cursor(self, log: Log) -> tuple[int, int] | None:
        """Return the position of the client in a log that will feed it, and up to when it is whole, in µs.

        None if the client has no position.
        """
        self._late |= {log}
        position = self._position(log)
        return None if position is None or self._cursor is None else (position, self._cursor.t_ms * 1000)

    def is_new(self, log: Log) -> bool:
        """Whether the client has no position in a log, and was not in it during this connection."""
        if len(self._spent) > MAX_SPENT or log in self._spent:
            return False
        return self._position(log) is None and not self._may_have_forgotten(log)

    def begins_at(self, log: Log, position: int | None, *, is_owed: bool = False) -> None:
        """Let a new client begin at a position before the end of a log; None for its end.

        With ``is_owed`` it is told if entries behind that position are gone.
        """
        if position is not None:
            self._begins[log] = position
        self._is_marked = self._is_marked or is_owed

    def _may_lose(self, log: Log) -> bool:
        """Whether the client is told if it has missed entries of a log that are gone."""
        if log in self._begins or self._cursor is None:
            return log == MAILBOX and self._is_marked
        return True

    def _position(self, log: Log) -> int | None:
        cursor = self._cursor
        if cursor is None or log in self._spent:
            return None
        if isinstance(log, str):
            return cursor.rooms.get(log)
        return cursor.everybody if log == EVERYBODY else cursor.mailbox

    def _hello(self, fed: Mapping[Log, Joined]) -> Hello[Log]:
        """Return the positions, losses and replay of logs that have answered."""
        known = {log: self._begins.pop(log, self._position(log)) for log in fed}
        return hello(
            {log: None if position is None else feed.Cursor(position) for log, position in known.items()}, fed
        )

    def fed(self, log: Log, joined: Joined, *, is_cut: bool = False) -> None:
        """Take what the client missed of a log. Its messages follow from now on.

        ``is_cut``: The log has older entries behind the position of the client, which it may not see.
        """
        self._late = without(self._late, log)
        if log in self._begins and not self._may_lose(log):
            joined = joined._replace(code="")  # a client that has nothing loses nothing
        if self._record.has_begun:
            self._continue(log, joined, is_cut=is_cut)
        elif self._cursor is UNREADABLE:
            self._fed[log] = joined._replace(entries=(), code=Lost.UNKNOWN)
        else:
            self._fed[log] = joined

    def _continue(self, log: Log, joined: Joined, *, is_cut: bool) -> None:
        """Tell the client of a log that has answered after the first frame."""
        is_forgotten, is_known = self._may_have_forgotten(log), log not in self._begins
        if is_forgotten:
            joined = joined._replace(entries=(), code=joined.code or Lost.UNKNOWN)
        first = self._hello({log: joined})
        if joined.code and self._may_lose(log):
            self.lost(log, joined.position, joined.code)
        if log in self._owed:
            if not joined.code and self._position(log) is None:
                self.moved(log, first.at[log])
        elif isinstance(log, str):
            continues = first.continues if is_known else None
            self._send(frames.joined(log, first.at[log], False if is_forgotten else continues))
        if joined.code or is_cut or not self._waits(log, first.at[log]):
            self._replay(log, joined.entries)

    def _waits(self, log: Log, position: int) -> bool:
        """Put a room off that has answered, until the others have that the first frame could not tell.

        Then they are merged by id. Otherwise a message to several rooms would come again so late that the client has
        forgotten it.
        """
        if log not in self._owed or not isinstance(log, str) or not position:
            return False
        others = self._unanswered - {log}
        if not (self._is_patient and others) and not self.is_behind:
            return False
        t_us = 0 if self._cursor is None else self._cursor.t_ms * 1000
        if not self._node.put_off(self._connection, log, feed.Cursor(position, max(position, t_us))):
            return False
        if others and not self._answered:
            self._connection.loop.call_later(OTHERS_S, self._wait_no_longer)
        self._answered |= {log}
        self.go_on()
        return True

    @property
    def _unanswered(self) -> frozenset[Log]:
        """The rooms that the first frame could not tell, and that have not answered since."""
        return frozenset(log for log in self._owed - self._answered if isinstance(log, str))

    def _wait_no_longer(self) -> None:
        """Go on with the rooms that have answered. Those that have not hold the others no longer."""
        self._is_patient = False
        self.go_on()

    def caught_up(self, log: Log, joined: Joined) -> None:
        """Take what the client has missed of a log while it was slow. Its messages follow from now on."""
        if joined.code:
            self.lost(log, joined.position, joined.code)
        self._replay(log, joined.entries)

    def _replay(self, log: Log, missed: Sequence[LogEntry]) -> None:
        """Send what the client has missed of a log, as much as it reads. Another answer has the rest."""
        if self.part([(log, entry) for entry in missed]):
            self._owes_no_more(log)
            self._tell_outcome()

    def _owes_no_more(self, log: Log) -> None:
        self._owed, self._answered = without(self._owed, log), without(self._answered, log)
        if self._answered:  # those that have waited for it
            self.go_on()

    def part(self, missed: Sequence[tuple[Log, LogEntry]]) -> bool:
        """Send a part of what the client has missed of logs. Return False if it does not read all of it now.

        Each log that was sent something is stopped then.
        """
        replay: list[Encoded] = []
        for each in self._node.replayed(self._connection, self._record.formers, missed):
            replay.append(each)
            self._replayed += 1
            self._connection.push(each)
            if self._connection.falls_behind(each):
                for log, position in {sent.address.log: sent.address.id for sent in replay}.items():
                    if log != each.address.log:
                        self.stop(log, position)
                return False
        for moved in _moved_by(missed, replay):
            self._connection.push(moved)
        return True

    def stop(self, log: Log, position: int) -> bool:
        """Let the slow client out of a log of which it was sent everything up to ``position``."""
        return self._node.stop(self._connection, log, position)

    @property
    def is_behind(self) -> bool:
        """Whether the client lacks messages of logs that it was let out of."""
        return self._node.is_behind(self._connection)

    def go_on(self) -> None:
        """Let the client in again to all logs that it was let out of, unless some wait for the answers of others."""
        if not (self._is_patient and self._answered and self._unanswered):
            self._node.go_on(self._connection)

    def _may_have_forgotten(self, log: Log) -> bool:
        """Whether the cursor may have had a position of this log that is not known here."""
        if not self._has_forgotten or log in self._spent or self._position(log) is not None:
            return False
        return isinstance(log, str) or self._cursor is UNREADABLE

    def _tell_outcome(self) -> None:
        """End a resume that the first frame has put off, once each log has answered."""
        if self._owes_outcome and not self._owed:
            self._owes_outcome = False
            self._count_outcome()
            self._send(frames.resumed(self._is_whole))
            self._send(frames.live(self._replayed))

    def _count_outcome(self) -> None:
        self._node.counters.resumes_whole += self._is_whole
        self._node.counters.resumes_lost += not self._is_whole

    def left(self, room: str) -> None:
        """Forget a room that the connection has left: a later stay has no position."""
        if len(self._spent) <= MAX_SPENT or self._position(room) is not None:  # a client may leave any number
            self._spent |= {room}
        self._late = without(self._late, room)
        self._owes_no_more(room)
        self._fed.pop(room, None)
        self._begins.pop(room, None)
        self._tell_outcome()

    def lost(self, log: Log, position: int, code: str) -> None:
        """Tell the client that it has lost continuity of a log, which continues behind ``position``.

        Before the first frame, messages of a log that has answered are in the outbox. So the loss goes behind them.
        """
        if self._record.has_begun:
            self._is_whole = False
        if self._record.has_begun or log in self._fed:
            self._send(frames.lost([LostLog(log, position, Lost(code))]))

    def moved(self, log: Log, position: int) -> None:
        """Tell the client a position that has moved without a message for it."""
        if self._record.has_begun:
            self._send(frames.moved(positions({log: position})))

    def _send(self, text: str) -> None:
        self._connection.push(ControlFrame(text))


def without(logs: frozenset[Log], log: Log) -> frozenset[Log]:
    """Return the other logs; ``NONE`` if there are none."""
    return logs - {log} or NONE


def positions(at: Mapping[Log, int], rooms: Mapping[str, int | None] | None = None) -> Positions:
    """Return positions by log. ``rooms`` are further rooms, which ``at`` overrides."""
    named = {log: position for log, position in at.items() if isinstance(log, str)}
    return Positions({**(rooms or {}), **named}, at.get(EVERYBODY), at.get(MAILBOX))


def _moved_by(missed: Sequence[tuple[Log, LogEntry]], replay: Sequence[Encoded]) -> list[ControlFrame]:
    """Return the frame for positions behind entries of a replay that are not meant for the client."""
    if len(missed) == len(replay):  # the usual case
        return []
    ends = {log: entry.id for log, entry in missed}
    reached = {each.address.log: each.address.id for each in replay}
    moved = {log: end for log, end in ends.items() if reached.get(log) != end}
    return [ControlFrame(frames.moved(positions(moved)))] if moved else []
