"""Queries of the whole registry: clients, rooms and nodes. Only entries of live nodes are returned."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json

from ..backends.ports import Entry
from ..exceptions import LOSSES, InvalidCursorError
from ..models import NodeInfo, PresenceEntry, RoomMember, RoomPage
from ..names import NodeId, node_of, printable
from .lease import Lease
from .state import NodeState

PAGE = 500
"""Index lines in one read."""
FOREIGN = (ValueError, TypeError, LookupError, OverflowError, OSError, RecursionError)
"""Errors of reading a value that another program may have written. Impossible dates raise OSError."""


class Directory:
    """Reads presence. Entries of a node without a lease are never returned."""

    def __init__(self, state: NodeState, lease: Lease) -> None:
        self._state, self._lease = state, lease

    async def presence(self, client_id: str) -> list[PresenceEntry]:
        """Return the connections of a client, the newest first."""
        return (await self._presence_of([client_id]))[0]

    async def nodes_elsewhere(self, client_id: str) -> list[NodeId]:
        """Return the other nodes that hold a client. A degraded node that holds it as well returns none.

        Raises:
            BackendUnavailableError, ConfigurationError: Redis is unavailable.
        """
        if not self._state.is_distributed:
            return []
        is_here = self._state.shards.has_client(client_id)  # the caller may close it in this time
        try:
            self._state.check_reachable()
            entries = await self.presence(client_id)
        except LOSSES:
            if self._state.degrades and is_here:
                return []
            raise
        return sorted({entry.node for entry in entries if not self._state.is_own(entry.node)})

    async def _presence_of(self, client_ids: Sequence[str]) -> list[list[PresenceEntry]]:
        found = await self._state.backend.presence.entries(client_ids)
        top = self._state.config.max_connections_per_client
        live = await self._lease.live_among(
            [node_of(entry.connection_id) for entries in found for entry in entries]
        )
        # Filter before the limit, otherwise entries of dead nodes could hide live ones.
        living = [[e for e in entries if node_of(e.connection_id) in live][:top] for entries in found]
        shown = [
            [self._entry(client_id, e) for e in entries]
            for client_id, entries in zip(client_ids, living, strict=True)
        ]
        return [[entry for entry in entries if entry is not None] for entries in shown]

    def _entry(self, client_id: str, entry: Entry) -> PresenceEntry | None:
        """Return one entry as a value, or None if it is malformed."""
        node = node_of(entry.connection_id)
        local = self._state.shards.get(entry.connection_id)
        if local is not None:
            return PresenceEntry(client_id, entry.connection_id, node, local.since, local.metadata)
        try:
            body = read_object(entry.entry or b'{"since": 0, "metadata": {}}')
            since, metadata = datetime.fromtimestamp(body["since"], UTC), _dict(body["metadata"])
        except FOREIGN:
            self._state.counters.redis_malformed += 1
            return None
        return PresenceEntry(client_id, entry.connection_id, node, since, metadata)

    async def clients(self, node: NodeId | None) -> AsyncIterator[PresenceEntry]:
        """Yield the connections of every client, node by node."""
        for node_id in [node] if node is not None else await self._lease.all_live():
            cursor = ""
            while True:
                lines, cursor = await self._state.backend.nodes.connections(node_id, cursor, PAGE)
                mine = {line.connection_id for line in lines}
                for entries in await self._presence_of(list(dict.fromkeys(line.client_id for line in lines))):
                    for entry in entries:
                        if entry.connection_id in mine:
                            yield entry
                if not cursor:
                    break

    async def room_members(self, room: str, limit: int, cursor: str | None) -> RoomPage:
        """Return one page of the members of a room."""
        if not isinstance(cursor, str | None):
            raise InvalidCursorError(f"cursor must be page.cursor, got {cursor!r}")
        found, next_cursor = await self._state.backend.rooms.members(room, cursor or "", limit)
        live = await self._lease.live_among([node_of(connection_id) for connection_id, _ in found])
        members = tuple(
            RoomMember(client_id, connection_id, node_of(connection_id))
            for connection_id, client_id in found
            if node_of(connection_id) in live
        )
        return RoomPage(members, next_cursor or None)

    async def room_count(self, room: str) -> int:
        """Return the number of connections in a room."""
        counts = await self._state.backend.rooms.counts(room)
        live = await self._lease.live_among(list(counts))
        return sum(count for node, count in counts.items() if node in live)

    async def groups(self) -> dict[NodeId, str]:
        """Return the group of every node that holds a lease. See ``NodeState.group``."""
        nodes = await self._lease.all_live()
        infos = await self._state.backend.nodes.infos(nodes)
        return {node: group_of(info) for node, (info, _) in zip(nodes, infos, strict=True)}

    async def nodes(self) -> list[NodeInfo]:
        """Return every node that holds a lease."""
        node_ids = await self._lease.all_live()
        if self._state.is_distributed:
            infos = await self._state.backend.nodes.infos(node_ids)
        else:
            infos = [(self._state.describe(), len(self._state.shards))]
        shown = [self._info(node, *found) for node, found in zip(node_ids, infos, strict=True)]
        return [info for info in shown if info is not None]

    def _info(self, node: NodeId, info: bytes | None, connections: int) -> NodeInfo | None:
        """Return the description of a node, or None if it is gone or its description is malformed."""
        shown = node_info(node, info, connections) if info else None
        self._state.counters.redis_malformed += bool(info) and shown is None
        return shown


def node_info(node: NodeId, info: bytes, connections: int) -> NodeInfo | None:
    """Return the description of a node, or None if it is malformed. ``connections`` is the size of its index."""
    try:
        body = read_object(info)
        started = datetime.fromtimestamp(body["started"], UTC)
        name, version = printable(str(body["name"])), printable(str(body["version"]))
        is_draining = bool(body["draining"])
    except FOREIGN:
        return None
    return NodeInfo(node, name, version, started, connections, is_draining)


def group_of(info: bytes | None) -> str:
    """Return the group of a node; "" if its description is malformed, or of a release without groups."""
    try:
        return str(read_object(info or b"")["group"])
    except FOREIGN:
        return ""


def read_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object. Raise one of ``FOREIGN`` if ``data`` is none."""
    return _dict(from_json(data, allow_inf_nan=False))


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value
