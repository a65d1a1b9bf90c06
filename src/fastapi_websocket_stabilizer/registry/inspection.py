"""Keys that were deleted alone: each beat a few of those that this node has written are looked at."""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from ..local.connection import Connection
from ..names import ConnectionId
from .reclaims import Reclaims
from .state import NodeState

T = TypeVar("T")

PER_BEAT = 64
"""Connections, and rooms, looked at in one beat, however many there are."""


class Inspection:
    """Goes round this node's connections and rooms, and has what Redis lost claimed again.

    An epoch says that a server was emptied; it says nothing of one key that was deleted or evicted.
    """

    def __init__(self, state: NodeState, reclaims: Reclaims) -> None:
        self._state, self._reclaims = state, reclaims
        # What is left of this round.
        self._connections: list[ConnectionId] = []
        self._rooms: list[str] = []

    def connections(self) -> list[Connection]:
        """Return the next connections to be compared with the registry; those that are being claimed are not."""
        if not self._connections:
            self._connections = [connection.connection_id for connection in self._state.shards]
        found = [self._state.shards.get(name) for name in _take(self._connections)]
        return [connection for connection in found if connection is not None and connection.stamp]

    async def look(self) -> None:
        """Look for an index without lines and for rooms without members."""
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
        lost = [connection for connection in connections if connection.stamp]
        for connection in lost:
            self._reclaims.again(connection)
        self._state.counters.entries_repaired += len(lost)


def _take(names: list[T]) -> list[T]:
    taken = names[-PER_BEAT:]
    del names[-PER_BEAT:]
    return taken
