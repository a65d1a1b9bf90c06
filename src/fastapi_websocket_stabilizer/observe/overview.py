"""A registry at a glance: totals, problems, ends by cause, and its nodes. Pure."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ..models import CloseCause
from ..names import NodeId
from ..registry.telemetry import Sample, Scrape
from .look import Look
from .report import Report, ShownNode, ShownProblem

WINDOW_S = 60.0
"""Seconds over which rates and problems are measured."""
LEAST_S = 5.0
"""Least seconds over which a growth counts. Nodes publish once a beat, so a shorter time shows bursts as rates."""
KEEP_EVERY_S = 5.0
"""Seconds between two looks that are kept."""


class Watch:
    """The looks of the last ``WINDOW_S``."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Sequence[Sample]]] = deque()

    def look(self, scrape: Scrape, now_s: float) -> Look:
        """Return the present look, compared with the oldest one of the window; the first one with itself."""
        while (
            self._looks and self._looks[0][0] < now_s - WINDOW_S - 2 * KEEP_EVERY_S
        ):  # none has looked since
            self._looks.popleft()
        if not self._looks or now_s - self._looks[-1][0] >= KEEP_EVERY_S:
            self._looks.append((now_s, scrape.samples))
        while len(self._looks) > 1 and self._looks[1][0] <= now_s - WINDOW_S:
            self._looks.popleft()
        began_s, before = self._looks[0]
        return Look(before, scrape.samples, max(LEAST_S, now_s - began_s), scrape.missing)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all nodes. Rates are per second.

    Attributes:
        ready: Number of nodes that take new clients.
        rooms: Rooms with a member, counted once for each node.
    """

    nodes: int
    ready: int
    connections: int
    rooms: int
    opened_per_s: float
    closed_per_s: float
    sent_per_s: float
    outbox_bytes: int


@dataclass(frozen=True, slots=True)
class RedisState:
    """The Redis of a registry, without its password."""

    address: str
    reachable: bool


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node."""

    node_id: NodeId
    name: str


@dataclass(frozen=True, slots=True)
class Overview:
    """A registry at a glance.

    Attributes:
        at: The time of the look, UTC.
        registry: The namespace.
        node: The node that has answered.
        mode: "memory" is one process without Redis.
        redis: None in memory mode.
        window_s: Seconds over which rates, ends and problems were measured.
        actions: What callers may do here.
        closed_by_cause: Number of ends in the window, by cause.
        missing: Live nodes that have published nothing.
    """

    at: datetime
    registry: str
    node: NodeName
    mode: Literal["memory", "redis"]
    redis: RedisState | None
    window_s: float
    actions: list[str]
    totals: Totals
    closed_by_cause: dict[str, int]
    problems: list[ShownProblem]
    nodes: list[ShownNode]
    missing: int


def totals_of(report: Report) -> Totals:
    """Return the sums over all nodes."""
    nodes = report.nodes
    return Totals(
        nodes=len(nodes),
        ready=sum(node.ready for node in nodes),
        connections=sum(node.connections for node in nodes),
        rooms=sum(node.rooms for node in nodes),
        opened_per_s=round(sum(node.opened_per_s for node in nodes), 2),
        closed_per_s=round(sum(node.closed_per_s for node in nodes), 2),
        sent_per_s=round(sum(node.sent_per_s for node in nodes), 2),
        outbox_bytes=sum(node.outbox_bytes for node in nodes),
    )


def ends_of(look: Look) -> dict[str, int]:
    """Return the number of ends by cause, of those causes that occurred."""
    counts = {
        cause.value: sum(look.increase(node, "connections_closed_total", cause.value) for node in look.nodes)
        for cause in CloseCause
    }
    return {cause: count for cause, count in counts.items() if count}
