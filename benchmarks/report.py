"""The page: goals, tables, charts, and plainly where this library loses."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import charts, words
from .goals import goals
from .results import Results, Sample, Spread
from .systems import ALL, System

Show = Callable[[float], str]


def thousands(value: float) -> str:
    """Show a rate."""
    return f"{value / 1000:,.0f} k" if value >= 10_000 else f"{value / 1000:,.1f} k"


def plain(value: float) -> str:
    """Show three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Column:
    """One value of a table; the first of a table ranks the systems."""

    header: str
    value: str
    show: Show = plain


@dataclass(frozen=True, slots=True)
class Table:
    """One measure."""

    letter: str
    measure: str
    title: str
    columns: tuple[Column, ...]
    is_more_better: bool = True
    ours: str = "ours"
    """The system of this library that peers are compared with."""


PER_CPU = Column("deliveries per server CPU second", "per_cpu_s", thousands)
RATE = (PER_CPU, Column("deliveries a second", "per_s", thousands))
SENDS = (Column("sends per server CPU second", "per_cpu_s", thousands), RATE[1])
JSON = (*RATE, Column("bytes a frame", "frame_bytes"))
LATENCY = (
    Column("p99 ms", "p99_ms"),
    Column("p50 ms", "p50_ms"),
    Column("p99.9 ms", "p999_ms"),
    Column("server CPU, % of a core", "cpu_percent"),
)
KIB = (Column("KiB RSS a connection", "kib"),)
CONNECT = (Column("µs server CPU a connection", "cpu_us"),)
TURNS = (
    Column("longest turn, ms CPU", "turn_ms"),
    Column("longest full garbage collection, while they connected, ms", "collection_ms"),
)
BYTES = (Column("bytes", "around_bytes"),)
RETURNS = (
    Column("µs server CPU a client", "cpu_us"),
    Column("ms until the last is whole", "whole_ms"),
    Column("Redis commands a client", "commands"),
    Column("reads of a log", "reads"),
    Column("ms Redis CPU", "redis_ms"),
)
TABLES = (
    Table("a", "burst", "{broadcasts} broadcasts to {clients:,} clients, {in_flight} in flight", RATE),
    Table("a", "burst_large", "{large_broadcasts} broadcasts to {large_clients:,} clients", RATE),
    Table(
        "a", "chat", "{broadcasts} broadcasts to {clients:,} clients, each leaving another client out", RATE
    ),
    Table("b", "awaited", "One awaited broadcast at a time to {clients:,} clients", RATE),
    Table("c", "paced", "{paced_rate} broadcasts a second to {clients:,} clients", LATENCY, False),
    Table(
        "c",
        "paced_stalled",
        "{paced_rate} broadcasts a second while one more client does not read its 12 MB",
        LATENCY,
        False,
    ),
    Table("d", "direct", "Sends to each of {direct_clients} clients, {direct_in_flight} in flight", SENDS),
    Table("e", "memory_plain", "Memory of an idle, registered connection", KIB, False),
    Table("e", "memory_deflate", "Memory when the client offers permessage-deflate", KIB, False),
    Table(
        "e",
        "memory_used",
        "Memory after messages both ways, compressed where the server granted it",
        KIB,
        False,
    ),
    Table("f", "connect_plain", "CPU of connecting", CONNECT, False),
    Table("f", "connect_deflate", "CPU of connecting with permessage-deflate offered", CONNECT, False),
    Table(
        "j",
        "turns",
        "The event loop of one replica while it broadcasts to {large_clients:,} clients",
        TURNS,
        False,
    ),
    Table("i", "json_1024", "1 KiB of JSON to {clients:,} clients that offer compression", JSON),
    Table("i", "json_16384", "16 KiB of JSON to {clients:,} clients that offer compression", JSON),
    Table(
        "k",
        "room",
        "{broadcasts} messages to {clients:,} members of a room without history, {in_flight} in flight",
        RATE,
        ours="ours-rooms",
    ),
    Table(
        "k",
        "room_recorded",
        "{broadcasts} messages to {clients:,} members of a room with history, {in_flight} in flight",
        RATE,
        ours="ours-v1",
    ),
    Table("k", "room_bytes", "Bytes around a message of a room with history", BYTES, False, "ours-v1"),
    Table(
        "l",
        "storm",
        "{large_clients:,} clients that come back at once, to a room of {log_entries} entries"
        " of which each missed {storm_missed}; plain sockets only connect",
        RETURNS,
        False,
        "ours-v1",
    ),
    Table(
        "m", "memory_rooms", "Memory of an idle connection in three rooms with history", KIB, False, "ours-v1"
    ),
    Table(
        "n",
        "away",
        "{clients:,} clients come back after {away_s:g} s and get {missed} messages each",
        RETURNS,
        False,
        "ours-v1",
    ),
)
RANKED = (
    "per_cpu_s",
    "p99_ms",
    "cpu_percent",
    "kib",
    "cpu_us",
    "around_bytes",
    "whole_ms",
    "commands",
    "redis_ms",
)
"""Values of which the page says where a peer did better."""
CHARTED = ("burst", "burst_large", "awaited", "paced", "direct", "memory_plain")


