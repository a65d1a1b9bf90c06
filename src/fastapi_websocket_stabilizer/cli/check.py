"""``stabilizer check`` and ``stabilizer nodes``: what is wrong with a registry, and its nodes."""

import asyncio
from dataclasses import asdict, dataclass

from ..config import WebSocketConfig
from ..observe.rules import Look, Problem, Severity, counted, problems
from ..registry.telemetry import Sample
from ..runtime.loops import running_loop
from .operator import Operator

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
    """A node as JSON. Rates are per second."""

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
        return "\n".join(lines)

    def nodes_as_text(self) -> str:
        """Return what ``stabilizer nodes`` prints: a table."""
        rows = [
            (
                "NODE",
                "NAME",
                "W",
                "VERSION",
                "CONNS",
                "ROOMS",
                "OPEN/S",
                "CLOSE/S",
                "OUT/S",
                "OUTBOX",
                "STATE",
            )
        ]
        for node in self.nodes:
            state = "draining" if node.draining else "ready" if node.ready else "not ready"
            numbers = (f"{node.opened_per_s:.1f}", f"{node.closed_per_s:.1f}", f"{node.sent_per_s:.1f}")
            rows.append(
                (node.node_id, node.name, str(node.worker), node.version, str(node.connections), str(node.rooms),
                 *numbers, str(node.outbox_bytes), state)
            )  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


async def look(config: WebSocketConfig, over_s: float) -> Report:
    """Look at a registry twice, ``over_s`` seconds apart.

    Raises:
        RemoteError: There is no URL.
        BackendUnavailableError: Redis did not answer.
    """
    async with Operator(config) as operator:
        before, began_s = await operator.samples(), running_loop().time()
        await asyncio.sleep(over_s)
        found = Look(before, await operator.samples(), running_loop().time() - began_s)
    return Report(
        config.namespace,
        [_node(found, sample) for sample in found.nodes],
        [_problem(problem) for problem in problems(found)],
    )


def _node(found: Look, sample: Sample) -> ShownNode:
    gauges = sample.gauges
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
