"""Checks a history and names every promise that it breaks. Pure: no clock, no network, no library code."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise

from tests.chaos import logs
from tests.chaos.history import STORED, Call, Event, Fault, Final, History, Process, Socket, parts_of

SLACK_S = 3.0
"""Seconds of delay that a busy machine may add."""
REPLACED = "reconnected"
LOSSES = {"flush", "restart empty", "restart stale"}
SEPARATIONS = {"freeze", "kill", "cut", "blackhole", "throttle"}


def violations(history: History) -> list[str]:
    """Return ``<invariant>: <observation>`` for every violation."""
    return [f"{name}: {what}" for name, check in CHECKS.items() for what in check(history)]


# Messages


def at_most_once(history: History) -> Iterable[str]:
    for socket in history.sockets:
        twice = [text for text, count in Counter(socket.got).items() if count > 1]
        if twice:
            yield f"{_name(socket)} got {len(twice)} messages more than once, the first is {twice[0]!r}"


def order(history: History) -> Iterable[str]:
    """Messages of one manager arrive in the order of its calls, without failed calls.

    Stored messages have the order of their log. Others to everybody have their place there, too, and wait with it.
    """
    unknown = set(history.unknown)
    for socket in history.sockets:
        last: dict[tuple[str, bool], int] = {}
        for text in filter(lambda text: text not in unknown, socket.got):
            kind, _, sender, number = parts_of(text)
            path = sender, kind == "all"
            if kind in STORED:
                continue
            if number < last.get(path, 0):
                yield f"{_name(socket)} got {number} of {sender} after {last[path]}"
            last[path] = max(number, last.get(path, 0))


def one_order(history: History) -> Iterable[str]:
    """All sockets see the messages of a room, or those to all, in one order.

    Messages that a process without Redis delivered only to its own clients are excluded (docs/design.md,
    "Redis away").
    """
    alone = set(history.alone)
    followers: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for socket in history.sockets:
        by_channel: dict[tuple[str, str], list[str]] = defaultdict(list)
        for text in dict.fromkeys(socket.got):
            kind, target, _, _ = parts_of(text)
            if kind not in ("direct", "box", "both") and text not in alone:
                by_channel[kind, target].append(text)
        for channel, texts in by_channel.items():
            for earlier, later in pairwise(texts):
                followers[channel][earlier].add(later)
    for channel, after in followers.items():
        if not _has_one_order(after):
            yield f"sockets saw the messages to {' '.join(channel)} in different orders"


def _has_one_order(after: dict[str, set[str]]) -> bool:
    before = Counter(later for laters in after.values() for later in laters)
    free, placed = [text for text in after if not before[text]], 0
    while free:
        placed += 1
        for later in after.get(free.pop(), ()):
            before[later] -= 1
            if not before[later]:
                free.append(later)
    return placed == len(set(after) | set(before))


def reached(history: History) -> Iterable[str]:
    """After the run has settled, messages of any replica arrive at all their open sockets.

    Followers may change their socket at that time. What they must get is checked by ``logs.caught_up``.
    """
    rooms = {client: rooms for final in history.finals for client, rooms in final.local.items()}
    followers = {follower.client for follower in history.followers}
    for socket in (socket for socket in history.sockets if socket.is_open and socket.client not in followers):
        heard = set(socket.got)
        for probe in history.probes:
            kind, target, _, _ = parts_of(probe)
            is_meant = kind in ("all", "everybody") or (kind == "direct" and target == socket.client)
            is_meant |= kind in ("room", "kept") and target in rooms.get(socket.client, ())
            if is_meant and probe not in heard:
                yield f"{_name(socket)} did not get {probe!r}"


# Sockets


def one_socket(history: History) -> Iterable[str]:
    for client, count in Counter(s.client for s in history.sockets if s.is_open).items():
        if count > 1:
            yield f"{client} has {count} open sockets"


def last_claim(history: History) -> Iterable[str]:
    """No socket is replaced by one that was registered before the socket asked to connect."""
    by_client = defaultdict(list)
    for socket in history.sockets:
        by_client[socket.client].append(socket)
    for socket in history.sockets:
        others = [s for s in by_client[socket.client] if s is not socket]
        is_last = all(s.opened_s is not None and s.opened_s < socket.asked_s for s in others)
        if socket.reason == REPLACED and is_last:
            yield f"{_name(socket)} claimed last and was closed as {REPLACED}"


# Presence


def listed(history: History) -> Iterable[str]:
    """After the run has settled, every replica lists every open socket once."""
    wanted = Counter(socket.client for socket in history.sockets if socket.is_open)
    for final in history.finals:
        if missing := sorted(set(wanted) - set(final.clients)):
            yield f"{final.process} does not list {len(missing)} of {len(wanted)}: {missing[:5]}"
        if doubled := [client for client, count in Counter(final.clients).items() if count > 1]:
            yield f"{final.process} lists more than once: {doubled[:5]}"


def no_ghost(history: History) -> Iterable[str]:
    """After the run has settled, no replica lists a client without an open socket."""
    wanted = {socket.client for socket in history.sockets if socket.is_open}
    for final in history.finals:
        if ghosts := sorted(set(final.clients) - wanted):
            yield f"{final.process} lists {len(ghosts)} clients without a socket: {ghosts[:5]}"


def rooms(history: History) -> Iterable[str]:
    """After the run has settled, every replica lists exactly the members of each room."""
    truth = defaultdict(list)
    for final in history.finals:
        for client, of_client in final.local.items():
            for room in of_client:
                truth[room].append(client)
    for final in history.finals:
        for room, members in final.rooms.items():
            if sorted(members) != sorted(truth[room]):
                difference = sorted(set(members) ^ set(truth[room]))
                yield f"{final.process} has {room} wrong by {len(difference)}: {difference[:5]}"


def death(history: History) -> Iterable[str]:
    """No replica shows clients of a dead node for longer than its lease and the beat that notices its end."""
    names = {node: name for seen in history.seen for node, name in seen.nodes.items()}
    died_s = {process.name: process.died_s for process in history.processes if process.died_s is not None}
    for seen in history.seen:
        if _is_hit(history, seen.process, seen.at_s - SLACK_S, seen.at_s):
            continue  # the answer may be from before the fault
        shown = Counter(names[node] for _, node in seen.clients if names.get(node) in died_s)
        for name, count in shown.items():
            after_s = seen.at_s - died_s[name]
            if after_s > history.lease_s + 2 * history.beat_s + SLACK_S:
                yield f"{seen.process} lists {count} of {name}, dead for {after_s:.1f} s"


def reported_once(history: History) -> Iterable[str]:
    """Each event has one report, unless a reporter was cut off before it could confirm it, or Redis lost it."""
    reports = defaultdict(list)
    for event in history.events:
        reports[event.event_id].append(event)
    for event_id, events in reports.items():
        start_s, end_s = min(e.at_s for e in events) - SLACK_S, max(e.at_s for e in events) + SLACK_S
        was_lost = any(
            f.kind in LOSSES and start_s <= f.ended_s and f.began_s <= end_s for f in history.faults
        )
        is_excused = was_lost or any(_is_hit(history, e.process, start_s, end_s) for e in events)
        if len(events) > 1 and not is_excused:
            yield f"{event_id} was reported by {[event.process for event in events]}"


def joins_and_leaves(history: History) -> Iterable[str]:
    """Each visit of a client has a reported begin and a reported end, because all replicas have stopped.

    Redis has the only record of the clients of a replica that is dead or cut off. So a visit may stay open if Redis
    loses its content while such a replica is not swept yet.
    """
    begun, ended = _told(history, "joined"), _told(history, "left")
    for visit in begun.keys() ^ ended.keys():
        event = begun.get(visit) or ended[visit]
        if not any(at_s >= event.at_s - SLACK_S for at_s in _unknowable(history, event.client)):
            yield f"{event.client} {event.kind} as {visit} on {event.process}, and never the reverse"


def room_joins_and_leaves(history: History) -> Iterable[str]:
    """As many stays of a client in a room have a reported begin as a reported end.

    Stays are counted, because the name of a stay changes when its node loses its lease.
    """
    stays: dict[tuple[str, str], int] = Counter()
    for kind, sign in (("room_joined", 1), ("room_left", -1)):
        for event in _told(history, kind).values():
            stays[event.client, event.room] += sign
    for (client, room), more in stays.items():
        if more and abs(more) > len(_unknowable(history, client)):  # which takes a second after half an hour
            yield f"{client} joined {room} {more} times more than it left it"


def _told(history: History, kind: str) -> dict[str, Event]:
    """Return the first report of each event of a kind, by visit or stay."""
    events = sorted((e for e in history.events if e.kind == kind), key=lambda event: -event.at_s)
    return {e.event_id.partition(f":{kind.removeprefix('room_')}")[0] + e.room: e for e in events}


def _unknowable(history: History, client: str) -> list[float]:
    """Return the times at which Redis lost the only record of a client's node."""
    sockets = [socket for socket in history.sockets if socket.client == client]
    absences = [
        (fault, lasts_s)
        for fault in history.faults
        if fault.kind in SEPARATIONS
        and (lasts_s := _lasts_s(history, fault)) > history.lease_s - history.beat_s
    ]
    return [
        loss.began_s
        for loss in history.faults
        if loss.kind in LOSSES
        for near in [_near(history, loss, absences)]
        if any(_was_absent(socket, loss, near) for socket in sockets)
    ]


