"""Rules that are broken on purpose. The model must find each of them, in the family that is named."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from fastapi_websocket_stabilizer.backends.log_ports import LogEntry, LogRead
from fastapi_websocket_stabilizer.registry import feed as module
from fastapi_websocket_stabilizer.registry import opening
from fastapi_websocket_stabilizer.registry.continuity import Continued, Outcome, reach_of, resumed
from fastapi_websocket_stabilizer.registry.continuity import Lost as Gone
from fastapi_websocket_stabilizer.registry.feed import Action, Cursor, Deliver, Feed, Lost, Read
from fastapi_websocket_stabilizer.registry.ring import Ring

from .world import Rules

Log = Feed[int]


class ReadsEarly(Log):
    """Sends a read before SUBSCRIBE is confirmed."""

    def _ask(self) -> Sequence[Action]:
        is_subscribed, self._is_subscribed = self._is_subscribed, True
        actions = super()._ask()
        self._is_subscribed = is_subscribed
        return actions

    def subscribed(self, run_id: Any) -> Sequence[Action]:
        flight, token = self._flight, self._token
        actions = super().subscribed(run_id)
        if flight is None:
            return actions
        self._flight, self._token = flight, token
        return [action for action in actions if not isinstance(action, Read)]


class TrustsReadsAcrossBreaks(Log):
    """Uses the answer to a read that was sent before the bus broke."""

    def interrupted(self) -> Sequence[Action]:
        flight = self._flight
        actions = super().interrupted()
        self._flight = flight
        return actions

    def subscribed(self, run_id: Any) -> Sequence[Action]:
        flight, token = self._flight, self._token
        actions = super().subscribed(run_id)
        if flight is None:
            return actions
        self._flight, self._token = flight, token
        return [action for action in actions if not isinstance(action, Read)]


class SharesOldReads(Log):
    """Answers a member with a read only, and not with what came since."""

    def _joined(self, member: int, cursor: Cursor, read: LogRead, last: int, is_older: bool) -> Any:
        answer = super()._joined(member, cursor, read, last, is_older)
        if answer is None or answer.code:
            return answer
        return answer._replace(entries=[e for e in answer.entries if e.id <= reach_of(read)])


class TrustsOldReads(Log):
    """Concludes from a read that was sent before the member came that nothing was appended."""

    def _joined(self, member: int, cursor: Cursor, read: LogRead, last: int, is_older: bool) -> Any:
        return super()._joined(member, cursor, read, last, False)


class DropsNothing(Log):
    """Delivers publications whose id is not above ``last``."""

    def entry(self, entry: LogEntry, previous: int) -> Sequence[Action]:
        if not self._held and self.last is not None and entry.id <= self.last:
            return (Deliver(entry),)
        return super().entry(entry, previous)


class IgnoresGaps(Log):
    """Delivers a publication although the one before it did not come."""

    def entry(self, entry: LogEntry, previous: int) -> Sequence[Action]:
        return super().entry(entry, previous if self._held or self.last is None else self.last)


class TrustsTheNewServer(Log):
    """Goes on after a change of the server as if nothing was missed, and drops ids that it has passed."""

    def subscribed(self, run_id: Any) -> Sequence[Action]:
        held = self._held
        is_new = self._run_id not in (None, run_id) and self.last is not None
        actions = super().subscribed(run_id)
        if not is_new:
            return actions
        self._held, self._flight, self._heard = held, None, None
        return [action for action in actions if not isinstance(action, Read)]

    def interrupted(self) -> Sequence[Action]:
        self._is_subscribed = False
        return ()


class ReadsNothingAfterABreak(Log):
    """Goes on after a broken bus connection as if nothing was missed."""

    def subscribed(self, run_id: Any) -> Sequence[Action]:
        actions = super().subscribed(run_id)
        if self.last is None:
            return actions
        self._held, self._flight = False, None
        return [action for action in actions if not isinstance(action, Read)]


class DoesNotDoubt(Log):
    """Reads from a new server, but does not say what the former one had."""

    def _doubt(self, heard: int) -> None:
        return


class TakesAnyServer(Log):
    """Uses the answer of another server than that of the subscription."""

    def read_done(self, token: int, read: LogRead, run_id: Any, whole_us: int) -> Sequence[Action]:
        return super().read_done(token, read, self._run_id, whole_us)


class KeepsTheRing(Log):
    """Keeps the ring when the subscription ends, and puts new entries behind it."""

    __slots__ = ("_old",)

    def unsubscribed(self) -> None:
        old = [*self._ring._entries]
        super().unsubscribed()
        self._ring.restart(0, old)

    def _pending(self, read: LogRead, *rest: Any) -> Any:
        is_cold, old = self.last is None, [*self._ring._entries]
        pending = super()._pending(read, *rest)
        if is_cold and old:
            self._ring.restart(0, [*old, *(e for e in self._ring._entries if e.id > old[-1].id)])
        return pending


class KeepsTheRingAcrossGaps(Log):
    """Keeps the ring when a gap could not be repaired."""

    def _pending(self, read: LogRead, *rest: Any) -> Any:
        old = [*self._ring._entries]
        pending = super()._pending(read, *rest)
        if old and self._ring._entries and self._ring._entries[0].id > old[-1].id:
            self._ring.restart(0, [*old, *self._ring._entries])
        elif old and not self._ring._entries:
            self._ring.restart(0, old)
        return pending


class HidesLosses(Log):
    """Goes on behind a gap that is trimmed, without a word."""

    def _pending(self, read: LogRead, flight: Any, live: Cursor, actions: list[Action]) -> Any:
        pending = super()._pending(read, flight, live, actions)
        actions[:] = [action for action in actions if not isinstance(action, Lost)]
        return pending


class HidesCuts(Log):
    """Takes a cut for an entry."""

    def _cut(self, id_: int, code: str) -> Sequence[Action]:
        if self.last is not None:
            self.last = max(self.last, id_)
        return ()


class ForgetsTheQueue(Log):
    """Drops what came while a read was under way."""

    def _absorb(self, *arguments: Any) -> None:
        super()._absorb(*arguments)

    def _pending(self, read: LogRead, flight: Any, *rest: Any) -> Any:
        pending = super()._pending(read, flight, *rest)
        self._queue = [item for item in self._queue if item.id <= reach_of(read)]
        return pending


class KeepsReadsOverAFullQueue(Log):
    """Uses a read that may be older than what a full queue has dropped."""

    def _enqueue(self, item: Any) -> Sequence[Action]:
        flight = self._flight
        before = self.dropped
        actions = super()._enqueue(item)
        if self.dropped != before and flight is not None:
            self._flight = flight._replace(heard=0)
            return ()
        return actions


class ComparesNothing(Log):
    """Ignores the log's top, so the loss of a last entry is not noticed."""

    def compared(self, top: int) -> Sequence[Action]:
        return ()


