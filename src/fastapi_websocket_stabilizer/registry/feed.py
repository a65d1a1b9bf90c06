"""The history of one log on one node: what arrived, what members still lack, and what has to be read. Pure.

A log is the history of a room, of everybody, or of one client (its mailbox). Redis keeps its entries and publishes
each one. Every publication names the entry before it. A ``Feed`` turns these publications, and reads of the log, into
deliveries. A member receives a contiguous run of the log, or is told that the run is broken before any later entry.

**States.** ``last`` is the id up to which this node has delivered the log.

| state | condition | publications |
|---|---|---|
| COLD | ``last`` is None | queue, if subscribed; nothing is LIVE |
| FLOWING | the run is whole up to ``last`` | delivered at once |
| HELD | something after ``last`` may be missing | queue, volatile messages too, to keep the order |
| DOUBT | HELD, and Redis may have lost what this node has heard | queue; the next read has ``heard`` |

**Events.**

| event | reaction |
|---|---|
| subscribed, same run_id | HELD if not COLD, and read |
| subscribed, another run_id | DOUBT if anything was heard, and read; the ring dies |
| interrupted | HELD; the read under way is void; nothing is read until subscribed |
| unsubscribed | COLD; ring, queue and read are void |
| entry, ``previous == last`` | deliver; ``last`` is its id; keep it in the ring |
| entry, ``id <= last`` | drop: it was delivered |
| entry, ``previous > last`` | HELD, and read: the bus has lost what is between |
| entry, ``previous == 0``, ``id > last`` | HELD, and read: the log began again |
| entry, ``0 < previous < last < id`` | DOUBT, and read: Redis has lost what was delivered |
| cut, ``id > last`` | ``Lost`` for LIVE members; ``last`` is its id; the read under way is void |
| read answered | continue LIVE members or ``Lost``; answer members; drain the queue |
| the queue's chain breaks, or a member is not covered | read again |
| released | deliver the volatile messages of the queue |
| compared, ``top > last`` | HELD, and read: the bus has lost the end |
| attach, cursor in the ring, or none | ``Joined`` in one step, if not COLD |
| attach, any other | wait for a read, also for one that is under way |
| lag | the member is not LIVE any more; it has a position of its own |
| drained | as attach, with that position |

**Rules, and what breaks without them.**

1. A read is sent only after the subscription is confirmed, and is void after an interruption. Otherwise an entry that
   is appended between the read and the subscription is in neither.
2. From the subscription on, each publication is in the ring, in the queue, or below a read. So a member may share a
   read that was sent before it began to wait. What the read is too old for is in the ring or the queue. The ring
   keeps all of it while members wait. But only a cursor that the log knows may share. The member may have seen, on
   another node, what was appended after the read. To such a read, its cursor says nothing.
3. A read counts only if its connection reached the same server (``run_id``) as the subscription. Ids of one server
   say nothing about the entries of another one, which may be a former primary.
4. ``id <= last`` is dropped within one run_id only. A promoted replica whose clock is behind gives new entries ids
   that this node has already passed.
5. The ring is contiguous. It dies with the subscription, with an unrepaired gap and with the run_id. The id 0 is in
   no ring: it only says that a log was empty once.
6. What was in the queue before a read was sent is in that read. If it is not, Redis has lost it: ``Lost``.
7. LIVE members have no state here. Their position is ``last``. So delivery costs nothing per member.
8. A loss is announced with the position from which the log continues, and nothing is replayed after it.

A volatile message keeps its place among entries, except among those that a repair found and the bus never brought.
While messages are delivered without Redis, it does not wait for entries either.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from ..backends.log_ports import Heard, LogEntry, LogRead
from . import continuity
from .continuity import Continued, Outcome, Unread, cut_of, reach_of, resumed
from .ring import Ring

RING_BYTES = 256 * 1024
"""Bytes of recent entries that a node keeps of one log, so that most members who return need no read."""
QUEUE_BYTES = 1024 * 1024
"""Bytes that wait for a read. More are dropped and read again. The ring keeps as much while members wait."""
TAIL = 256
"""Entries in a read that repairs a gap or answers members, before the whole log is read."""

M = TypeVar("M", bound=Hashable)


class Cursor(NamedTuple):
    """The position of a member in a log.

    Attributes:
        id: Id of the last entry that it has, 0 if the log was empty.
        t_us: Redis time up to which it has everything, 0 if unknown.
    """

    id: int
    t_us: int = 0


class Deliver(NamedTuple):
    """Give an entry or a volatile message to each LIVE member."""

    message: Any


class Joined(NamedTuple):
    """Answer a member that attached: it is LIVE from now on, behind ``entries``.

    Attributes:
        member: Who attached.
        entries: What it missed.
        position: ``last`` of the feed.
        code: Not empty if the member lost continuity. Nothing is replayed then.
    """

    member: Any
    entries: Sequence[Any]
    position: int
    code: str = ""


class Lost(NamedTuple):
    """Tell each LIVE member that it lost continuity and continues from ``position``."""

    position: int
    code: str


class Read(NamedTuple):
    """Read the log, and answer with ``Feed.read_done`` or ``Feed.read_failed``.

    Attributes:
        token: To be given back.
        last: How many of the newest entries, as for ``LogStore.read``; None for all.
        heard: Not None: Redis may have lost these entries, so call ``LogStore.verify`` first, on the same connection.
            Not for ids that are older than a meta lasts: a log that was quiet for so long has none.
    """

    token: int
    last: int | None
    heard: Heard | None = None


Action = Deliver | Joined | Lost | Read


class _Queued(NamedTuple):
    """Something that the bus brought and that cannot be delivered yet."""

    message: Any
    size: int
    id: int = 0
    previous: int = 0
    code: str = ""


class _Flight(NamedTuple):
    """A read under way; ``heard`` items of the queue are older than it."""

    token: int
    heard: int


class Feed(Generic[M]):
    """One log on one node. Each event returns the actions that the caller carries out, in their order.

    The caller keeps the table of LIVE members. It adds a member when it carries out ``Joined``, and removes it before
    it calls ``detach`` or ``lag``. It sends one read at a time, the one that ``Read`` asked for last.

    Attributes:
        last: Id up to which this node has delivered the log, and the position of LIVE members. None if COLD.
        dropped: Messages that were dropped from a full queue. Entries among them are read again.
    """

    __slots__ = (
        "_again", "_deep", "_flight", "_heard", "_held", "_is_lasting", "_is_subscribed", "_lagging", "_paused",
        "_peak", "_queue", "_queue_limit", "_queued_bytes", "_ring", "_ring_limit", "_run_id", "_token", "_waiting",
        "_whole_run_id", "dropped", "last",
    )  # fmt: skip

    def __init__(
        self, *, is_lasting: bool = True, ring_bytes: int = RING_BYTES, queue_bytes: int = QUEUE_BYTES
    ) -> None:
        self._is_lasting = is_lasting  # Redis evicts no keys
        self._ring_limit, self._queue_limit = ring_bytes, queue_bytes
        self._token = 0
        self.dropped: int = 0
        self._waiting: dict[M, tuple[Cursor | None, int]] = {}  # with the token of the read before
        self._lagging: dict[M, Cursor] = {}
        self._ring: Ring = Ring()
        self._reset()

    def _reset(self) -> None:
        self.last: int | None = None
        self._is_subscribed = False
        self._held = True  # COLD counts as held
        self._run_id: Hashable = None  # of the subscription
        self._whole_run_id: Hashable = None  # of the server that ``last`` and ``_peak`` are of
        self._heard: Heard | None = None  # DOUBT: what Redis may have lost
        self._peak = 0  # highest id that was queued since the last read
        self._ring.restart(0)
        self._queue: list[_Queued] = []
        self._queued_bytes = 0
        self._flight: _Flight | None = None
        self._again = self._deep = self._paused = False

    @property
    def is_flowing(self) -> bool:
        """Whether LIVE members have everything that this node knows of."""
        return not self._held

    @property
    def is_idle(self) -> bool:
        """Whether no member waits or lags. LIVE members are the caller's."""
        return not self._waiting and not self._lagging

    @property
    def bytes(self) -> int:
        """Bytes of the ring and of the queue."""
        return self._ring.bytes + self._queued_bytes

    @property
    def queued_bytes(self) -> int:
        """Bytes of messages that wait for a read."""
        return self._queued_bytes

    def before_last(self, count: int) -> int | None:
        """Return the position before the newest ``count`` entries; None if a read must tell."""
        return None if self._held else self._ring.before_last(count)

    def shrink(self) -> Sequence[Action]:
        """Free memory: members whose cursor was in the ring need a read then, and the queue is read again."""
        if not self._waiting and self.last is not None:
            self._ring.restart(self.last)
        return self._drop_queue() if self._queue else ()

    # The bus

    def subscribed(self, run_id: Hashable) -> Sequence[Action]:
        """Expect publications from now on: the newest SUBSCRIBE is confirmed, by the server with ``run_id``."""
        heard = max(self.last or 0, self._peak)
        if self._whole_run_id not in (None, run_id) and heard:
            self._doubt(heard)
        self._run_id, self._whole_run_id = run_id, self._whole_run_id or run_id
        self._is_subscribed, self._held = True, True
        self._flight, self._paused = None, False
        return [*self.released(drops_entries=True), *self._ask()]

    def interrupted(self) -> Sequence[Action]:
        """Expect nothing until ``subscribed``: the bus connection is lost, and maybe messages with it."""
        self._is_subscribed, self._held, self._flight = False, True, None
        return self.released(drops_entries=True)

    def unsubscribed(self) -> None:
        """Forget the log: UNSUBSCRIBE was sent. What still arrives is ignored until ``subscribed``."""
        self._reset()

    def entry(self, entry: LogEntry, previous: int) -> Sequence[Action]:
        """Take a publication. ``previous`` is the id of the entry before it, 0 if Redis knew none."""
        if not self._held:
            last = self.last
            if previous == last:
                self.last = entry.id
                self._ring.append(entry, self._queue_limit if self._waiting else self._ring_limit)
                return (Deliver(entry),)
            if last is None or entry.id <= last:
                return ()
            self._hold(previous)
        return self._enqueue(_Queued(entry, entry.size, entry.id, previous))

    def volatile(self, message: Any, size: int) -> Sequence[Action]:
        """Take a message to the members of the log that is not stored."""
        if self._held and self._is_subscribed:
            return self._enqueue(_Queued(message, size))
        return (Deliver(message),)

    def released(self, *, drops_entries: bool = False) -> Sequence[Action]:
        """Deliver the volatile messages that wait: later ones are delivered without Redis. Entries wait on.

        With ``drops_entries`` they do not, because a read after the next subscription has them.
        """
        volatile = [Deliver(item.message) for item in self._queue if not item.id]
        self._queue = [item for item in self._queue if item.id and not drops_entries]
        self._queued_bytes = sum(item.size for item in self._queue)
        return list(volatile)

    def cut(self, id_: int, code: str) -> Sequence[Action]:
        """Take the news that cursors below ``id_`` are lost: a hole was found, or the log was deleted."""
        if self._held:
            return self._enqueue(_Queued(None, 0, id_, 0, code))
        return self._cut(id_, code)

    def compared(self, top: int) -> Sequence[Action]:
        """Take the log's top, which was asked for after everything that arrived so far. 0 if there is none."""
        if self._held or self.last is None or top <= self.last:
            return ()  # a top below ``last`` is only older than it
        self._held = True
        self._again = self._flight is not None  # that read may be older than the top
        return self._ask()

    # Reads

    def read_done(self, token: int, read: LogRead, run_id: Hashable, whole_us: int) -> Sequence[Action]:
        """Take the answer to a read.

        Args:
            token: Of the read.
            read: What the log has.
            run_id: Of the server that answered.
            whole_us: Redis time up to which this node had missed nothing, as its clients are told.
        """
        flight = self._flight
        if flight is None or flight.token != token:
            return ()
        self._flight = None
        if run_id != self._run_id:
            self._paused = True
            return ()
        self._deep = False
        actions: list[Action] = []
        if self._held or self._is_behind(read):
            self._absorb(read, flight, Cursor(self.last or 0, whole_us), actions)
        else:
            self._answer(read, flight, actions)
        if self.last is not None:
            self._ring.deepen(read)
        if not self._waiting:
            self._ring.trim(self._ring_limit)
        actions += self._ask()
        return actions

    def read_failed(self, token: int) -> None:
        """Wait for ``retry``, or for the next subscription: the read has no answer."""
        if self._flight is not None and self._flight.token == token:
            self._flight, self._paused = None, True

    def retry(self) -> Sequence[Action]:
        """Send the read again that has failed, or that another server answered."""
        self._paused = False
        return self._ask()

    # Members

    def attach(self, member: M, cursor: Cursor | None) -> Sequence[Action]:
        """Let a member in. ``cursor`` is its position; None if it has none and begins at the top."""
        self._lagging.pop(member, None)
        if self.last is not None:
            missed = [] if cursor is None else self._ring.after(cursor.id) if cursor.id else None
            if missed is not None:
                return (Joined(member, missed, self.last),)
        self._waiting[member] = cursor, self._token
        return self._ask()

    def detach(self, member: M) -> None:
        """Forget a member. A read that it waited for goes on for the others."""
        self._waiting.pop(member, None)
        self._lagging.pop(member, None)

    def lag(self, member: M, position: Cursor) -> None:
        """Let a slow member out: it has everything up to ``position``, and is no longer LIVE."""
        self._lagging[member] = position

    def lagging(self, member: M) -> Cursor | None:
        """Return the position of a slow member; None if it is not slow."""
        return self._lagging.get(member)

    def far_behind(self, member: M) -> Cursor | None:
        """Return the position of a slow member for which the log must be read, while no other one lacks anything."""
        is_told = self._held or self.missed(member) is not None
        return None if is_told else self._lagging.get(member)

    def missed(self, member: M) -> Sequence[LogEntry] | None:
        """Return what a slow member lacks of what this node has delivered; None if the ring does not tell."""
        position = self._lagging.get(member)
        return self._ring.after(position.id) if position is not None and position.id else None

    def drained(self, member: M) -> Sequence[Action]:
        """Let a slow member in again: its socket is writable."""
        position = self._lagging.pop(member, None)
        return () if position is None else self.attach(member, position)

    # The queue

    def _hold(self, previous: int) -> None:
        self._held = True
        if self.last is not None and 0 < previous < self.last:
            self._doubt(self.last)

    def _doubt(self, heard: int) -> None:
        if self._heard is None or heard > self._heard.last:
            tail = self._ring.after(self._ring.start) if heard == self.last else None
            self._heard = Heard(heard, tuple(tail), self._ring.start) if tail else Heard(heard)
        if self.last is not None:
            self._ring.restart(self.last)

    def _enqueue(self, item: _Queued) -> Sequence[Action]:
        if not self._is_subscribed:
            return ()  # of an earlier subscription
        self._queue.append(item)
        self._queued_bytes += item.size
        if self._heard is None:
            self._peak = max(self._peak, item.id)
        return self._ask() if self._queued_bytes <= self._queue_limit else self._drop_queue()

    def _drop_queue(self) -> Sequence[Action]:
        self.dropped += len(self._queue)
        self._queue, self._queued_bytes = [], 0
        self._flight = None  # it may be older than what was dropped
        return self._ask()

    # Answers

    def _ask(self) -> Sequence[Action]:
        is_held = self._held and (self.last is not None or self._heard is not None)
        if not (is_held or self._waiting) or self._flight or self._paused or not self._is_subscribed:
            return ()
        lacks = self.last is not None or any(cursor is not None for cursor, _ in self._waiting.values())
        self._token += 1
        self._flight = _Flight(self._token, len(self._queue))
        self._again = False
        return (Read(self._token, None if self._deep else TAIL if lacks else 1, self._heard),)

    def _is_behind(self, read: LogRead) -> bool:
        """Whether a member that waits has seen entries that this node has not delivered yet."""
        return any(
            cursor is not None
            and self._is_ahead(cursor, read)
            and isinstance(self._resumed(cursor, read), Continued)
            for cursor, _ in self._waiting.values()
        )

    def _is_ahead(self, cursor: Cursor, read: LogRead) -> bool:
        return read.meta is not None and self.last is not None and cursor.id > self.last

    def _resumed(self, cursor: Cursor, read: LogRead, *, is_own_time: bool = False) -> Outcome:
        return resumed(cursor.id, cursor.t_us, read, is_lasting=self._is_lasting, is_own_time=is_own_time)

    def _absorb(self, read: LogRead, flight: _Flight, live: Cursor, actions: list[Action]) -> None:
        """Continue LIVE members up to the end of the read, answer those who wait, and drain the queue."""
        reach, pending = reach_of(read), self._pending(read, flight, live, actions)
        if pending is None:
            self._deep = True
            return
        self._held, self._heard, self._peak = False, None, 0
        self._whole_run_id = self._run_id
        self._answer(read, flight, actions)
        queue, self._queue, self._queued_bytes = self._queue, [], 0
        later = next((i for i, item in enumerate(queue) if i >= flight.heard and item.id > reach), len(queue))
        for item in queue[:later]:
            if not item.id:
                actions.append(Deliver(item.message))
            pending = self._deliver(pending, item.id, actions)
        self._deliver(pending, reach, actions)
        self._answer(read, flight, actions)
        for item in queue[later:]:
            actions += self._again_from_bus(item)
        if self._again:
            self._held = True

    def _pending(
        self, read: LogRead, flight: _Flight, live: Cursor, actions: list[Action]
    ) -> Sequence[LogEntry] | None:
        """Return what LIVE members still lack of the read, after a ``Lost`` if need be. None if it is too short."""
        reach = reach_of(read)
        if self.last is None:
            self.last = self._place(read)
            self._ring.load(read, self.last)
            return [entry for entry in read.entries if entry.id > self.last]
        outcome = self._resumed(live, read, is_own_time=True)
        if isinstance(outcome, Unread):
            return None
        known = max(reach, self.last) if self._heard is None else reach
        is_forgotten = any(item.id > known for item in self._queue[: flight.heard])
        if isinstance(outcome, Continued) and not is_forgotten:
            return outcome.entries
        self.last = reach
        self._ring.load(read, reach)
        actions.append(Lost(reach, outcome.code if isinstance(outcome, continuity.Lost) else "unknown"))
        return ()

    def _place(self, read: LogRead) -> int:
        """Return where a COLD log begins: before the first publication, so that volatile ones keep their place."""
        first = next((item.previous for item in self._queue if item.id and not item.code), 0)
        is_there = first >= cut_of(read) and any(entry.id == first for entry in read.entries)
        return first if is_there else reach_of(read)

    def _deliver(self, pending: Sequence[LogEntry], end: int, actions: list[Action]) -> Sequence[LogEntry]:
        """Deliver what is pending up to the id ``end``, and return the rest."""
        count = 0
        for entry in pending:
            if entry.id > end:
                break
            count += 1
            self.last = entry.id
            self._ring.append(entry, self._queue_limit)
            actions.append(Deliver(entry))
        return pending[count:]

    def _again_from_bus(self, item: _Queued) -> Sequence[Action]:
        if item.code:
            return self.cut(item.id, item.code)
        if item.id:
            return self.entry(item.message, item.previous)
        return self.volatile(item.message, item.size)

    def _answer(self, read: LogRead, flight: _Flight, actions: list[Action]) -> None:
        """Answer each member that waits, if the read covers it up to ``last``."""
        last = self.last
        for member, (cursor, since) in tuple(self._waiting.items()):
            if last is None:
                return
            answer = (
                Joined(member, (), last)
                if cursor is None
                else self._joined(member, cursor, read, last, since >= flight.token)
            )
            if answer is not None:
                del self._waiting[member]
                actions.append(answer)

    def _joined(self, member: M, cursor: Cursor, read: LogRead, last: int, is_older: bool) -> Joined | None:
        """Answer one member. ``is_older``: the read was sent before the member came."""
        outcome = self._resumed(cursor, read)
        if isinstance(outcome, Unread):
            self._deep = True
            return None
        is_known = isinstance(outcome, Continued) and outcome.is_known
        if is_older and not is_known:
            return None  # the member may have seen what came after this read
        if isinstance(outcome, continuity.Lost):
            return Joined(member, (), last, outcome.code)
        newer = self._newer(read, last)
        if newer is None or self._is_ahead(cursor, read):
            return None
        seen = cursor.id if is_known else 0  # the meta may be newer than the list, and so may the cursor
        missed = [entry for entry in outcome.entries if entry.id <= last]
        return Joined(member, missed + [entry for entry in newer if entry.id > seen], last)

    def _newer(self, read: LogRead, last: int) -> Sequence[LogEntry] | None:
        """Return what was delivered behind the end of a read; None if the ring has dropped some of it."""
        if last <= reach_of(read):
            return ()
        # Nothing is behind the end of a log that was forgotten: its next entry does not follow ``last``, and is held.
        return self._ring.after(reach_of(read)) if read.meta is not None or self._ring.start == 0 else ()

    def _cut(self, id_: int, code: str) -> Sequence[Action]:
        if self.last is None or id_ <= self.last:
            return ()
        self.last = id_
        self._ring.restart(id_)
        self._flight = None  # a read that does not know of the cut would continue members across it
        return (Lost(id_, code), *self._ask())