class Page:
    """The page of one set of results."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._load: dict[str, Any] = results.about["load"]

    def write(self, path: Path) -> None:
        """Write the page, and its charts into a folder of the same name beside it."""
        folder = path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        for name, svg in self._charts():
            (folder / f"{name}.svg").write_text(svg)
        path.write_text("\n".join(self._lines(folder)).rstrip() + "\n")

    def _lines(self, folder: Path) -> Iterator[str]:
        yield words.HEAD
        yield from self._about()
        yield from self._goals()
        yield from self._losses()
        for table in TABLES:
            yield from self._table(table, folder)
        yield from self._growth(folder)
        yield from self._failures()

    def _about(self) -> Iterator[str]:
        about = self._results.about
        yield f"\n## This run\n\nDate {about['date']}, `{about['command']}`, {about['minutes']:.0f} minutes.\n"
        for again in about.get("again", ()):
            yield f"Measured again, or in addition: {again}.\n"
        yield "| | |\n|---|---|"
        for name, value in {**about["machine"], **about["versions"]}.items():
            yield f"| {name} | {value} |"
        for name, missing in about["missing"].items():
            yield f"\n**Not here, so not measured: {name}.** `{missing}`"
        yield f"\nSockets of this library were written by: {about['paths'] or 'not asked'}.\n"

    def _goals(self) -> Iterator[str]:
        yield "\n## Goals\n\n| | goal | bound | measured (worst–best case) | |\n|---|---|---|---|---|"
        every = list(goals(self._results))
        measured = {goal.letter for goal in every if goal.is_met is not None}
        for goal in every:
            if goal.letter not in measured:
                continue  # not asked for
            bound = f"{'≥' if goal.is_least else '≤'} {goal.limit:g} {goal.unit}"
            verdict = {True: "met", False: "**not met**", None: "not measured"}[goal.is_met]
            yield f"| {goal.letter} | {goal.text} | {bound} | {_spread(goal.measured, plain)} | {verdict} |"

        if measured & {"a", "b", "d"}:
            yield words.LIMITS

    def _losses(self) -> Iterator[str]:
        yield "\n## Where this library loses\n"
        found = [line for table in TABLES for line in self._lost(table)]
        yield from found or ["In none of the measures below did a peer do better."]

    def _lost(self, table: Table) -> Iterator[str]:
        peers = [system for system in ALL.values() if not system.name.startswith("ours")]
        for column in table.columns:
            ours = self._spread(table, column, table.ours) if column.value in RANKED else None
            for system in peers:
                theirs = self._spread(table, column, system.name)
                if ours is not None and theirs is not None and ours.middle and theirs.middle:
                    yield from self._loss(table, column, system, theirs.middle / ours.middle)

    def _loss(self, table: Table, column: Column, system: System, ratio: float) -> Iterator[str]:
        """Say so if ``system``, whose value is ``ratio`` times ours, did better."""
        factor = ratio if table.is_more_better else 1 / ratio
        if factor <= 1:
            return
        measured = f"({table.letter}) {self._title(table)}, {column.header}"
        why = words.REASONS.get((table.measure, system.name)) or words.REASONS.get((table.letter, ""), "")
        yield f"- {measured}: {system.title} is {factor:.2f}× better. {why}".rstrip()

    def _title(self, table: Table) -> str:
        return table.title.format(**self._load)

    def _spread(self, table: Table, column: Column, system: str) -> Spread | None:
        return self._results.spread(column.value, measure=table.measure, system=system)

    def _table(self, table: Table, folder: Path) -> Iterator[str]:
        samples = list(self._results.select(measure=table.measure))
        if not samples:
            return
        yield f"\n## ({table.letter}) {self._title(table)}\n"
        if table.measure in CHARTED:
            yield f"![{self._title(table)}]({folder.name}/{table.measure}.svg)\n"
        headers = ["system", *(column.header for column in table.columns), "messages"]
        yield f"| {' | '.join(headers)} |\n|{'---|' * len(headers)}"
        for name in self._ranked(table):
            cells = [_spread(self._spread(table, column, name), column.show) for column in table.columns]
            yield f"| {ALL[name].title} | {' | '.join(cells)} | {_messages(samples, name)} |"

    def _ranked(self, table: Table) -> list[str]:
        found = {sample.system for sample in self._results.select(measure=table.measure)}
        spreads = {name: self._spread(table, table.columns[0], name) for name in found}
        worst = 0.0 if table.is_more_better else float("inf")
        values = {name: spread.middle if spread else worst for name, spread in spreads.items()}
        return sorted(values, key=values.__getitem__, reverse=table.is_more_better)

    def _growth(self, folder: Path) -> Iterator[str]:
        sizes = sorted({(s.replicas, s.connections) for s in self._results.select(measure="growth_burst")})
        if not sizes:
            return
        yield "\n## (g, h) Growth: this library with more connections and replicas\n"
        yield f"![Growth]({folder.name}/growth.svg)\n"
        headers = ["replicas", "connections", "µs CPU a delivery", "p99 ms", "paced CPU %", "idle CPU %"]
        headers += ["idle Redis commands/s", "messages"]
        yield f"| {' | '.join(headers)} |\n|{'---|' * len(headers)}"
        for replicas, connections in sizes:
            where = {"replicas": replicas, "connections": connections, "system": "ours"}
            cells = [
                _spread(self._results.spread(value, measure=measure, **where), plain)
                for measure, value in words.GROWTH_VALUES
            ]
            samples = [s for s in self._results.select(**where) if s.measure.startswith("growth")]
            yield f"| {replicas} | {connections:,} | {' | '.join(cells)} | {_messages(samples, 'ours')} |"

    def _failures(self) -> Iterator[str]:
        failed = self._results.failed()
        yield (
            f"\n## Failed samples\n\n{len(failed)} of {len(self._results.samples)}. A sample that lost "
            "a message, or received one twice, is in no median above."
        )
        for s in failed:
            reason = s.error.strip().splitlines()[0] if s.error else f"{s.lost:,} of {s.expected:,} lost"
            yield f"- {s.system}, {s.measure}, run {s.run}: {reason}"

    def _charts(self) -> Iterator[tuple[str, str]]:
        for table in TABLES:
            column = table.columns[0]
            spreads = {name: self._spread(table, column, name) for name in self._ranked(table)}
            bars = [
                charts.Bar(ALL[n].title.strip("*"), s.middle, column.show(s.middle), n.startswith("ours"))
                for n, s in spreads.items()
                if s is not None
            ]
            if bars and table.measure in CHARTED:
                yield table.measure, charts.bars(f"{self._title(table)}: {column.header}", bars)
        yield from self._growth_chart()

    def _growth_chart(self) -> Iterator[tuple[str, str]]:
        sizes = sorted({s.connections for s in self._results.select(measure="growth_burst", replicas=2)})
        where = {"measure": "growth_burst", "replicas": 2}
        spreads = [(size, self._results.spread("cpu_us", connections=size, **where)) for size in sizes]
        points = [(float(size), spread.middle) for size, spread in spreads if spread]
        if points:
            line = charts.Line("2 replicas", points)
            yield "growth", charts.lines("µs of server CPU a delivery", "connections", [line])


def _spread(spread: Spread | None, show: Show) -> str:
    if spread is None:
        return "–"
    if spread.low == spread.high:
        return show(spread.middle)
    return f"**{show(spread.middle)}** ({show(spread.low)}–{show(spread.high)})"


def _messages(samples: list[Sample], system: str) -> str:
    own = [sample for sample in samples if sample.system == system]
    sent, lost = sum(sample.expected for sample in own), sum(sample.lost for sample in own)
    if not sent:
        return f"{len(own)} runs"
    return f"{sent:,} sent, {sent - lost:,} received, {lost:,} lost in {len(own)} runs"
