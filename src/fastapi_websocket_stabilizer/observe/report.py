"""The nodes of a registry and what is wrong with them, as JSON and as text. Pure."""

from dataclasses import asdict, dataclass

from ..names import printable
from ..registry.telemetry import Sample
from .look import Look
from .rules import Problem, Severity, problems
from .text import counted, duration, size, table

OK, WARNING, CRITICAL, UNKNOWN = range(4)
"""Exit codes of monitoring plugins."""


@dataclass(frozen=True, slots=True)
class ShownProblem:
    """A problem as JSON.

    Attributes:
        name: Name of the rule.
        severity: "page" or "warn".
        node_id: The node that has it; None for the registry.
        node: Its display name.
        what: What was found.
        meaning: What it means for clients.
        advice: What to do.
    """

    name: str
    severity: Severity
    node_id: str | None
    node: str | None
    what: str
    meaning: str
    advice: str


@dataclass(frozen=True, slots=True)
class ShownNode:
    """A node as JSON. Rates are per second.

    Attributes:
        load: Its connections, as a multiple of the mean of all nodes.
        loop_lag_s: Seconds that 99 of 100 waits of its event loop took at most; None if none was measured.
        bus_lag_s: Seconds in which 9 of 10 probes came back through Redis; None if none was measured.
    """

    node_id: str
    name: str
    worker: int
    version: str
    ready: bool
    draining: bool
    connections: int
    rooms: int
    opened_per_s: float
    closed_per_s: float
    sent_per_s: float
    outbox_bytes: int
    load: float = 0.0
    loop_lag_s: float | None = None
    bus_lag_s: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the cells of its line in a table."""
        state = "draining" if self.draining else "ready" if self.ready else "not ready"
        rates = self.opened_per_s, self.closed_per_s, self.sent_per_s
        lags = ("-" if lag is None else f"<{duration(lag)}" for lag in (self.loop_lag_s, self.bus_lag_s))
        return (
            self.node_id, self.name, str(self.worker), self.version, f"{self.connections:,}", f"{self.load:.2f}",
            str(self.rooms), *(f"{rate:,.1f}" for rate in rates), size(self.outbox_bytes), *lags, state,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of two looks at a registry."""

    namespace: str
    nodes: list[ShownNode]
    problems: list[ShownProblem]

    @property
    def exit_code(self) -> int:
        """2 for a problem that must be mended now, 1 for any other, 0 for none; 2 without a live node."""
        if not self.nodes or any(problem.severity == "page" for problem in self.problems):
            return CRITICAL
        return WARNING if self.problems else OK

    def as_dict(self) -> dict[str, object]:
        """Return the JSON object of ``--json``."""
        return {**asdict(self), "exit_code": self.exit_code}

    def as_text(self) -> str:
        """Return what ``stabilizer check`` prints: the first line is for monitoring."""
        words = {OK: "OK", WARNING: "WARNING", CRITICAL: "CRITICAL"}[self.exit_code]
        found = (
            counted(len(self.nodes), "node"),
            counted(sum(node.connections for node in self.nodes), "connection"),
            counted(len(self.problems), "problem"),
        )
        head = f"{words} - {self.namespace}: {', '.join(found)}"
        lines = [head]
        for problem in self.problems:
            where = "" if problem.node is None else f" on {problem.node} ({problem.node_id})"
            lines += [f"{problem.severity} {problem.name}{where}: {problem.what}"]
            lines += [f"  {problem.meaning}", f"  {problem.advice}"]
        return "\n".join(map(printable, lines))

    def nodes_as_text(self) -> str:
        """Return what ``stabilizer nodes`` prints: a table."""
        head = (
            "NODE", "NAME", "W", "VERSION", "CONNS", "LOAD", "ROOMS", "OPEN/S", "CLOSE/S", "OUT/S", "OUTBOX", "LOOP",
            "BUS", "STATE",
        )  # fmt: skip
        return table(head, [node.cells() for node in self.nodes])


def report_of(namespace: str, found: Look) -> Report:
    """Return what two looks have found."""
    shown = [_node(found, sample) for sample in found.nodes]
    return Report(namespace, shown, [_problem(problem) for problem in problems(found)])


def _node(found: Look, sample: Sample) -> ShownNode:
    gauges, all_of_them = sample.gauges, found.gauges("connections")
    mean = sum(all_of_them) / len(all_of_them)
    return ShownNode(
        sample.node,
        sample.name,
        sample.worker,
        sample.version,
        bool(gauges.get("ready")),
        bool(gauges.get("draining")),
        int(gauges.get("connections", 0)),
        int(gauges.get("rooms", 0)),
        round(found.rate(sample, "connections_opened_total"), 2),
        round(found.rate(sample, "connections_closed_total"), 2),
        round(found.rate(sample, "messages_sent_total"), 2),
        int(gauges.get("outbox_bytes", 0)),
        round(gauges.get("connections", 0) / mean, 2) if mean else 0.0,
        found.quantile(sample, "event_loop_lag_seconds", 0.99),
        found.quantile(sample, "bus_lag_seconds", 0.9),
    )


def _problem(problem: Problem) -> ShownProblem:
    rule, node = problem.rule, problem.finding.node
    return ShownProblem(
        name=rule.name,
        severity=rule.severity,
        node_id=None if node is None else node.node,
        node=None if node is None else node.name,
        what=problem.finding.what,
        meaning=rule.meaning,
        advice=rule.advice,
    )
