"""What is measured: one function a measure. Each is given a running cluster and its connected clients."""

import dataclasses
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from .clients import Crowd
from .crowd import Clients
from .loads import Load
from .messages import json_message
from .results import Sample
from .systems import Cluster, System
from .systems.base import get

CONTROL_COMMANDS = 1
"""Commands of our own between two readings of Redis's counter: the first reading itself."""
USED_MESSAGE_SIZE = 4096
USED_MESSAGES = 3
STALLED = "stalled"
STALLED_MESSAGES, STALLED_SIZE = 12, 1_000_000
"""More than the 8 MB that two kernels may swallow before anything blocks."""
WARM_UP_CLIENTS = 100
WARM_UP_SHARE = 10


@dataclass(slots=True)
class Session:
    """A running cluster with its clients, and where samples go."""

    system: System
    cluster: Cluster
    clients: Clients
    valkey: "redis.Redis"
    load: Load
    run: int
    samples: list[Sample] = field(default_factory=list)
    beside: list["Session"] = field(default_factory=list)
    """Sessions of other systems that run at the same time, to take turns with this one."""
    _next: int = 1

    def connect(self, count: int, *, by_id: bool = False, offers_deflate: bool = False) -> str:
        """Connect clients, evenly on all replicas; return the extensions they were granted."""
        system = self.system
        path = system.client_path if by_id else system.everybody_path
        channel = system.client_channel if by_id else system.everybody_channel
        crowd = Crowd(self.cluster.ports, count, path, system.dialect, channel, offers_deflate)
        return self.clients.connect(crowd)

    def enter(self, count: int, *rooms: str) -> None:
        """Connect clients that are members of rooms."""
        self.clients.connect(self.members(count, *rooms))

    def members(self, count: int, *rooms: str) -> Crowd:
        """Return a crowd whose clients are members of rooms."""
        names, system = ",".join(rooms), self.system
        path, channel = (text.replace("{rooms}", names) for text in (system.room_path, system.room_channel))
        return Crowd(self.cluster.ports, count, path, system.dialect, channel)

    def settle(self) -> None:
        """Let what was begun come to its end."""
        time.sleep(self.load.settle_s)

    def numbers(self, count: int) -> int:
        """Reserve sequence numbers and return the first."""
        self._next += count
        return self._next - count

    def record(self, measure: str, values: dict[str, float], counted: "Counted | None" = None) -> None:
        """Keep a sample of this session's system."""
        counted = counted or Counted()
        self.samples.append(
            Sample(
                system=self.system.name,
                measure=measure,
                connections=self.clients.count,
                replicas=len(self.cluster.ports),
                run=self.run,
                values=values,
                expected=counted.expected,
                received=counted.received,
                wrong=counted.wrong,
            )
        )


@dataclass(slots=True)
class Counted:
    """Messages that should have arrived, that did, and the clients for whom that differs."""

    expected: int = 0
    received: int = 0
    wrong: int = 0


@dataclass(slots=True)
class Burst:
    """Messages sent as fast as possible: how many, how many at once, and what."""

    count: int
    in_flight: int
    targets: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    is_readable: bool = True
    """False when frames are compressed: they are counted, not read."""


def send(session: Session, burst: Burst, counted: Counted) -> bool:
    """Send one burst, and wait until every client has it; return whether that came true."""
    first = session.numbers(burst.count)
    expected = burst.count * (session.clients.count - bool(burst.excluded))
    session.clients.reset()
    session.cluster.order(
        count=burst.count,
        in_flight=burst.in_flight,
        first=first,
        targets=burst.targets,
        excluded=burst.excluded,
        **burst.more,
    )
    session.clients.wait(expected)
    sequences = sum(range(first, first + burst.count)) if burst.is_readable else 0
    counted.expected += expected
    counted.received += session.clients.counters()["messages"]
    if not burst.excluded:  # else each client misses what is its own
        counted.wrong += session.clients.incomplete(burst.count, sequences)
    return counted.received == counted.expected


