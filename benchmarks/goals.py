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