def _lasts_s(history: History, fault: Fault) -> float:
    return history.lease_s if fault.kind == "kill" else fault.ended_s - fault.began_s


def _near(
    history: History, loss: Fault, absences: Iterable[tuple[Fault, float]]
) -> list[tuple[Fault, float]]:
    """Return the separations around a loss, with the times at which they begin to count."""
    noticed_s = 2 * history.beat_s + SLACK_S
    spans = ((f, f.began_s - noticed_s, f.began_s + lasts_s + noticed_s) for f, lasts_s in absences)
    return [(f, start_s) for f, start_s, end_s in spans if start_s <= loss.ended_s and loss.began_s <= end_s]


def _was_absent(socket: Socket, loss: Fault, near: Iterable[tuple[Fault, float]]) -> bool:
    """Whether Redis lost its content while the process of a socket was dead and not swept, or without its lease."""
    return socket.asked_s <= loss.ended_s and any(
        fault.target in (socket.process, "redis") and (socket.closed_s or start_s) >= start_s
        for fault, start_s in near
    )


def left_at_all(history: History) -> Iterable[str]:
    """A leave is reported for every client that had sockets only on dead replicas."""
    if _lost_data(history):
        return  # the record of these clients may be lost as well
    left = {event.client for event in history.events if event.kind == "left"}
    died = {process.name for process in history.processes if process.died_s is not None}
    by_client = defaultdict(set)
    for socket in history.sockets:
        by_client[socket.client].add(socket.process if socket.opened_s is not None else "")
    for client, names in by_client.items():
        if names <= died and client not in left:
            yield f"no replica reported that {client} left"