def rate(session: Session, measure: str, burst: Burst) -> None:
    """Repeat a burst until the servers have worked long enough; record deliveries per CPU second."""
    warm_up = dataclasses.replace(burst, count=max(1, burst.count // WARM_UP_SHARE))
    send(session, warm_up, Counted())  # what is built on first use is built
    counted = Counted()
    began, cpu = time.monotonic(), session.cluster.cpu_ns()
    bytes_seen = 0
    while send(session, burst, counted):
        bytes_seen += session.clients.counters()["bytes"]
        used = (session.cluster.cpu_ns() - cpu) / 1e9
        if used >= session.load.sample_cpu_s or time.monotonic() - began > session.load.sample_wall_s:
            break
    used, took = (session.cluster.cpu_ns() - cpu) / 1e9, time.monotonic() - began
    values = {
        "per_cpu_s": counted.received / used,
        "per_s": counted.received / took,
        "cpu_us": used * 1e6 / max(1, counted.received),
        "frame_bytes": bytes_seen / max(1, counted.received),
        "cpu_s": used,
    }
    session.record(measure, values, counted)


def burst(session: Session, broadcasts: int | None = None, measure: str = "burst") -> None:
    """(a) Broadcasts to all, several in flight."""
    load = session.load
    rate(session, measure, Burst(broadcasts or load.broadcasts, load.in_flight))


def chat(session: Session) -> None:
    """(a) Broadcasts that each leave another client out, as a chat does with the sender."""
    load = session.load
    names = [str(number) for number in range(session.clients.count)]
    rate(session, "chat", Burst(load.broadcasts, load.in_flight, excluded=names))


def awaited(session: Session) -> None:
    """(b) One broadcast at a time, each awaited."""
    rate(session, "awaited", Burst(session.load.awaited, 1))


def direct(session: Session) -> None:
    """(d) Messages to single clients by their ids, several in flight."""
    load = session.load
    targets = [str(number) for number in range(session.clients.count)]
    rate(session, "direct", Burst(load.direct_rounds, load.direct_in_flight, targets))


def paced(session: Session) -> None:
    """(c) Broadcasts at a fixed rate: latency, and the CPU that the servers need for it."""
    load = session.load
    count = load.paced_rate * load.paced_s
    counted = Counted()
    began, cpu = time.monotonic(), session.cluster.cpu_ns()
    send(session, Burst(count, 1, more={"rate": load.paced_rate}), counted)
    took = max(time.monotonic() - began, load.paced_s)
    used = (session.cluster.cpu_ns() - cpu) / 1e9
    p50, p99, p999 = session.clients.percentiles(0.5, 0.99, 0.999)
    values = {
        "p50_ms": p50 * 1e3,
        "p99_ms": p99 * 1e3,
        "p999_ms": p999 * 1e3,
        "cpu_percent": used / took * 100,
    }
    session.record("paced", values | {"cpu_s": used}, counted)


def stalled(session: Session) -> None:
    """(c) The same while one more client reads nothing of 12 MB that it is sent."""
    system, cluster = session.system, session.cluster
    path = system.client_path.format(id=STALLED)
    order = {"count": STALLED_MESSAGES, "in_flight": 4, "size": STALLED_SIZE, "targets": [STALLED]}
    with stalled_socket(cluster.ports[0], path), ThreadPoolExecutor(1) as pool:
        flood = pool.submit(cluster.order, **order)
        paced(session)
        flood.result()
    session.samples[-1].measure = "paced_stalled"


@contextmanager
def stalled_socket(port: int, path: str) -> Iterator[None]:
    """Connect a client that reads the answer to its handshake and then nothing more."""
    lines = (
        f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: c3RhbGxlZCBjbGllbnQhIQ==", "Sec-WebSocket-Version: 13", "", "",
    )  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall("\r\n".join(lines).encode())
        client.recv(4096)
        yield


def json_burst(session: Session, size: int, is_granted: bool) -> None:
    """(i) JSON messages to clients that offer compression."""
    more = {"is_json": True, "size": size}
    load = session.load
    rate(
        session,
        f"json_{size}",
        Burst(load.json_broadcasts, load.in_flight, more=more, is_readable=not is_granted),
    )


def memory_and_connect(session: Session, *, offers_deflate: bool) -> str:
    """(e) Memory and (f) CPU of a connection; returns the extensions that clients were granted."""
    clients, cluster, load = session.clients, session.cluster, session.load
    session.connect(min(WARM_UP_CLIENTS, load.memory_clients), by_id=True, offers_deflate=offers_deflate)
    clients.close()
    session.settle()
    before, cpu = cluster.rss_bytes(), cluster.cpu_ns()
    extensions = session.connect(load.memory_clients, by_id=True, offers_deflate=offers_deflate)
    used = cluster.cpu_ns() - cpu
    session.settle()
    each = kib(cluster.rss_bytes() - before, clients.count)
    name = "deflate" if offers_deflate else "plain"
    session.record(f"memory_{name}", {"kib": each, "is_granted": float("permessage-deflate" in extensions)})
    session.record(f"connect_{name}", {"cpu_us": used / 1e3 / clients.count, "cpu_s": used / 1e9})
    if offers_deflate:
        _use(session)
        session.record("memory_used", {"kib": kib(cluster.rss_bytes() - before, clients.count)})
    return extensions


def kib(size: int, connections: int) -> float:
    """Return KiB for each connection."""
    return size / 1024 / connections


def _use(session: Session) -> None:
    """Have each client send and receive messages, compressed where that was granted."""
    clients = session.clients
    clients.reset()
    for number in range(USED_MESSAGES * session.system.takes_messages):
        text = json.dumps(json_message(number, USED_MESSAGE_SIZE))
        clients.send(f'42["message",{text}]' if session.system.dialect == "socket.io" else text)
        session.settle()
    if session.system.can_send:
        more = {"is_json": True, "size": USED_MESSAGE_SIZE}
        targets = [str(number) for number in range(clients.count)]
        session.cluster.order(count=USED_MESSAGES, in_flight=20, first=1, targets=targets, **more)
    if not clients.wait(USED_MESSAGES * clients.count):
        raise RuntimeError(f"only {clients.counters()['messages']} messages came")
    session.settle()


def turns(session: Session) -> None:
    """(j) The longest turn of the event loop while broadcasting, and the garbage collector's longest pause."""
    load, counted = session.load, Counted()
    send(session, Burst(load.large_broadcasts, load.in_flight), Counted())  # connecting is over then
    first = session.numbers(load.large_broadcasts)
    session.clients.reset()
    order = {"count": load.large_broadcasts, "in_flight": load.in_flight, "first": first, "is_watched": True}
    answer = session.cluster.order(**order)
    counted.expected = load.large_broadcasts * session.clients.count
    session.clients.wait(counted.expected)
    counted.received = session.clients.counters()["messages"]
    collections = json.loads(get(session.cluster.ports[0], "/collections"))
    values = {"turn_ms": answer["longest_turn_ms"], "collection_ms": collections["longest_ms"]}
    session.record("turns", values, counted)


def idle(session: Session) -> None:
    """(g) What connections cost that say nothing: CPU, and commands of Redis."""
    session.settle()
    began, cpu, commands = time.monotonic(), session.cluster.cpu_ns(), _commands(session.valkey)
    time.sleep(session.load.idle_s)
    took = time.monotonic() - began
    used = (session.cluster.cpu_ns() - cpu) / 1e9
    asked = _commands(session.valkey) - commands - CONTROL_COMMANDS
    session.record("idle", {"cpu_percent": used / took * 100, "commands_per_s": asked / took})


def _commands(valkey: "redis.Redis") -> int:
    return int(valkey.info("stats")["total_commands_processed"])  # type: ignore[index,arg-type,unused-ignore]


Measure = Callable[[Session], None]
