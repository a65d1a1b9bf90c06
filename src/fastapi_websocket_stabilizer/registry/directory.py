"""Questions about the whole registry: who is connected where. Only live nodes' entries are answers."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from ..backends.ports import Entry
from ..exceptions import InvalidCursorError
from ..models import NodeInfo, PresenceEntry, RoomMember, RoomPage
from ..names import NodeId, node_of
from .lease import Lease
from .state import NodeState

PAGE = 500
FOREIGN = (ValueError, TypeError, LookupError, OverflowError, OSError, RecursionError)
"""What reading a value raises that somebody else has written; OSError comes from dates that cannot be."""


class Directory:
    """Reads presence. A node that holds no lease is not shown, whatever it left behind."""

    def __init__(self, state: NodeState, lease: Lease) -> None:
        self._state, self._lease = state, lease

    async def presence(self, client_id: str) -> list[PresenceEntry]:
        """The client's connections, the newest first."""
        return (await self._presence_of([client_id]))[0]

    async def _presence_of(self, client_ids: Sequence[str]) -> list[list[PresenceEntry]]:
        found = await self._state.backend.presence.entries(client_ids)
        top = self._state.config.max_connections_per_client
        live = await self._lease.live_among(
            [node_of(entry.connection_id) for entries in found for entry in entries]
        )
        # First who lives: what a dead node left must not hide anybody.
        living = [[e for e in entries if node_of(e.connection_id) in live][:top] for entries in found]
        shown = [
            [self._entry(client_id, e) for e in entries]
            for client_id, entries in zip(client_ids, living, strict=True)
        ]
        return [[entry for entry in entries if entry is not None] for entries in shown]

    def _entry(self, client_id: str, entry: Entry) -> PresenceEntry | None:
        """What one entry says; None when it says nothing that we wrote."""
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
        """Every client's connections, node by node."""
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
        """One page of a room."""
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
        """How many connections are in a room."""
        counts = await self._state.backend.rooms.counts(room)
        live = await self._lease.live_among(list(counts))
        return sum(count for node, count in counts.items() if node in live)

    async def nodes(self) -> list[NodeInfo]:
        """Every node that holds a lease."""
        node_ids = await self._lease.all_live()
        if self._state.is_distributed:
            infos = await self._state.backend.nodes.infos(node_ids)
        else:
            infos = [(self._state.describe(), len(self._state.shards))]
        shown = [self._info(node, *found) for node, found in zip(node_ids, infos, strict=True)]
        return [info for info in shown if info is not None]

    def _info(self, node: NodeId, info: bytes | None, connections: int) -> NodeInfo | None:
        """What a node says of itself; None when it is gone, or that is nothing that we wrote."""
        shown = node_info(node, info, connections) if info else None
        self._state.counters.redis_malformed += bool(info) and shown is None
        return shown


def node_info(node: NodeId, info: bytes, connections: int) -> NodeInfo | None:
    """Return what a node said of itself, and how many connections its index has; None when we did not write that."""
    try:
        body = read_object(info)
        started = datetime.fromtimestamp(body["started"], UTC)
        name, version, is_draining = str(body["name"]), str(body["version"]), bool(body["draining"])
    except FOREIGN:
        return None
    return NodeInfo(node, name, version, started, connections, is_draining)


def read_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raises one of ``FOREIGN`` when it is none."""
    return _dict(json.loads(data))


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value