class AcceptsForgottenEntries(Log):
    """Expects that a read ends before what was in the queue when it was sent."""

    def _pending(self, read: LogRead, flight: Any, *rest: Any) -> Any:
        return super()._pending(read, flight._replace(heard=0), *rest)

    def _absorb(self, read: LogRead, flight: Any, *rest: Any) -> None:
        super()._absorb(read, flight._replace(heard=0), *rest)


class LagsAtTheTop(Log):
    """Lets a slow member in again where the others are."""

    def drained(self, member: int) -> Sequence[Action]:
        position = self._lagging.pop(member, None)
        return () if position is None else self.attach(member, None)


class LeavesWithTheRead(Log):
    """Gives up a read when a member that waits for it leaves."""

    def detach(self, member: int) -> None:
        if member in self._waiting:
            self._flight = None
        super().detach(member)


class JoinsAnywhere(Log):
    """Lets a member in from the ring although the ring does not know its position."""

    def attach(self, member: int, cursor: Cursor | None) -> Sequence[Action]:
        if self.last is not None and cursor is not None and self._ring.after(cursor.id) is None:
            oldest = self._ring._entries[self._ring._head : self._ring._head + 1]
            if oldest and oldest[0].id > cursor.id:
                cursor = Cursor(self._ring.start)
        return super().attach(member, cursor)


class MovesWithReads(Log):
    """Takes the end of a read for the position of LIVE members, without a delivery."""

    def _answer(self, read: LogRead, flight: Any, actions: list[Action]) -> None:
        super()._answer(read, flight, actions)
        if not self._held and self.last is not None:
            self.last = max(self.last, reach_of(read))


class ZeroIsKnown(Log):
    """Finds the position 0, "the log was empty", in the ring."""

    def attach(self, member: int, cursor: Cursor | None) -> Sequence[Action]:
        if self.last is not None and cursor is not None and cursor.id == 0 == self._ring.start:
            cursor = Cursor(-1)
            self._ring.start = -1
            actions = super().attach(member, cursor)
            self._ring.start = 0
            return actions
        return super().attach(member, cursor)


Resumed = Callable[..., Outcome]


def with_partial_reads(cursor: int, t_us: int, read: LogRead, **rest: bool) -> Outcome:
    return resumed(cursor, t_us, replace(read, is_whole=True), **rest)


def without_time(cursor: int, t_us: int, read: LogRead, **rest: bool) -> Outcome:
    return resumed(cursor, read.at_us, read, **rest)


def without_since(cursor: int, t_us: int, read: LogRead, **rest: bool) -> Outcome:
    return resumed(cursor, t_us, replace(read, since_us=-1), **rest)


def with_old_hole(cursor: int, t_us: int, read: LogRead, **rest: bool) -> Outcome:
    outcome, meta = resumed(cursor, t_us, read, **rest), read.meta
    if isinstance(outcome, Gone) and meta is not None and cursor == meta.reset > 0:
        return Continued(tuple(entry for entry in read.entries if entry.id > cursor))
    return outcome


