"""What this library promises to cost, and whether it kept it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .results import Results, Spread

OURS = "ours"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one value, or on its ratio to the same value of another system."""

    letter: str
    text: str
    is_least: bool
    limit: float
    ours: Spread | None
    theirs: Spread | None = None
    unit: str = "×"

    @property
    def measured(self) -> Spread | None:
        """Return the ratio of the medians, or our value; None if either is not there."""
        if self.unit != "×":
            return self.ours
        if self.ours is None or self.theirs is None or not self.theirs.low:
            return None
        mine, other = self.ours, self.theirs
        return Spread(mine.middle / other.middle, mine.low / other.high, mine.high / other.low)

    @property
    def is_met(self) -> bool | None:
        """Whether the median keeps to the bound; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured.middle >= self.limit if self.is_least else self.measured.middle <= self.limit


RATES = (
    ("a", "deliveries per server CPU second", "burst", OURS, "1.1+glue", 50.0),
    ("a", "deliveries per server CPU second", "burst", OURS, "socket.io", 15.0),
    ("a", "deliveries per server CPU second", "burst", OURS, "nchan", 5.0),
    ("a", "deliveries per server CPU second with the most clients", "burst_large", OURS, "1.1+glue", 80.0),
    ("a", "deliveries per server CPU second with the most clients", "burst_large", OURS, "nchan", 10.0),
    ("a", "deliveries per server CPU second on stock uvicorn", "burst", "ours-stock", "hubcast", 1.1),
    ("b", "one awaited broadcast at a time", "awaited", OURS, "1.1+glue", 5.0),
    ("b", "one awaited broadcast at a time", "awaited", OURS, "socket.io", 2.0),
    ("b", "one awaited broadcast at a time", "awaited", OURS, "nchan", 0.6),
    ("d", "direct sends per server CPU second", "direct", OURS, "1.1+glue", 5.0),
    ("d", "direct sends per server CPU second", "direct", OURS, "socket.io", 2.5),
)
"""Letter, words, measure, who of us, compared with whom, at least how many times as much."""
COSTS = (
    ("c", "p99 latency, paced", "paced", "p99_ms", OURS, "nchan", 1.1),
    ("c", "server CPU, paced", "paced", "cpu_percent", OURS, "nchan", 1.15),
    ("e", "memory of a connection that is not parked", "memory_plain", "kib", "ours-block", "bare", 1.15),
    (
        "e",
        "memory of a connection that is not parked, deflate offered",
        "memory_deflate",
        "kib",
        "ours-block",
        "bare",
        1.15,
    ),
    ("f", "CPU of connecting", "connect_plain", "cpu_us", OURS, "bare", 1.15),
)
"""Letter, words, measure, value, who of us, compared with whom, at most how many times as much."""
MEMORY = (
    ("memory of a parked connection, plain", "memory_plain"),
    ("memory of a parked connection, deflate offered", "memory_deflate"),
    ("memory of a parked connection after compressed messages both ways", "memory_used"),
)
MEMORY_KIB = 11.0
IDLE_PERCENT = 2.0
TURN_MS = 20.0
GROWTH = 1.5
STALLED = 1.25
SAME = 1.1
PLAIN, V1, PEER = "ours-rooms", "ours-v1", "centrifugo"
RECORDED_SHARE, UNRECORDED_SHARE = 0.7, 0.98
AROUND_BYTES = 30.0
ROOMS_KIB = 8.0
STORM_READS = 4.0
STORM_CPU = 1.3
STORM_REDIS_MS = 1000.0


def goals(results: Results) -> Iterator[Goal]:
    """Yield all goals with what was measured."""
    for letter, text, measure, us, them, limit in RATES:
        ours = results.spread("per_cpu_s", system=us, measure=measure)
        theirs = results.spread("per_cpu_s", system=them, measure=measure)
        yield Goal(letter, f"{text}, against {them}", True, limit, ours, theirs)
    for letter, text, measure, value, us, them, limit in COSTS:
        ours = results.spread(value, system=us, measure=measure)
        theirs = results.spread(value, system=them, measure=measure)
        yield Goal(letter, f"{text}, against {them}", False, limit, ours, theirs)
    for text, measure in MEMORY:
        ours = results.spread("kib", system=OURS, measure=measure)
        yield Goal("e", text, False, MEMORY_KIB, ours, unit="KiB")
    yield _bystanders(results)
    turn = results.spread("turn_ms", measure="turns")
    yield Goal(
        "j",
        "longest turn of the event loop, 10,000 sockets on a replica",
        False,
        TURN_MS,
        turn,
        unit="ms",
    )
    yield from _growth(results)
    yield from _rooms(results)
    yield from _returns(results)


def _bystanders(results: Results) -> Goal:
    disturbed = results.spread("p99_ms", system=OURS, measure="paced_stalled")
    alone = results.spread("p99_ms", system=OURS, measure="paced")
    return Goal(
        "c",
        "p99 latency beside a client that does not read, against without it",
        False,
        STALLED,
        disturbed,
        alone,
    )


def _growth(results: Results) -> Iterator[Goal]:
    load: dict[str, Any] = results.about["load"]
    most, usual = load["large_clients"], load["clients"]
    least = min(load["growth_clients"])
    pair = {"system": OURS, "replicas": 2}
    idle = results.spread("cpu_percent", measure="idle", connections=most, **pair)
    yield Goal("g", f"{most:,} idle connections, share of a core", False, IDLE_PERCENT, idle, unit="%")
    many = results.spread("commands_per_s", measure="idle", connections=most, **pair)
    few = results.spread("commands_per_s", measure="idle", connections=least, **pair)
    yield Goal(
        "g",
        f"Redis commands a second of {most:,} idle connections, against {least:,}",
        False,
        SAME,
        many,
        few,
    )
    large = results.spread("cpu_us", measure="growth_burst", connections=most, **pair)
    small = results.spread("cpu_us", measure="growth_burst", connections=usual, **pair)
    yield Goal("h", f"cost of a delivery to {most:,}, against {usual:,}", False, GROWTH, large, small)


def _rooms(results: Results) -> Iterator[Goal]:
    def rate(system: str, measure: str) -> Spread | None:
        return results.spread("per_cpu_s", system=system, measure=measure)

    pairs = (
        (
            "plain sockets, with history against without",
            PLAIN,
            "room_recorded",
            PLAIN,
            "room",
            RECORDED_SHARE,
        ),
        ("`stabilizer.v1`, with history against without", V1, "room_recorded", V1, "room", RECORDED_SHARE),
        (
            "plain sockets without history, against before",
            "ours-off",
            "room",
            "ours-before",
            "room",
            UNRECORDED_SHARE,
        ),
        ("`stabilizer.v1` with history, against centrifugo", V1, "room_recorded", PEER, "room_recorded", 2.0),
    )
    for text, us, ours, them, theirs, limit in pairs:
        yield Goal("k", f"deliveries to a room, {text}", True, limit, rate(us, ours), rate(them, theirs))
    around = results.spread("around_bytes", system=V1, measure="room_bytes")
    yield Goal("k", "bytes around a stored message", False, AROUND_BYTES, around, unit="bytes")
    memory = results.spread("kib", system=V1, measure="memory_rooms")
    yield Goal("m", "memory of an idle connection in three rooms", False, ROOMS_KIB, memory, unit="KiB")


def _returns(results: Results) -> Iterator[Goal]:
    def spread(value: str, system: str, measure: str) -> Spread | None:
        return results.spread(value, system=system, measure=measure)

    many = f"{results.about['load']['large_clients']:,} clients come back"
    reads, redis_ms = spread("reads", V1, "storm"), spread("redis_ms", V1, "storm")
    yield Goal("l", f"{many}: reads of the log, both replicas", False, STORM_READS, reads, unit="reads")
    cpu, plain = spread("cpu_us", V1, "storm"), spread("cpu_us", PLAIN, "storm")
    yield Goal("l", f"{many}: server CPU, against plain sockets that connect", False, STORM_CPU, cpu, plain)
    yield Goal("l", f"{many}: CPU of Redis", False, STORM_REDIS_MS, redis_ms, unit="ms")
    for text, value in (
        ("server CPU", "cpu_us"),
        ("Redis commands", "commands"),
        ("time until all are whole", "whole_ms"),
    ):
        ours, theirs = spread(value, V1, "away"), spread(value, PEER, "away")
        yield Goal(
            "n", f"coming back after some seconds: {text}, against centrifugo", False, 1.0, ours, theirs
        )
