"""Questions to all nodes, and their answers as one. The command line and the admin routes ask in the same way."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import TypeAdapter

from ..models import ConnectionView, NodeInfo
from ..names import ConnectionId, NodeId, printable
from ..registry.views import MAX_ROWS, Answered, OfClosed, OfConnections, OfRooms, Question
from .explaining import Explained

_EXPLAINED = TypeAdapter(Explained)


class Desk(Protocol):
    """Where an operator asks: from outside over Redis, or a node that asks the others."""

    async def nodes(self) -> list[NodeInfo]:
        """Return all live nodes."""
        ...

    async def ask(self, question: Question, nodes: Iterable[NodeId]) -> Answered:
        """Ask nodes what they hold."""
        ...

    async def listed(self, client_id: str) -> list[tuple[NodeId, ConnectionId]]:
        """Return the connections of a client that the registry lists, with their nodes."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """The rows of all nodes.

    Attributes:
        rows: ``ConnectionView``, ``ClosedConnection`` or ``RoomTotal``: as many as were asked for.
        count: Number of rows that there are. Of rooms, it is the least number that there can be.
        is_partial: Whether nodes have more rooms than they have shown, so that sums may be too small.
        names: Display names of nodes.
        silent: Why nodes have not answered.
    """

    rows: list[Any]
    count: int
    names: dict[NodeId, str]
    silent: dict[NodeId, str]
    is_partial: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return the JSON object of ``--json`` and of the admin routes."""
        rows = [TypeAdapter(type(row)).dump_python(row, mode="json") for row in self.rows]
        return {
            "rows": rows,
            "count": self.count,
            "silent": self.silent,
            "names": self.names,
            "is_partial": self.is_partial,
        }

    def name(self, node: NodeId) -> str:
        """Return the display name of a node."""
        return self.names.get(node, node)

    def warnings(self) -> list[str]:
        """Return a line for each node without an answer, and one if rows are left out."""
        lines = [f"node {self.name(node)} ({node}): {why}" for node, why in self.silent.items()]
        if self.is_partial:
            lines.append(
                f"each node has shown its {MAX_ROWS} largest rooms, so sums may be too small: see --prefix"
            )
        if self.count > len(self.rows):
            lines.append(f"{len(self.rows)} of {self.count:,} are shown: see --limit")
        return list(map(printable, lines))


async def look(
    desk: Desk, question: Question, order: Callable[[Any], Any], nodes: Iterable[NodeInfo] | None = None
) -> Shown:
    """Ask all nodes, or some, and return the rows with the most of what ``order`` returns. For rooms, see ``rooms``.

    Raises:
        BackendUnavailableError: Redis did not answer.
    """
    names = {info.node_id: info.name for info in (await desk.nodes() if nodes is None else nodes)}
    answered = await desk.ask(question, names)
    return _merged(answered, order, question.limit, names)


def _merged(answered: Answered, order: Callable[[Any], Any], limit: int, names: dict[NodeId, str]) -> Shown:
    rows = [row for found in answered.found.values() for row in found.rows]
    count = sum(found.count for found in answered.found.values())
    return Shown(heapq.nlargest(limit, rows, key=order), count, names, answered.silent)


ORDERS: dict[str, Callable[[ConnectionView], float]] = {
    "age": lambda view: view.open_s,
    "outbox": lambda view: view.queued_bytes,
    "silent": lambda view: view.silent_s,
}
"""Value that connections are sorted by, for each order of a question."""


@dataclass(frozen=True, slots=True)
class RoomTotal:
    """A room on all nodes that have answered.

    Attributes:
        connections: Number of its members.
        nodes: Number of nodes that have some.
    """

    room: str
    connections: int
    nodes: int


async def rooms(desk: Desk, question: OfRooms, nodes: Iterable[NodeInfo] | None = None) -> Shown:
    """Ask all nodes, or some, for their largest rooms, and return those with the most members. Raises as ``look``.

    A room that is not among the 500 largest of a node is counted without its members there (``is_partial``).
    """
    names = {info.node_id: info.name for info in (await desk.nodes() if nodes is None else nodes)}
    answered = await desk.ask(OfRooms(question.prefix, MAX_ROWS), names)
    members, places = Counter[str](), Counter[str]()
    for view in (view for found in answered.found.values() for view in found.rows):
        members[view.room] += view.connections
        places[view.room] += 1
    rows = [RoomTotal(room, count, places[room]) for room, count in members.most_common(question.limit)]
    counts = [found.count for found in answered.found.values()]
    is_partial = any(count > MAX_ROWS for count in counts)
    return Shown(rows, max([len(members), *counts]), names, answered.silent, is_partial)


async def explain(desk: Desk, client_id: str) -> Explained:
    """Ask all nodes for one client.

    Raises:
        InvalidNameError: The name is illegal.
        BackendUnavailableError: Redis did not answer.
    """
    names = {info.node_id: info.name for info in await desk.nodes()}
    listed = await desk.listed(client_id)
    open_ = await desk.ask(OfConnections(client=client_id, limit=MAX_ROWS), names)
    ended = await desk.ask(OfClosed(client=client_id, limit=MAX_ROWS), names)
    now = datetime.now(UTC)
    connections = _merged(open_, lambda view: view.open_s, MAX_ROWS, names).rows
    held = {view.connection_id for view in connections}
    ghosts = [name for node, name in listed if name not in held and node not in open_.silent]
    closed = _merged(ended, lambda end: end.at, MAX_ROWS, names).rows
    return Explained(client_id, connections, closed, ghosts, open_.silent | ended.silent, names, now)


def explained_as_dict(explained: Explained) -> dict[str, Any]:
    """Return the JSON object of an explanation."""
    found: dict[str, Any] = _EXPLAINED.dump_python(explained, mode="json")
    return {**found, "verdict": explained.verdict}
