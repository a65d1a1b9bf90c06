"""The world around ``Feed``: servers with logs, a bus, nodes, and clients that keep cursors. Each step is an action.

A ``World`` is one state. ``actions`` names the steps that are possible, and ``after`` takes one and returns another
state. The feeds inside are the real ones. The rest is the smallest thing that can go wrong in the same ways: an
append and its publication, SUBSCRIBE and its confirmation, a read that is sent, executed in three steps and answered,
and connections to two servers.

``Violation`` is raised by the step that breaks the promise: a client object receives a contiguous run of the union of
all that was ever appended, in order and each entry once, or it is told first that the run is broken.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, cast

from fastapi_websocket_stabilizer.backends.log_ports import Heard, LogMeta, LogRead
from fastapi_websocket_stabilizer.registry.feed import TAIL, Cursor, Deliver, Feed, Joined, Lost, Read
from fastapi_websocket_stabilizer.registry.opening import hello

HOUR_US = 3_600_000_000
"""A step of time, as long as a meta lasts."""

Action = tuple[Any, ...]


T = TypeVar("T")


def copied(value: T) -> T:
    """Return a shallow copy of a dataclass, faster than ``dataclasses.replace``."""
    other = object.__new__(type(value))
    other.__dict__.update(value.__dict__)
    return other


class Violation(AssertionError):
    """A step broke the promise."""


class Entry(NamedTuple):
    """An entry of a log; ``number`` is its place in the union history, ``key`` equal in copies for other logs."""

    id: int
    number: int
    key: str = ""
    size: int = 1


@dataclass(frozen=True)
class Rules:
    """What surrounds the feeds. The defaults are right; mutations break one."""

    expiry_moves_base: bool = True
    trim_moves_base: bool = True
    cut_is_fresh: bool = True
    cut_is_published: bool = True
    verifies: bool = True
    keys_are_kept: bool = True
    list_is_read_first: bool = True
    copies_are_exact: bool = True
    copy_moves_both: bool = False
    restores_without_base: bool = False
    restores_behind_newer: bool = False


RIGHT = Rules()


@dataclass(frozen=True)
class Family:
    """Bounds of one exploration: what exists, and how often each thing may happen."""

    name: str
    nodes: int = 1
    clients: int = 1
    logs: tuple[str, ...] = ("a",)
    start: tuple[Action, ...] = ()
    steps: frozenset[str] = frozenset()
    """The optional kinds of steps that are explored."""
    budget: tuple[tuple[str, int], ...] = ()
    """How often each of these kinds may happen. A kind without a number is not limited."""
    deep: tuple[tuple[str, int], ...] = ()
    """The same for the long run."""
    tail: int = 99
    """Entries in a read of the tail."""
    ring: int = 99
    queue: int = 99
    split_reads: bool = False
    """Whether the list and the meta are read in two steps."""
    box: tuple[str, ...] = ()
    """Logs whose entries are sent apart from the append."""
    homes: tuple[tuple[int, ...], ...] = ()
    """The nodes that each client may attach to; empty: all."""
    depth: int = 99

    @property
    def hears(self) -> bool:
        """Whether it matters which nodes had an entry: Redis may lose it."""
        return self.nodes > 1 or "flush" in self.steps


@dataclass
class Log:
    """One log on one server."""

    entries: tuple[Entry, ...] = ()
    meta: LogMeta | None = None
    at: int = 0  # time of the last append
    line: tuple[tuple[int, int], ...] = ()  # (id, number) of everything that was ever in it here
    forgotten: int = 0  # number of the last entry when the meta ended

    def key(self) -> Any:
        return self.entries, self.meta, self.at, self.line, self.forgotten


@dataclass
class Flight:
    """A read under way."""

    read: Read
    server: int
    stage: int = 0  # sent; the meta is read; the list is read; the meta is read again
    before: LogMeta | None = None
    entries: tuple[Entry, ...] = ()
    is_whole: bool = True
    found: LogRead | None = None

    def key(self) -> Any:
        return (
            self.read.last, self.read.heard, self.server, self.stage, self.before, self.entries, self.is_whole,
            self.found,
        )  # fmt: skip


@dataclass
class Node:
    """One process: a feed, a subscription, and at most one current read for each log."""

    feeds: dict[str, Feed[int]]
    bus: int = 0  # the server that its bus is connected to; -1: none
    commands: int = 0
    is_up: bool = True
    queue: tuple[tuple[Any, ...], ...] = ()  # what the bus has not delivered yet, FIFO
    asked: frozenset[str] = frozenset()  # SUBSCRIBE sent
    channels: frozenset[str] = frozenset()  # that the server sends
    wanted: frozenset[str] = frozenset()
    flights: dict[str, Flight] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    copies: frozenset[str] = frozenset()  # with a sown fault: keys that were delivered here
    whole: int = 1
    cached: Any = None  # the key, until a step touches the node

    def copy(self) -> "Node":
        other = copied(self)
        other.cached = None
        other.feeds, other.flights = dict(self.feeds), dict(self.flights)
        return other

    def key(self) -> Any:
        if self.cached is None:
            self.cached = hash(self._key())
        return self.cached

    def _key(self) -> Any:
        return (
            tuple(freeze(feed) for feed in self.feeds.values()), self.bus, self.commands, self.is_up, self.queue,
            self.asked, self.channels, self.wanted, tuple((log, f.key()) for log, f in sorted(self.flights.items())),
            self.failed, self.copies, self.whole,
        )  # fmt: skip


@dataclass
class Client:
    """One client object: its connection, what it was given, and its cursors."""

    node: int = -1
    live: frozenset[str] = frozenset()
    lags: frozenset[str] = frozenset()
    cursors: dict[str, Cursor] = field(default_factory=dict)
    place: dict[str, int] = field(default_factory=dict)  # number up to which its run of the log is whole
    undo: tuple[Any, ...] = ()  # before the last frame, which may get lost with the connection
    keys: frozenset[str] = frozenset()  # of messages in several logs that it was given
    answers: tuple[tuple[str, Joined, int, int], ...] | None = ()  # before the first frame; None after it
    kept: tuple[tuple[Any, ...], ...] = ()
    owes: frozenset[tuple[str, int]] = frozenset()  # entries it never got and was not told about
    cached: Any = None

    def copy(self) -> "Client":
        other = copied(self)
        other.cached = None
        other.cursors, other.place = dict(self.cursors), dict(self.place)
        return other

    def key(self) -> Any:
        if self.cached is None:
            self.cached = hash(self._key())
        return self.cached

    def _key(self) -> Any:
        return (
            self.node, self.live, self.lags, tuple(self.cursors.items()), tuple(self.place.items()),
            self.undo, self.keys, self.owes, self.kept,
            None if self.answers is None else tuple(map(_answer_key, self.answers)),
        )  # fmt: skip


def _answer_key(answered: tuple[str, Joined, int, int]) -> Any:
    log, answer, number, whole = answered
    return log, answer.position, answer.code, tuple(answer.entries), number, whole


def freeze(feed: Feed[int]) -> Any:
    """Return what distinguishes one state of a feed from another. Tokens only say which read is the current one."""
    ring, flight = feed._ring, feed._flight
    return (
        feed.last, feed._held, feed._is_subscribed, feed._run_id, feed._whole_run_id, feed._heard, feed._peak,
        ring.start, tuple(ring._entries[ring._head :]), tuple(feed._queue),
        flight and flight.heard, feed._again, feed._deep, feed._paused,
        tuple((m, cursor, flight and since >= flight.token) for m, (cursor, since) in feed._waiting.items()),
        tuple(feed._lagging.items()),
    )  # fmt: skip


_state = attrgetter(*Feed.__slots__)


def thaw(feed: Feed[int]) -> Feed[int]:
    """Return a copy of a feed that can go on by itself."""
    other = object.__new__(type(feed))
    for name, value in zip(Feed.__slots__, _state(feed), strict=True):
        setattr(other, name, value)
    other._queue, other._waiting, other._lagging = feed._queue[:], dict(feed._waiting), dict(feed._lagging)
    ring, copy = feed._ring, object.__new__(type(feed._ring))
    copy.start, copy._head, copy.bytes = ring.start, ring._head, ring.bytes
    copy._ids, copy._entries = ring._ids[:], ring._entries[:]
    other._ring = copy
    return other


class World:
    """One state of everything."""

    __slots__ = (
        "_fresh", "behind", "budget", "clients", "ends", "family", "heard", "history", "is_lossy", "make", "nodes",
        "now", "pending", "primary", "rules", "servers", "since",
    )  # fmt: skip

    def __init__(self, family: Family, rules: Rules = RIGHT, make: type[Feed[int]] = Feed) -> None:
        self.family, self.rules, self.make = family, rules, make
        self.servers: list[dict[str, Log]] = [{log: Log() for log in family.logs}]
        self.since: list[int] = [0]
        self.primary = 0
        self.behind = False  # the primary's clock
        self.now = 1
        self.nodes: list[Node] = [self._node() for _ in range(family.nodes)]
        self.clients: list[Client] = [Client() for _ in range(family.clients)]
        self.history: dict[str, int] = dict.fromkeys(family.logs, 0)  # entries ever appended
        self.ends: dict[str, dict[int, str]] = {
            log: {} for log in family.logs
        }  # numbers that a failover lost
        self.heard: dict[str, dict[int, frozenset[int]]] = {log: {} for log in family.logs}  # by which nodes
        self.pending: tuple[tuple[Any, ...], ...] = ()  # publications that are not sent yet
        self.is_lossy = False  # whether the bus lost something, or a restored tail was not published
        self.budget = dict(family.budget)
        self._fresh: set[tuple[Any, ...]] = set()
        for action in family.start:
            getattr(self, f"do_{action[0]}")(*action[1:])

    def _node(self) -> Node:
        return Node(
            {
                log: self.make(ring_bytes=self.family.ring, queue_bytes=self.family.queue)
                for log in self.family.logs
            }
        )

    def copy(self) -> "World":
        other = object.__new__(World)
        other.family, other.rules, other.make = self.family, self.rules, self.make
        other.servers, other.since = [dict(server) for server in self.servers], [*self.since]
        other.primary, other.behind, other.now = self.primary, self.behind, self.now
        other.nodes, other.clients = [*self.nodes], [*self.clients]
        other.history, other.pending, other.budget = dict(self.history), self.pending, dict(self.budget)
        other.ends = {log: dict(lost) for log, lost in self.ends.items()}
        other.heard = {log: dict(by) for log, by in self.heard.items()} if self.family.hears else self.heard
        other.is_lossy = self.is_lossy
        other._fresh = set()
        return other

    def key(self) -> Any:
        return (
            tuple(tuple(log.key() for log in server.values()) for server in self.servers), tuple(self.since),
            self.primary, self.behind, self.now, tuple(node.key() for node in self.nodes),
            tuple(client.key() for client in self.clients), tuple(self.history.items()),
            tuple(tuple(lost.items()) for lost in self.ends.values()), self.pending, tuple(self.budget.items()),
            self.is_lossy,
            tuple(tuple(by.items()) for by in self.heard.values()) if self.family.hears else (),
        )  # fmt: skip

    def after(self, action: Action) -> "World":
        """Return the state after a step."""
        other = self.copy()
        if action[0] in other.budget:
            other.budget[action[0]] -= 1
        getattr(other, f"do_{action[0]}")(*action[1:])
        return other

    # Copies on demand: a state shares with its successor what a step does not touch.

    def node(self, index: int) -> Node:
        if ("n", index) not in self._fresh:
            self._fresh.add(("n", index))
            self.nodes[index] = self.nodes[index].copy()
        return self.nodes[index]

    def feed(self, index: int, log: str) -> Feed[int]:
        node = self.node(index)
        if ("f", index, log) not in self._fresh:
            self._fresh.add(("f", index, log))
            node.feeds[log] = thaw(node.feeds[log])
        return node.feeds[log]

    def client(self, index: int) -> Client:
        if ("c", index) not in self._fresh:
            self._fresh.add(("c", index))
            self.clients[index] = self.clients[index].copy()
        return self.clients[index]

    def log(self, server: int, log: str) -> Log:
        self.servers[server][log] = copied(self.servers[server][log])
        return self.servers[server][log]

    # Redis

    def do_append(self, log: str, key: str = "") -> None:
        log_ = self.log(self.primary, log)
        self.history[log] += 1
        number, meta = self.history[log], log_.meta or LogMeta(0)
        id_ = meta.top + 1 if self.behind and meta.top else max(number * 1000, meta.top + 1)
        base = meta.base
        if not log_.entries and self.rules.expiry_moves_base:
            base = meta.top  # the list expired, or was deleted
        entry = Entry(id_, number, key)
        log_.entries += (entry,)
        log_.meta, log_.at = replace(meta, top=id_, base=base), self.now
        log_.line += ((id_, number),)
        publication = ("pub", log, entry, meta.top)
        if log in self.family.box:
            self.pending += ((self.primary, publication),)
        else:
            self._publish(self.primary, log, publication)

    def do_both(self, key: str) -> None:
        """Append one message to a log; the other append is a step of its own."""
        self.do_append("a", key)
        self.budget["other"] = 1

    def do_other(self) -> None:
        self.do_append("b", "u")

    def _publish(self, server: int, log: str, item: tuple[Any, ...]) -> None:
        for index, node in enumerate(self.nodes):
            if node.bus == server and log in node.channels:
                self.node(index).queue += (item,)

    def do_send(self, index: int) -> None:
        server, publication = self.pending[index]
        self.pending = self.pending[:index] + self.pending[index + 1 :]
        self._publish(server, publication[1], publication)

    def do_whisper(self, log: str) -> None:
        self._publish(self.primary, log, ("vol", log))

    def do_trim(self, log: str) -> None:
        log_ = self.log(self.primary, log)
        first, log_.entries = log_.entries[0], log_.entries[1:]
        for number in self.ends[log]:
            self.ends[log][number] = "trimmed"  # a log that is trimmed beyond it cannot tell that it was lost
        if self.rules.trim_moves_base and log_.meta is not None:
            log_.meta = replace(log_.meta, base=first.id)

    def do_expire(self, log: str) -> None:
        self.log(self.primary, log).entries = ()

    def do_forget(self, log: str) -> None:
        log_ = self.log(self.primary, log)
        log_.meta, log_.forgotten = None, self.history[log]

    def do_tick(self) -> None:
        self.now += 1

    def do_delete(self, log: str) -> None:
        self._cut(self.primary, log, 0, "reset")

    def do_flush(self) -> None:
        for log in self.family.logs:
            log_ = self.log(self.primary, log)
            log_.entries, log_.meta, log_.forgotten = (), None, self.history[log]
            for _, number in log_.line:
                if number not in self.heard[log]:  # Redis lost it before any node had it
                    self.ends[log][number] = "flushed"
        self.since[self.primary] = self.now

    def _cut(self, server: int, log: str, above: int, code: str) -> None:
        log_ = self.log(server, log)
        meta = log_.meta or LogMeta(0)
        if code == "hole":
            id_ = max(above, meta.top) + self.rules.cut_is_fresh
            log_.meta, log_.at = replace(meta, top=id_, hole=id_), self.now
        else:
            id_ = meta.top
            log_.entries, log_.meta = (), replace(meta, base=id_, reset=id_)
        log_.line += ((id_, self.history[log]),)
        if self.rules.cut_is_published:
            self._publish(server, log, ("cut", log, id_, code))

    def do_failover(self, count: int, behind: bool) -> None:
        """Promote a replica without the last ``count`` entries of log a."""
        logs = {log: copied(log_) for log, log_ in self.servers[self.primary].items()}
        log_ = logs["a"]
        assert log_.meta is not None
        for _ in range(count):
            *rest, (id_, number) = log_.line
            log_.line = tuple(rest)
            log_.entries = tuple(entry for entry in log_.entries if entry.id < id_)
            top = max(rest[-1][0] if rest else 0, log_.meta.hole, log_.meta.reset)
            log_.meta = replace(log_.meta, top=top, base=min(log_.meta.base, top))
            self.ends["a"][number] = "lost"
        if log_.meta == LogMeta(0):
            log_.meta = None
        self.servers.append(logs)
        self.since.append(self.since[self.primary])
        self.primary, self.behind = len(self.servers) - 1, behind

    def _verify(self, server: int, log: str, heard: Heard) -> None:
        """Compare a log with what a node has heard, as ``LogStore.verify`` does."""
        log_, rules = self.log(server, log), self.rules
        meta = log_.meta or LogMeta(0)
        if heard.last <= max(meta.base, meta.hole) or heard.last == meta.top:
            return
        if any(entry.id == heard.last for entry in log_.entries):
            return
        if log_.meta is None and log_.at < self.now:
            return  # older than what a meta remembers; the caller does not ask then
        tail = cast("tuple[Entry, ...]", heard.tail)
        newer = tuple(entry for entry in tail if entry.id > meta.top)
        is_next = meta.top == heard.previous or any(entry.id == meta.top for entry in tail)
        if newer and (is_next or rules.restores_behind_newer):
            if log_.meta is None and not rules.restores_without_base:
                meta = LogMeta(0, base=newer[0].id - 1)
            log_.entries += newer
            log_.line += tuple((entry.id, entry.number) for entry in newer)
            log_.meta, log_.at = replace(meta, top=heard.last), self.now
            for entry in newer:
                self.ends[log].pop(entry.number, None)
            self.is_lossy = True
        else:
            self._cut(server, log, heard.last, "hole")

    # The bus of a node

    def do_sub(self, index: int, log: str) -> None:
        node = self.node(index)
        node.asked -= {log}
        node.channels |= {log}
        node.queue += (("sub", log),)

    def do_bus(self, index: int) -> None:
        node = self.node(index)
        item, node.queue = node.queue[0], node.queue[1:]
        kind, log = item[:2]
        feed = self.feed(index, log)
        if kind == "sub":
            actions = feed.subscribed(node.bus + 1)
        elif kind == "pub":
            if feed._is_subscribed:
                self._hear(index, log, (item[2],))
            actions = feed.entry(item[2], item[3])
        elif kind == "cut":
            actions = feed.cut(item[2], item[3])
        else:
            actions = feed.volatile("vol", 1)
        self._carry_out(index, log, actions)
        if feed._flight is None:
            node.flights.pop(log, None)

    def _hear(self, index: int, log: str, entries: Any) -> None:
        if self.family.hears:
            by = self.heard[log]
            for entry in entries:
                by[entry.number] = by.get(entry.number, frozenset()) | {index}

    def _unhear(self, index: int, logs: Any) -> None:
        for log in logs if self.family.hears else ():
            for number, nodes in self.heard[log].items():
                self.heard[log][number] = nodes - {index}

    def do_lose(self, index: int, place: int) -> None:
        self.is_lossy = True
        node = self.node(index)
        node.queue = node.queue[:place] + node.queue[place + 1 :]

    def do_break(self, index: int) -> None:
        node = self.node(index)
        node.bus, node.queue, node.channels, node.asked = -1, (), frozenset(), frozenset()
        for log in self.family.logs:
            feed = self.feed(index, log)
            self._carry_out(index, log, feed.interrupted())
            if feed._flight is None:
                node.flights.pop(log, None)

    def do_connect(self, index: int) -> None:
        node = self.node(index)
        node.bus, node.asked = self.primary, node.wanted

    def do_switch(self, index: int) -> None:
        self.node(index).commands = self.primary

    def do_unsub(self, index: int, log: str) -> None:
        node = self.node(index)
        self.feed(index, log).unsubscribed()
        self._unhear(index, (log,))
        for name in ("asked", "channels", "wanted", "failed"):
            setattr(node, name, getattr(node, name) - {log})
        node.queue = tuple(item for item in node.queue if item[:2] != ("sub", log))
        node.flights.pop(log, None)

    def do_crash(self, index: int) -> None:
        for number, client in enumerate(self.clients):
            if client.node == index:
                self._away(number)
        self._unhear(index, self.family.logs)
        self.nodes[index] = self._node()
        self.nodes[index].bus = self.nodes[index].commands = self.primary
        self._fresh |= {("n", index), *(("f", index, log) for log in self.family.logs)}

    def do_beat(self, index: int) -> None:
        self.node(index).whole = self.now
        for number, client in enumerate(self.clients):
            if client.node == index and client.answers is None:
                client = self.client(number)
                for log in client.live:
                    client.cursors[log] = client.cursors[log]._replace(t_us=self.now * HOUR_US)

    def do_compare(self, index: int, log: str) -> None:
        meta = self.servers[self.nodes[index].commands][log].meta
        self._carry_out(index, log, self.feed(index, log).compared(meta.top if meta else 0))

    # Reads

    def do_exec(self, index: int, log: str) -> None:
        flight = self._flight(index, log)
        if flight.read.heard is not None and self.rules.verifies:
            self._verify(flight.server, log, flight.read.heard)
        flight.before, flight.stage = self.servers[flight.server][log].meta, 1
        if not self.family.split_reads:
            self.do_list(index, log)
            self.do_meta(index, log)

    def do_list(self, index: int, log: str) -> None:
        flight = self._flight(index, log)
        entries = self.servers[flight.server][log].entries
        count = self.family.tail if flight.read.last == TAIL else flight.read.last or len(entries)
        flight.entries = entries[max(0, len(entries) - count) :]
        flight.is_whole, flight.stage = len(entries) <= count, 2

    def do_meta(self, index: int, log: str) -> None:
        """Read the meta again, and put the answer together as ``LogStore.read`` does."""
        flight = self._flight(index, log)
        server = self.servers[flight.server]
        meta = server[log].meta if flight.entries and self.rules.list_is_read_first else flight.before
        entries = flight.entries if meta is not None else ()
        if meta is not None and not entries:
            meta = replace(meta, base=meta.top)
        end = entries[-1].id if entries else meta.base if meta is not None else 0
        flight.found = LogRead(
            cast(Any, entries), flight.is_whole, meta, end, self.since[flight.server] * HOUR_US,
            self.now * HOUR_US, "",
        )  # fmt: skip
        flight.entries, flight.is_whole, flight.before, flight.stage = (), True, None, 3

    def _flight(self, index: int, log: str) -> Flight:
        flights = self.node(index).flights
        flights[log] = copied(flights[log])
        return flights[log]

    def do_answer(self, index: int, log: str) -> None:
        node = self.node(index)
        flight = node.flights.pop(log)
        assert flight.found is not None
        feed, found = self.feed(index, log), flight.found
        actions = feed.read_done(flight.read.token, found, flight.server + 1, node.whole * HOUR_US)
        if flight.server == node.bus and feed.last is not None:
            last = feed.last
            self._hear(index, log, [entry for entry in found.entries if entry.id <= last])
        self._carry_out(index, log, actions)
        if feed._paused:
            node.failed |= {log}

    def do_fail(self, index: int, log: str) -> None:
        node = self.node(index)
        self.feed(index, log).read_failed(node.flights.pop(log).read.token)
        node.failed |= {log}

    def do_retry(self, index: int, log: str) -> None:
        node = self.node(index)
        node.failed -= {log}
        self._carry_out(index, log, self.feed(index, log).retry())

    def _carry_out(self, index: int, log: str, actions: Any) -> None:
        for action in actions:
            if isinstance(action, Read):
                node = self.node(index)
                node.flights[log] = Flight(action, node.commands)
                node.failed -= {log}
            elif isinstance(action, Joined):
                self._join(index, log, action)
            elif isinstance(action, Lost):
                self._to_live(
                    index, log, ("lost", log, action.position, self._number(index, log, action.position))
                )
            elif isinstance(action, Deliver) and action.message != "vol":
                self._to_live(index, log, ("entry", log, action.message))
                if action.message.key and not self.rules.copies_are_exact:
                    self.node(index).copies |= {action.message.key}

    def _to_live(self, index: int, log: str, frame: tuple[Any, ...]) -> None:
        for number, client in enumerate(self.clients):
            if client.node == index and log in client.live:
                if client.answers is None:
                    self._frame(index, number, frame)
                else:
                    self.client(number).kept += (frame,)

    def _frame(self, index: int, number: int, frame: tuple[Any, ...]) -> None:
        if frame[0] == "lost":
            self._lose(index, number, *frame[1:])
        elif frame[0] == "whole":
            self._advance(index, number, frame[1], frame[2] + 1)
        else:
            self._give(index, number, *frame[1:])

    # Clients

    def do_attach(self, number: int, index: int) -> None:
        client = self.client(number)
        client.node, client.live, client.lags = index, frozenset(), frozenset()
        client.undo, client.answers, client.kept = (), (), ()
        for log in self.family.logs:
            node = self.node(index)
            if log not in node.wanted:
                node.wanted |= {log}
                node.asked |= {log} if node.bus >= 0 else set()
            self._carry_out(index, log, self.feed(index, log).attach(number, client.cursors.get(log)))
            client = self.client(number)

    def do_detach(self, number: int, frames: int = 0) -> None:
        client = self.client(number)
        if frames:
            log, cursor, place, client.keys = client.undo
            client.cursors[log], client.place[log] = cursor, place
        for log in self.family.logs:
            self.feed(client.node, log).detach(number)
        self._away(number)

    def _away(self, number: int) -> None:
        client = self.client(number)
        client.node, client.live, client.lags = -1, frozenset(), frozenset()
        client.undo, client.answers, client.kept = (), (), ()

    def do_lag(self, number: int, log: str) -> None:
        client = self.client(number)
        client.live -= {log}
        client.lags |= {log}
        self.feed(client.node, log).lag(number, client.cursors[log])

    def do_drain(self, number: int, log: str) -> None:
        client = self.client(number)
        client.lags -= {log}
        self._carry_out(client.node, log, self.feed(client.node, log).drained(number))

    def _number(self, index: int, log: str, position: int) -> int:
        """Return the number of the last entry up to a position, on the server that a node's feed follows."""
        server = self.nodes[index].feeds[log]._whole_run_id
        assert isinstance(server, int)
        log_ = self.servers[server - 1][log]
        if position == 0:
            return log_.forgotten
        return max((number for id_, number in log_.line if id_ <= position), default=0)

    def _join(self, index: int, log: str, answer: Joined) -> None:
        client = self.client(answer.member)
        client.live |= {log}
        if answer.code and answer.entries:
            raise Violation(f"replayed in spite of {answer.code}")
        joined = (log, answer, self._number(index, log, answer.position), self.nodes[index].whole)
        if client.answers is None:  # it lagged
            for frame in self._frames(joined):
                self._frame(index, answer.member, frame)
            self._advance(index, answer.member, log, joined[2] + 1)
            return
        client.answers += (joined,)
        if len(client.answers) == len(self.family.logs):
            self._open(index, answer.member)

    def _frames(self, joined: tuple[str, Joined, int, int]) -> list[tuple[Any, ...]]:
        log, answer, number, _ = joined
        if answer.code:
            return [("lost", log, answer.position, number)]
        return [("entry", log, entry) for entry in answer.entries]

    def _open(self, index: int, number: int) -> None:
        """Write the first frame, the replay, and what was kept."""
        client = self.client(number)
        answers, kept, client.answers, client.kept = client.answers or (), client.kept, None, ()
        first = hello(
            {log: client.cursors.get(log) for log, *_ in answers},
            {log: answer for log, answer, *_ in answers},
        )
        for log, answer, end, whole in answers:
            if log not in client.cursors:
                client.place[log] = end
            elif answer.code:
                self._lose(index, number, log, answer.position, end)
            client.cursors[log] = Cursor(first.at[log], whole * HOUR_US)
        frames: list[tuple[Any, ...]] = [("entry", *missed) for missed in first.replay]
        frames += [("whole", log, end) for log, _, end, _ in answers]
        for frame in (*frames, *kept):
            self._frame(index, number, frame)

    def _lose(self, index: int, number: int, log: str, position: int, end: int) -> None:
        client = self.client(number)
        client.place[log] = end
        client.cursors[log] = Cursor(position, self.nodes[index].whole * HOUR_US)
        client.owes = frozenset(owed for owed in client.owes if owed[0] != log)
        client.undo = ()

    def _give(self, index: int, number: int, log: str, entry: Entry) -> None:
        client = self.client(number)
        place = client.place[log]
        client.undo = (log, client.cursors[log], place, client.keys)
        if entry.number <= place:
            raise Violation(f"client {number} was given entry {entry.number} of {log} again")
        self._advance(index, number, log, entry.number)
        client.place[log] = entry.number
        client.cursors[log] = client.cursors[log]._replace(id=entry.id)
        if entry.key:
            self._copy(number, log, entry.key)

    def _copy(self, number: int, log: str, key: str) -> None:
        client = self.client(number)
        if key in client.keys and not self.rules.keys_are_kept:
            raise Violation(f"client {number} was given the message {key} twice")
        if key in self.nodes[client.node].copies and key not in client.keys:
            raise Violation(f"client {number} was not given {key}, which its node had given to others")
        client.keys |= {key}
        if self.rules.copy_moves_both:
            self._copy_moves(number, log, key)

    def _copy_moves(self, number: int, log: str, key: str) -> None:
        """Sow a fault: a message to two rooms moves both cursors."""
        client = self.client(number)
        for other in self.family.logs:
            ids = [entry.id for entry in self.servers[self.primary][other].entries if entry.key == key]
            if other != log and ids and other in client.cursors:
                client.cursors[other] = client.cursors[other]._replace(
                    id=max(ids[0], client.cursors[other].id)
                )

    def _advance(self, index: int, number: int, log: str, end: int) -> None:
        """Check that nothing is missing between the place of a client and ``end``."""
        client = self.client(number)
        for missed in range(client.place[log] + 1, end):
            if missed not in self.ends[log]:
                raise Violation(f"client {number} was not given entry {missed} of {log}")
            by = self.heard[log].get(missed, frozenset())
            if index in by:
                raise Violation(f"client {number} was not given entry {missed} of {log}, which its node had")
            if by:
                client.owes |= {(log, missed)}
        client.place[log] = max(client.place[log], end - 1)

    # What may happen next

    def progress(self) -> Iterator[Action]:
        """Yield the steps that happen by themselves, sooner or later."""
        for index, node in enumerate(self.nodes):
            yield from self._progress_of(index, node)
        for place in range(len(self.pending)):
            yield ("send", place)
        for number, client in enumerate(self.clients):
            for log in sorted(client.lags):
                yield ("drain", number, log)
        if self.budget.get("other"):
            yield ("other",)

    def _progress_of(self, index: int, node: Node) -> Iterator[Action]:
        if node.queue:
            yield ("bus", index)
        for log in sorted(node.asked):
            yield ("sub", index, log)
        for log, flight in node.flights.items():
            yield (("exec", "list", "meta", "answer")[flight.stage], index, log)
        if node.bus != self.primary:
            yield ("connect" if node.bus < 0 else "break", index)
        if node.commands != self.primary:
            yield ("switch", index)
        elif node.bus == node.commands:
            for log in sorted(node.failed):
                yield ("retry", index, log)

    def actions(self) -> Iterator[Action]:
        """Yield all steps that are possible in this state."""
        yield from self.progress()
        for kind in sorted(self.family.steps):
            if self.budget.get(kind, 1) > 0:
                yield from getattr(self, f"can_{kind}")()

    def can_append(self) -> Iterator[Action]:
        for log in self.family.logs:
            yield ("append", log)

    def can_both(self) -> Iterator[Action]:
        yield ("both", "u")

    def can_whisper(self) -> Iterator[Action]:
        for log in self.family.logs:
            yield ("whisper", log)

    def can_trim(self) -> Iterator[Action]:
        for log, log_ in self.servers[self.primary].items():
            if log_.entries:
                yield ("trim", log)

    def can_expire(self) -> Iterator[Action]:
        for log, log_ in self.servers[self.primary].items():
            if log_.entries:
                yield ("expire", log)

    def can_forget(self) -> Iterator[Action]:
        for log, log_ in self.servers[self.primary].items():
            if log_.meta and not log_.entries and log_.at < self.now and not self._is_under_way(log):
                yield ("forget", log)

    def _is_under_way(self, log: str) -> bool:
        """Whether a publication, half a read or a repair is; none of them takes as long as a meta lives."""
        meta = self.servers[self.primary][log].meta
        if any(
            meta is not None
            and node.bus >= 0
            and log in node.wanted
            and (node.feeds[log].last or 0) < meta.top
            for node in self.nodes
        ):
            return True
        return any(publication[1] == log for _, publication in self.pending) or any(
            any(item[0] != "sub" and item[1] == log for item in node.queue)
            or (log in node.flights and 0 < node.flights[log].stage < 3)
            for node in self.nodes
        )

    def can_tick(self) -> Iterator[Action]:
        yield ("tick",)

    def can_delete(self) -> Iterator[Action]:
        for log, log_ in self.servers[self.primary].items():
            if log_.meta:
                yield ("delete", log)

    def can_flush(self) -> Iterator[Action]:
        yield ("flush",)

    def can_failover(self) -> Iterator[Action]:
        log_ = self.servers[self.primary]["a"]
        if log_.meta:
            newer = sum(id_ > max(log_.meta.hole, log_.meta.reset, log_.meta.base) for id_, _ in log_.line)
            for count in range(min(newer, 2) + 1):
                for behind in (False, True) if count else (False,):
                    yield ("failover", count, behind)

    def can_lose(self) -> Iterator[Action]:
        for index, node in enumerate(self.nodes):
            for place, item in enumerate(node.queue):
                if item[0] in ("pub", "cut"):
                    yield ("lose", index, place)

    def can_break(self) -> Iterator[Action]:
        for index, node in enumerate(self.nodes):
            if node.bus == self.primary and node.wanted:
                yield ("break", index)

    def can_fail(self) -> Iterator[Action]:
        for index, node in enumerate(self.nodes):
            for log in node.flights:
                yield ("fail", index, log)

    def can_unsub(self) -> Iterator[Action]:
        for index, node in enumerate(self.nodes):
            if not any(client.node == index for client in self.clients):
                for log in sorted(node.wanted):
                    yield ("unsub", index, log)

    def can_crash(self) -> Iterator[Action]:
        for index, node in enumerate(self.nodes):
            if node.wanted:
                yield ("crash", index)

    def can_beat(self) -> Iterator[Action]:
        for index, node in enumerate(self.nodes):
            if node.whole < self.now and not node.queue and self._is_whole(node):
                yield ("beat", index)

    def _is_whole(self, node: Node) -> bool:
        for log in node.wanted:
            meta, feed = self.servers[self.primary][log].meta, node.feeds[log]
            if node.bus != self.primary or not feed.is_flowing:
                return False
            if meta is not None and feed.last is not None and meta.top > feed.last:
                return False
        return True

    def can_compare(self) -> Iterator[Action]:
        for index, node in enumerate(self.nodes):
            for log in sorted(node.wanted & node.channels):
                if node.commands == node.bus and node.feeds[log].is_flowing:
                    yield ("compare", index, log)

    def can_attach(self) -> Iterator[Action]:
        for number, client in enumerate(self.clients):
            if client.node < 0:
                homes = self.family.homes[number] if self.family.homes else range(len(self.nodes))
                for index in homes:
                    yield ("attach", number, index)

    def can_detach(self) -> Iterator[Action]:
        for number, client in enumerate(self.clients):
            if client.node >= 0:
                yield ("detach", number)

    def can_cut_off(self) -> Iterator[Action]:
        for number, client in enumerate(self.clients):
            if client.node >= 0 and client.undo:
                yield ("cut_off", number)

    def do_cut_off(self, number: int) -> None:
        self.do_detach(number, 1)

    def can_lag(self) -> Iterator[Action]:
        for number, client in enumerate(self.clients):
            for log in sorted(client.live) if client.answers is None else ():
                yield ("lag", number, log)

    # What must be true in the end

    def settle(self) -> None:
        """Let everything happen that happens by itself, and check what everyone has then.

        Tops are compared only if the bus has lost something. Otherwise nothing may depend on it.
        """
        world = self.copy()
        world.budget.pop("compare", None)
        for _ in range(200):
            action = next(world.progress(), None)
            if action is None:
                before = world.key()
                for compare in tuple(world.can_compare()) if world.is_lossy else ():
                    world = world.after(compare)
                if world.key() == before:
                    return world._check_settled()
            else:
                world = world.after(action)
        raise Violation("never comes to rest")

    def _check_settled(self) -> None:
        for number, client in enumerate(self.clients):
            for log in self.family.logs if client.node >= 0 else ():
                if log not in client.live:
                    raise Violation(f"client {number} waits for {log} for ever")
                for _, entry in self.servers[self.primary][log].line:
                    if client.place[log] < entry and entry not in self.ends[log]:
                        raise Violation(f"client {number} is never given entry {entry} of {log}")
            for log, missed in client.owes:
                is_known = self.ends[log].get(missed) == "lost" and self.heard[log].get(missed)
                if client.node >= 0 and is_known:
                    raise Violation(f"client {number} is never told that {log} lost entry {missed}")
