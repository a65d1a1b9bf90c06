"""Checks what followers of logs have received, and names every promise that it breaks. Pure, as ``checker``.

A *follower* is one client object of ``stabilizer.v1``. A *run* of a log begins with its first position, or with a
loss. The senders know the ids of their messages, and each id shows the time at which Redis stored its message.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tests.chaos.history import Fault, Follower, Heard, History, Membership, excluded_of, mailbox_of

SLACK_S = 3.0
"""Seconds of delay that a busy machine may add."""
EMPTIED = {"flush", "restart empty"}
"""Faults after which a log has nothing."""
STALE = {"restart stale", "failover"}
"""Faults after which a log lacks its newest messages. They begin when Redis' content is that of later."""
DELETED = {"delete history"}
"""Deletions of one log, which is the target."""


SEPARATED = {"freeze", "kill", "cut", "blackhole", "throttle"}


class Logs:
    """All that was stored, according to senders and followers.

    Attributes:
        texts: The messages of each log by id.
        ids: The ids of each log, sorted.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self.texts: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for stored in history.stored:
            for log, id_ in stored.ids.items():
                self.texts[log][id_].add(stored.text)
        for follower in history.followers:
            for heard in _entries(follower):
                self.texts[heard.log][heard.id].add(heard.text)
        self.ids: dict[str, list[int]] = {log: sorted(found) for log, found in self.texts.items()}

    def between(self, log: str, after: int, before: int) -> list[int]:
        """Return the ids of a log between two others."""
        ids = self.ids.get(log, [])
        return ids[bisect_right(ids, after) : bisect_left(ids, before)]

    def at_s(self, id_: int) -> float:
        """Return the time at which a message was stored."""
        return (id_ - self._history.start_us) / 1_000_000

    def gone(self, log: str, at_s: float) -> int:
        """Return the newest id that Redis may have lost at a time; 0 if it has lost none.

        An emptied log begins again at 0, although older ids were in use.
        """
        emptied = [fault.ended_s for fault in _losses(self._history, log) if fault.began_s <= at_s]
        return self._history.start_us + int(max(emptied) * 1_000_000) if emptied else 0

    def were_repeated(self, log: str, ids: Sequence[int]) -> bool:
        """Whether Redis lost the content of a log between the first and the last of these entries, which rise."""
        first_s, last_s = self.at_s(ids[0]), self.at_s(ids[-1])
        return any(f.began_s <= last_s and f.ended_s >= first_s for f in _losses(self._history, log))


@dataclass(slots=True)
class Step:
    """An entry or a loss, and the place of the follower in that log before.

    Attributes:
        before: Id of the entry before it, or top of the loss before it.
        gone: Newest id that Redis may have lost before the run.
        is_after_loss: Whether the run began with a loss.
        since_s: When the run began.
    """

    heard: Heard
    before: int
    gone: int
    is_after_loss: bool
    since_s: float


@dataclass(slots=True)
class Walk:
    """The way of one follower through its logs."""

    steps: list[Step] = field(default_factory=list)
    last: dict[str, Step] = field(default_factory=dict)
    """Where it is at the end, in the logs that its connection has."""


def walk(logs: Logs, follower: Follower) -> Walk:
    """Follow a follower through its logs."""
    found, places, here = Walk(), dict[str, Step](), set[str]()
    for heard in follower.heard:
        if heard.what == "hi":
            here.clear()
        if heard.what in ("hi", "in"):
            here.update(log for log, position in heard.positions.items() if position is not None)
            _begin(logs, places, heard)
        elif heard.what == "out":
            here.discard(heard.log)
            places.pop(heard.log, None)
        elif heard.what == "lost" or heard.id:
            _move(logs, found, places, heard)
    found.last = {log: place for log, place in places.items() if log in here}
    return found


def _begin(logs: Logs, places: dict[str, Step], heard: Heard) -> None:
    """Begin runs of new logs. A known position moves only with entries and losses."""
    for log, position in heard.positions.items():
        if position is None:
            places.pop(log, None)
        elif log not in places or (heard.what == "hi" and not heard.had_cursor):
            gone = logs.gone(log, heard.at_s)
            places[log] = Step(heard, position, gone, is_after_loss=False, since_s=heard.at_s)


def _move(logs: Logs, found: Walk, places: dict[str, Step], heard: Heard) -> None:
    place = places.get(heard.log)
    if place is None:  # without a position nothing is promised yet
        return
    found.steps.append(replace(place, heard=heard))
    if heard.what == "entry":
        places[heard.log] = replace(place, before=heard.id, gone=0, is_after_loss=False)
    else:
        gone = logs.gone(heard.log, heard.at_s)
        places[heard.log] = Step(heard, heard.id, gone, is_after_loss=True, since_s=heard.at_s)


def _entries(follower: Follower) -> Iterator[Heard]:
    return (heard for heard in follower.heard if heard.what == "entry" and heard.id)


def _walks(history: History) -> Iterator[tuple[Logs, Follower, Walk]]:
    logs = Logs(history)
    return ((logs, follower, walk(logs, follower)) for follower in history.followers)


# A run


def contiguous(history: History) -> Iterable[str]:
    """A run has every entry that was stored between its first and its last.

    So a loss is told before any later entry of its log.
    """
    for logs, follower, way in _walks(history):
        for heard, step in ((step.heard, step) for step in way.steps if step.heard.what == "entry"):
            gap = missing(history, logs, follower, step, heard.log, heard.id)
            if gap:
                what = f"{len(gap)} between, the first is {gap[0]}"
                yield f"{follower.client} got {heard.id} of {heard.log} after {step.before}, without {what}"


def missing(
    history: History, logs: Logs, follower: Follower, place: Step, log: str, before: int
) -> list[int]:
    """Return ids from a place to another id that a follower should have received and did not."""
    between = logs.between(log, max(place.before, place.gone), before)
    got = {heard.text for heard in _entries(follower)} if between else set()
    return [
        id_
        for id_ in between
        if not any(text in got or excluded_of(text) == follower.client for text in logs.texts[log][id_])
        and not _is_unheard(history, log, logs.at_s(id_), id_)
    ]


def _is_unheard(history: History, log: str, at_s: float, id_: int) -> bool:
    """Whether Redis has lost an entry that reached no follower (docs/design.md, "History on a node")."""
    was_lost = any(f.kind in STALE and f.began_s <= at_s <= f.ended_s for f in history.faults)
    was_lost = was_lost or _was_heard_by_none(history, log, at_s, id_)
    heard = (heard for follower in history.followers for heard in _entries(follower))
    return was_lost and not any((each.log, each.id) == (log, id_) for each in heard)


def _was_heard_by_none(history: History, log: str, at_s: float, id_: int) -> bool:
    """Whether Redis lost a message while each replica that is subscribed to its log was separated from Redis.

    So none can put the message back, or knows of the loss. Of a mailbox, that is the replica of its client. Whether a
    replica has received a message of a room is known in a simulation only.
    """
    if not log.startswith(mailbox_of("")):
        return [log, id_] in history.unheard and any(
            f.kind in EMPTIED and f.ended_s >= at_s for f in history.faults
        )
    lost_s = min((f.ended_s for f in history.faults if f.kind in EMPTIED and f.ended_s >= at_s), default=0.0)
    return any(f.kind in SEPARATED and f.began_s <= lost_s and f.ended_s >= at_s for f in history.faults)


def ordered(history: History) -> Iterable[str]:
    """The ids of a run rise, so each entry comes once."""
    for _, follower, way in _walks(history):
        for step in way.steps:
            if step.heard.what == "entry" and step.heard.id <= step.before and not step.is_after_loss:
                yield f"{follower.client} got {step.heard.id} of {step.heard.log} after {step.before}"


def nothing_before_the_top(history: History) -> Iterable[str]:
    """Behind a loss, nothing up to its top is replayed."""
    for _, follower, way in _walks(history):
        for step in way.steps:
            if step.heard.what == "entry" and step.heard.id <= step.before and step.is_after_loss:
                yield f"{follower.client} got {step.heard.id} of {step.heard.log}, which lost {step.before}"


def one_copy(history: History) -> Iterable[str]:
    """A follower gets each message once, also one that was sent to several rooms.

    A message that is not stored has no place that a cursor could name. A replica that is slow may deliver it after
    the client has come from another one. So it comes once in each connection. A message that was stored twice, as
    ``appended_once`` allows, has two places, and comes at both.
    """
    logs = Logs(history)
    for follower in history.followers:
        places, connection = defaultdict[str | tuple[int, str], list[tuple[str, int]]](list), 0
        for heard in follower.heard:
            connection += heard.what == "hi"
            if heard.what == "entry":
                places[heard.text if heard.id else (connection, heard.text)].append((heard.log, heard.id))
        twice = [text for text, found in places.items() if len(found) > 1 and not _repeated(logs, found)]
        if twice:
            yield f"{follower.client} got {len(twice)} messages more than once, the first is {twice[0]!r}"


def _repeated(logs: Logs, places: Sequence[tuple[str, int]]) -> bool:
    """Whether these are different places in one log, of which Redis lost the content in between."""
    (log, *others), ids = {log for log, _ in places}, sorted(id_ for _, id_ in places)
    return not others and len(set(ids)) == len(ids) and ids[0] > 0 and logs.were_repeated(log, ids)


def exclusions(history: History) -> Iterable[str]:
    """A follower gets no message that excludes it, neither live nor in a replay."""
    for follower in history.followers:
        for heard in follower.heard:
            if heard.what == "entry" and excluded_of(heard.text) == follower.client:
                yield f"{follower.client} got {heard.text!r}, which excludes it"


def caught_up(history: History) -> Iterable[str]:
    """After the run has settled, a connected follower has all entries of its logs."""
    for logs, follower, way in _walks(history):
        for log, last in way.last.items() if follower.is_live else ():
            gap = missing(history, logs, follower, last, log, 2**53)
            if gap:
                what = f"{len(gap)}: {gap[0]} is the next"
                yield f"{follower.client} is at {last.before} of {log}, without {what}"


# Resumes and losses


def outcome(history: History) -> Iterable[str]:
    """``re`` agrees with the losses in the same ``hi``, and is there if there was a cursor."""
    for follower in history.followers:
        for heard in (heard for heard in follower.heard if heard.what == "hi" and heard.had_cursor):
            is_right = heard.resumed in ("later", not heard.lost)
            if not is_right:
                yield f"{follower.client} resumed as {heard.resumed} with {heard.lost} lost logs"


def loss_has_a_cause(history: History) -> Iterable[str]:
    """A log loses continuity only if Redis lost content, or the log exceeded its bounds."""
    for logs, follower, way in _walks(history):
        for step in (step for step in way.steps if step.heard.what == "lost"):
            heard = step.heard
            if not _has_cause(history, logs, step):
                yield f"{follower.client} at {step.before} lost {heard.log} up to {heard.id}: {heard.text}"


def _has_cause(history: History, logs: Logs, step: Step) -> bool:
    heard, since_s = step.heard, step.since_s - SLACK_S
    faults = _losses(history, heard.log)
    return any(f.ended_s >= since_s and f.began_s <= heard.at_s for f in faults) or _has_exceeded(
        history, logs, step
    )


def _has_exceeded(history: History, logs: Logs, step: Step) -> bool:
    """Whether more was stored behind the position of a follower than the log keeps, or for too long.

    The top of a trimmed log was the id of a message, also if its sender died before it knew that.
    """
    bounds, heard = history.bounds[step.heard.log], step.heard
    known = logs.between(heard.log, step.before, 2**53) + [heard.id] * (heard.text == "trimmed")
    behind = {id_ for id_ in known if logs.at_s(id_) <= heard.at_s}
    is_old = bool(behind) and logs.at_s(min(behind)) <= heard.at_s - bounds.seconds
    return is_old or len(behind) >= bounds.messages


def _losses(history: History, log: str) -> list[Fault]:
    return [
        f
        for f in history.faults
        if f.kind in EMPTIED | STALE or (f.kind in DELETED and f.target in ("", log))
    ]


def revoked(history: History) -> Iterable[str]:
    """A room that the application has taken from a client is not in a later ``hi``.

    A replica that is separated from Redis at that time enters its clients again when it returns.
    """
    changes = sorted(history.memberships, key=lambda change: change.ended_s)
    for follower in history.followers:
        for heard in (heard for heard in follower.heard if heard.what == "hi"):
            for log in heard.positions:
                mine = [c for c in changes if (c.client, c.room) == (follower.client, log)]
                before = [c for c in mine if c.ended_s + SLACK_S < heard.at_s]
                is_revoked = bool(before) and not before[-1].is_member
                is_revoked = is_revoked and not _is_separated(history, before[-1])
                if is_revoked and not any(c.is_member and c.ended_s >= before[-1].began_s for c in mine):
                    yield f"{follower.client} is in {log} again, which was revoked"


def _is_separated(history: History, change: Membership) -> bool:
    """Whether a replica was stopped or cut off from Redis around a change."""
    until_s = change.ended_s + SLACK_S
    since_s = change.began_s - history.lease_s - SLACK_S
    return any(f.kind in SEPARATED and f.began_s <= until_s and f.ended_s >= since_s for f in history.faults)


# Logs


def appended_once(history: History) -> Iterable[str]:
    """A message is stored once in a log, also if the outcome of its call is unknown.

    A Redis that loses its content between an append and its repeat forgets that it has stored the message.
    """
    logs = Logs(history)
    for log, texts in logs.texts.items():
        ids: dict[str, list[int]] = defaultdict(list)
        for id_ in sorted(texts):
            for text in texts[id_]:
                ids[text].append(id_)
        for text, found in ids.items():
            if len(found) > 1 and not logs.were_repeated(log, found):
                yield f"{text!r} was stored in {log} as {found}"


def one_message_an_id(history: History) -> Iterable[str]:
    """An id of a log is one message, for every follower and sender."""
    for log, texts in Logs(history).texts.items():
        for id_, found in texts.items():
            if len(found) > 1:
                yield f"{id_} of {log} is {sorted(found)}"


Check = Callable[[History], Iterable[str]]
CHECKS: dict[str, Check] = {
    "contiguous": contiguous,
    "ordered": ordered,
    "nothing before the top": nothing_before_the_top,
    "one copy": one_copy,
    "exclusions": exclusions,
    "caught up": caught_up,
    "outcome": outcome,
    "loss has a cause": loss_has_a_cause,
    "revoked": revoked,
    "appended once": appended_once,
    "one message an id": one_message_an_id,
}
