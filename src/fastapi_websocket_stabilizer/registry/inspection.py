"""Comparison of this node with the registry, to find missed displacements, lost entries and leftovers."""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from ..backends.ports import Entry, IndexEntry, former_in
from ..local.connection import Connection
from ..names import ConnectionId, node_of
from .claims import Claims
from .lease import Lease
from .places import sid_of
from .reclaims import BATCH, Reclaims, pause
from .registration import registration_of
from .state import NodeState

T = TypeVar("T")

PER_BEAT = 64
"""Number of connections, and of rooms, that are checked in one beat."""
INDEX_LINES = 500
"""Index lines in one read."""


class Inspection:
    """Compares connections, rooms and the index with the registry, and claims lost entries again.

    An epoch shows that a server lost all its content, but not that a single key was deleted or evicted. So
    ``inspect`` checks this node's connections and rooms in rounds.
    """

    def __init__(self, state: NodeState, lease: Lease, claims: Claims, reclaims: Reclaims) -> None:
        self._state, self._lease, self._claims, self._reclaims = state, lease, claims, reclaims
        # The rest of this round.
        self._connections: list[ConnectionId] = []
        self._rooms: list[str] = []

    async def compare_all(self) -> None:
        """Carry out what may have been missed: displacements, removals from rooms, closes. Claim what was lost."""
        connections = [
            c for c in self._state.shards if registration_of(c).stamp
        ]  # the others are being claimed
        for start in range(0, len(connections), BATCH):
            batch = connections[start : start + BATCH]
            await self._compare(batch)
            await asyncio.gather(*map(self._reclaims.revocations.carry_out, batch))
            await pause()

    async def inspect(self) -> None:
        """Check a few keys of this node: the deletion of a single key changes no epoch."""
        await self._look()
        await self._compare(self._next_connections())

    async def tidy(self) -> None:
        """Remove index lines without a local connection: the server lost the release."""
        nodes, node = self._state.backend.nodes, self._state.node_id
        for read in (nodes.memberships, nodes.connections):
            cursor, is_over = "", False
            while not is_over:
                lines, cursor = await read(node, cursor, INDEX_LINES)
                if gone := [line for line in lines if not self._is_here(line)]:
                    await (await self._claims.release(gone))
                is_over = not cursor

    def _is_here(self, line: IndexEntry) -> bool:
        connection = self._state.shards.get(line.connection_id)
        if connection is None or line.room is None:
            return connection is not None
        return line.sid == sid_of(connection) if line.sid else line.room in connection.rooms

    async def _compare(self, connections: list[Connection]) -> None:
        known = [(connection, connection.connection_id) for connection in connections]
        found = await self._state.backend.presence.entries([c.client_id for c in connections])
        live = await self._lease.live_among({node_of(e.connection_id) for entries in found for e in entries})
        for (connection, connection_id), entries in zip(known, found, strict=True):
            if connection.ended is None and connection.connection_id == connection_id:
                self._judge(
                    connection,
                    [
                        e
                        for e in entries
                        if e.connection_id == connection_id or node_of(e.connection_id) in live
                    ],
                )

    def _judge(self, connection: Connection, entries: list[Entry]) -> None:
        ids = [entry.connection_id for entry in entries]
        if connection.connection_id not in ids:
            self._reclaims.again(connection)
            self._state.counters.entries_repaired += 1
        elif ids.index(connection.connection_id) >= self._state.config.max_connections_per_client:
            sid = sid_of(connection)
            if sid and any(former_in(entry.entry) == sid for entry in entries):
                return  # the owner of the next connection closes it when the client has changed over
            displace = self._claims.displace(connection.client_id, (connection.connection_id,))
            self._state.tasks.spawn(displace, "displace")

    def _next_connections(self) -> list[Connection]:
        """Return the next connections to compare, except those that are being claimed."""
        if not self._connections:
            self._connections = [connection.connection_id for connection in self._state.shards]
        found = [self._state.shards.get(name) for name in _take(self._connections)]
        return [
            connection for connection in found if connection is not None and registration_of(connection).stamp
        ]

    async def _look(self) -> None:
        """Check whether the index or a room has lost all entries."""
        has_rooms, has_connections = bool(self._state.shards.rooms), bool(self._state.shards)
        connections, memberships = await self._state.backend.nodes.index_sizes(self._state.node_id)
        if has_connections and not connections:
            self._again(self._state.shards)
        elif has_rooms and not memberships:
            self._again(c for c in self._state.shards if c.rooms)
        if not self._rooms:
            self._rooms = list(self._state.shards.rooms)
        rooms = [room for room in _take(self._rooms) if room in self._state.subscribed]
        are_empty = await asyncio.gather(*map(self._state.backend.rooms.is_empty, rooms))
        lost = {room for room, is_empty in zip(rooms, are_empty, strict=True) if is_empty}
        if lost:
            self._again(c for c in self._state.shards if lost & c.rooms)

    def _again(self, connections: Iterable[Connection]) -> None:
        lost = [connection for connection in connections if registration_of(connection).stamp]
        for connection in lost:
            self._reclaims.again(connection)
        self._state.counters.entries_repaired += len(lost)


def _take(names: list[T]) -> list[T]:
    taken = names[-PER_BEAT:]
    del names[-PER_BEAT:]
    return taken