def with_what_is_left(cursor: int, t_us: int, read: LogRead, **rest: bool) -> Outcome:
    outcome = resumed(cursor, t_us, read, **rest)
    return Continued(read.entries) if outcome == Gone("trimmed") else outcome


def without_hole(cursor: int, t_us: int, read: LogRead, **rest: bool) -> Outcome:
    return resumed(cursor, t_us, replace(read, meta=read.meta and replace(read.meta, hole=0)), **rest)


def load_with_new_base(self: Ring, read: LogRead, end: int) -> None:
    """Take a base that is newer than the list for the id before its first entry."""
    entries = [entry for entry in read.entries if entry.id <= end]
    base = read.meta.base if read.meta is not None else 0
    self.restart(base if entries and read.is_whole else end, [entry for entry in entries if entry.id > base])


def start_behind_replay(cursor: Any, answer: Any) -> int:
    return int(answer.position)


@dataclass(frozen=True)
class Mutation:
    """A broken rule, and the family of states in which it must show."""

    name: str
    family: str
    make: type[Log] = Feed
    rules: Rules = field(default_factory=Rules)
    patch: tuple[Any, str, Any] | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        if self.patch is None:
            yield
        else:
            with mock.patch.object(*self.patch):
                yield


def _decided(name: str, family: str, resumed_: Resumed) -> Mutation:
    return Mutation(name, family, patch=(module, "resumed", resumed_))


def _made(make: type[Log], family: str) -> Mutation:
    return Mutation((make.__doc__ or "").split("\n")[0].rstrip("."), family, make)


def _ruled(name: str, family: str, **rules: bool) -> Mutation:
    return Mutation(name, family, rules=Rules(**rules))


MUTATIONS = (
    _made(ReadsEarly, "first member"),
    _made(TrustsReadsAcrossBreaks, "bus breaks"),
    _made(ReadsNothingAfterABreak, "bus breaks"),
    _made(SharesOldReads, "members share reads"),
    _made(TrustsOldReads, "a read is shared with a client of another node"),
    _made(LeavesWithTheRead, "members share reads"),
    _made(ForgetsTheQueue, "first member"),
    _made(DropsNothing, "first member"),
    _made(IgnoresGaps, "bus loses"),
    _made(ComparesNothing, "bus loses"),
    _made(MovesWithReads, "bus loses"),
    _made(KeepsTheRing, "members share reads"),
    _made(KeepsTheRingAcrossGaps, "lists are trimmed"),
    _made(HidesLosses, "lists are trimmed"),
    _made(KeepsReadsOverAFullQueue, "lists are trimmed"),
    _made(LagsAtTheTop, "lists are trimmed"),
    _made(JoinsAnywhere, "lists are trimmed"),
    _made(HidesCuts, "deleted and flushed"),
    _made(AcceptsForgottenEntries, "deleted and flushed"),
    _made(ZeroIsKnown, "a log begins again"),
    _made(TrustsTheNewServer, "failover, one node"),
    _made(TakesAnyServer, "failover, one node"),
    _made(DoesNotDoubt, "failover, two nodes"),
    _decided("takes the tail of a log for the whole", "lists are trimmed", with_partial_reads),
    _decided("takes any old contact for a recent one", "lists expire", without_time),
    _decided(
        "takes a contact from before a flush for a recent one",
        "deleted and flushed",
        without_since,
    ),
    _decided("knows a cut behind which entries were trimmed", "a cut log expires", with_old_hole),
    _decided("ignores holes", "failover, two nodes", without_hole),
    _decided("replays what is left of a trimmed log", "lists are trimmed", with_what_is_left),
    Mutation(
        "believes a base that is newer than the list",
        "a list expires while it is read",
        patch=(Ring, "load", load_with_new_base),
    ),
    Mutation(
        "says hi with the position behind the replay",
        "a replay is cut off",
        patch=(opening, "_start", start_behind_replay),
    ),
    _ruled("does not move the base when a list has expired", "lists expire", expiry_moves_base=False),
    _ruled("does not move the base when it trims", "lists are trimmed", trim_moves_base=False),
    _ruled("cuts at an id that an entry has", "failover, two nodes", cut_is_fresh=False),
    _ruled("does not verify a log after a failover", "failover, two nodes", verifies=False),
    _ruled(
        "restores a lost tail as if the log began with it",
        "return after failover",
        restores_without_base=True,
    ),
    _ruled("restores a lost tail behind newer entries", "failover, two nodes", restores_behind_newer=True),
    _ruled("reads the meta before the list", "reads in three steps", list_is_read_first=False),
    _ruled("forgets which messages came through another log", "one message in two logs", keys_are_kept=False),
    _ruled(
        "withholds a second copy from those who had no first",
        "one message in two logs",
        copies_are_exact=False,
    ),
    _ruled(
        "moves the position of another log with its copy", "one message in two logs", copy_moves_both=True
    ),
)