# Calls, readiness, keys


def no_call_hangs(history: History) -> Iterable[str]:
    for call in history.calls:
        took_s = call.ended_s - call.began_s
        if took_s > history.call_limit_s + SLACK_S and not _is_stopped(history, call):
            yield f"{call.what} on {call.process} took {took_s:.1f} s and ended as {call.outcome}"


def _is_stopped(history: History, call: Call) -> bool:
    """Whether the process was frozen or killed during the call."""
    stops = [f for f in history.faults if f.kind in {"freeze", "kill"} and f.target == call.process]
    return any(f.began_s <= call.ended_s and call.began_s <= f.ended_s for f in stops)


def named_errors(history: History) -> Iterable[str]:
    unnamed = Counter(c.outcome for c in history.calls if c.outcome.startswith("unnamed"))
    yield from (f"{count} calls ended as {outcome}" for outcome, count in unnamed.items())


def ready(history: History) -> Iterable[str]:
    """After the run has settled, every running replica reports that it is ready."""
    for final in history.finals:
        if not final.is_ready:
            yield f"{final.process} is not ready"


def leaves_nothing(history: History) -> Iterable[str]:
    names = {node: name for seen in history.seen for node, name in seen.nodes.items()}
    orphans = {process.name for process in history.processes if _died_unknown(history, process)}
    excused = [node for node, name in names.items() if name in orphans]
    left = [key for key in history.leftovers if not any(node in key for node in excused)]
    if left and not orphans:
        yield f"{len(left)} keys are left: {left[:5]}"


def _died_unknown(history: History, process: Process) -> bool:
    """Whether a process may have written keys without a lease, because it died before it noticed the loss."""
    if process.died_s is None:
        return False
    since_s = process.died_s - history.lease_s - 2 * history.beat_s - SLACK_S
    losses = [f for f in history.faults if f.kind in LOSSES | SEPARATIONS - {"kill"}]
    return any(
        f.target in {"redis", process.name} and f.ended_s >= since_s and f.began_s <= process.died_s
        for f in losses
    )


def _is_hit(history: History, process: str, start_s: float = 0.0, end_s: float = float("inf")) -> bool:
    """Whether a process was killed, frozen or separated from Redis between two times."""
    return any(
        f.kind in SEPARATIONS
        and f.target in {process, "redis"}
        and f.began_s <= end_s
        and f.ended_s >= start_s
        for f in history.faults
    )


def _lost_data(history: History) -> bool:
    return any(fault.kind in LOSSES for fault in history.faults)


def _name(socket: Socket) -> str:
    return f"{socket.client} on {socket.process}"


def is_settled(history: History, finals: list[Final]) -> bool:
    """Whether the replicas have reached a final state that violates nothing."""
    now = History(
        history.lease_s, history.beat_s, history.call_limit_s, sockets=history.sockets, finals=finals
    )
    return not [what for check in (one_socket, listed, no_ghost, rooms, ready) for what in check(now)]


Check = Callable[[History], Iterable[str]]
CHECKS: dict[str, Check] = {
    "at most once": at_most_once,
    "order": order,
    "one order": one_order,
    "reached": reached,
    "one socket": one_socket,
    "last claim": last_claim,
    "listed": listed,
    "no ghost": no_ghost,
    "rooms": rooms,
    "death": death,
    "reported once": reported_once,
    "joins and leaves": joins_and_leaves,
    "room joins and leaves": room_joins_and_leaves,
    "left at all": left_at_all,
    "no call hangs": no_call_hangs,
    "named errors": named_errors,
    "ready": ready,
    "leaves nothing": leaves_nothing,
    **logs.CHECKS,
}
