"""``stabilizer conns``, ``rooms``, ``closed`` and ``explain``: questions to all nodes, and their answers as text."""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from ..config import WebSocketConfig
from ..models import ConnectionView
from ..names import NodeId
from ..registry.views import MAX_ROWS, OfClosed, OfConnections, OfRooms, Question
from .explain import Explained
from .operator import Answered, Operator
from .tables import duration, printable, size, table

_EXPLAINED = TypeAdapter(Explained)


@dataclass(frozen=True, slots=True)
class Shown:
    """The rows of all nodes.

    Attributes:
        rows: ``ConnectionView``, ``ClosedConnection`` or ``RoomTotal``: as many as were asked for.
        count: Number of rows that there are.
        names: Display names of nodes.
        silent: Why nodes have not answered.
    """

    rows: list[Any]
    count: int
    names: dict[NodeId, str]
    silent: dict[NodeId, str]

    def as_dict(self) -> dict[str, object]:
        """Return the JSON object of ``--json``."""
        rows = [TypeAdapter(type(row)).dump_python(row, mode="json") for row in self.rows]
        return {"rows": rows, "count": self.count, "silent": self.silent}

    def name(self, node: NodeId) -> str:
        """Return the display name of a node."""
        return self.names.get(node, node)

    def warnings(self) -> list[str]:
        """Return a line for each node without an answer, and one if rows are left out."""
        lines = [f"node {self.name(node)} ({node}): {why}" for node, why in self.silent.items()]
        if self.count > len(self.rows):
            lines.append(f"{len(self.rows)} of {self.count:,} are shown: see --limit")
        return list(map(printable, lines))


async def look(
    config: WebSocketConfig, question: Question, order: Callable[[Any], Any], node: str | None = None
) -> Shown:
    """Ask all nodes, or one, and return the rows with the most of what ``order`` returns.

    Raises:
        RemoteError: There is no URL, or no such node.
        BackendUnavailableError: Redis did not answer.
    """
    async with Operator(config) as operator:
        infos = await operator.nodes() if node is None else [await operator.find(node)]
        names = {info.node_id: info.name for info in infos}
        answered = await operator.ask(question, names)
    limit = MAX_ROWS * len(names) if isinstance(question, OfRooms) else question.limit
    return _merged(answered, order, limit, names)


def _merged(answered: Answered, order: Callable[[Any], Any], limit: int, names: dict[NodeId, str]) -> Shown:
    rows = [row for found in answered.found.values() for row in found.rows]
    count = sum(found.count for found in answered.found.values())
    return Shown(heapq.nlargest(limit, rows, key=order), count, names, answered.silent)


ORDERS: dict[str, Callable[[ConnectionView], float]] = {
    "age": lambda view: view.open_s,
    "outbox": lambda view: view.queued_bytes,
    "silent": lambda view: view.silent_s,
}
"""Value that ``conns --sort`` sorts by."""


def connections_as_text(shown: Shown) -> str:
    """Return what ``stabilizer conns`` prints."""
    head = ("CLIENT", "CONNECTION", "NODE", "OPEN", "HEARD", "PING", "OUTBOX", "ROOMS", "STATE")
    return table(head, [_connection(shown, view) for view in shown.rows])


def _connection(shown: Shown, view: ConnectionView) -> Sequence[str]:
    states = {
        "slow": view.queued_bytes > 0 or view.is_behind,
        "silent": view.is_asked,
        "parked": view.is_parked,
        f"expires in {duration(max(0.0, view.expires_s or 0.0))}": view.expires_s is not None,
    }
    return (
        view.client_id,
        view.connection_id,
        shown.name(view.node),
        duration(view.open_s),
        f"{duration(view.silent_s)} ago",
        "-" if view.ping_s is None else duration(view.ping_s),
        size(view.queued_bytes),
        str(view.room_count),
        ", ".join(name for name, holds in states.items() if holds) or "-",
    )


def closed_as_text(shown: Shown) -> str:
    """Return what ``stabilizer closed`` prints."""
    head = ("AT", "CLIENT", "NODE", "CAUSE", "CODE", "OPEN", "HEARD", "OUTBOX", "REASON", "ERROR")
    return table(
        head,
        [
            (
                f"{end.at:%Y-%m-%d %H:%M:%S}",
                end.client_id,
                shown.name(end.node),
                end.cause.value,
                str(end.code),
                duration(end.lasted_s),
                f"{duration(end.silent_s)} before",
                size(end.queued_bytes),
                end.reason or "-",
                end.error or "-",
            )
            for end in shown.rows
        ],
    )


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


async def rooms(config: WebSocketConfig, question: OfRooms, node: str | None = None) -> Shown:
    """Ask all nodes, or one, for their largest rooms, and return those with the most members. Raises as ``look``.

    A room that is not among the 500 largest of a node is counted without its members there.
    """
    limit, all_of_them = question.limit, OfRooms(question.prefix, MAX_ROWS)
    found = await look(config, all_of_them, lambda view: view.connections, node)
    members, nodes = Counter[str](), Counter[str]()
    for view in found.rows:
        members[view.room] += view.connections
        nodes[view.room] += 1
    rows = [RoomTotal(room, count, nodes[room]) for room, count in members.most_common(limit)]
    return Shown(rows, max(len(members), found.count // max(1, len(found.names))), found.names, found.silent)


def rooms_as_text(shown: Shown) -> str:
    """Return what ``stabilizer rooms`` prints."""
    rows = [(room.room, f"{room.connections:,}", str(room.nodes)) for room in shown.rows]
    return table(("ROOM", "CONNS", "NODES"), rows)


async def explain(config: WebSocketConfig, client_id: str) -> Explained:
    """Ask all nodes for one client.

    Raises:
        RemoteError: There is no URL.
        BackendUnavailableError: Redis did not answer.
    """
    async with Operator(config) as operator:
        names = {info.node_id: info.name for info in await operator.nodes()}
        listed = await operator.listed(client_id)
        open_ = await operator.ask(OfConnections(client=client_id, limit=MAX_ROWS), names)
        ended = await operator.ask(OfClosed(client=client_id, limit=MAX_ROWS), names)
        now = datetime.now(UTC)
    connections = _merged(open_, lambda view: view.open_s, MAX_ROWS, names).rows
    held = {view.connection_id for view in connections}
    ghosts = [name for node, name in listed if name not in held and node not in open_.silent]
    closed = _merged(ended, lambda end: end.at, MAX_ROWS, names).rows
    return Explained(client_id, connections, closed, ghosts, open_.silent | ended.silent, names, now)


def explained_as_dict(explained: Explained) -> dict[str, Any]:
    """Return the JSON object of ``stabilizer explain --json``."""
    found: dict[str, Any] = _EXPLAINED.dump_python(explained, mode="json")
    return {**found, "verdict": explained.verdict}
