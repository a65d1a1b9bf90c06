"""The façade's questions: who is connected, in the whole registry and to this replica."""

from collections.abc import AsyncIterator

from .cluster.context import Context
from .cluster.registry import Registry
from .cluster.statistics import snapshot
from .models import NodeInfo, PresenceEntry, RoomPage
from .names import NodeId, check_client_id, check_room
from .runtime.metrics import Statistics


class Overview:
    """Answers questions about connections; a part of ``WebSocketConnectionManager``."""

    def __init__(self, registry: Registry) -> None:
        self._registry: Registry = registry
        self._context: Context = registry.context

    # Who is there, in the whole registry. Raise BackendUnavailableError when Redis does not answer.

    async def is_connected(self, client_id: str) -> bool:
        """Whether a client is connected to any live replica."""
        return bool(await self.presence(client_id))

    async def presence(self, client_id: str) -> list[PresenceEntry]:
        """Return a client's connections, the newest first; empty when it is not connected."""
        check_client_id(client_id)
        self._check_readable()
        return await self._registry.directory.presence(client_id)

    async def clients(self, node: str | None = None) -> AsyncIterator[PresenceEntry]:
        """Iterate over all connections, or those of one node. One that stays throughout is seen at least once."""
        self._check_readable()
        async for entry in self._registry.directory.clients(NodeId(node) if node is not None else None):
            yield entry

    async def room_members(self, room: str, limit: int = 100, cursor: str | None = None) -> RoomPage:
        """Return up to ``limit`` members of a room; go on with ``page.cursor`` until it is None.

        Raises:
            InvalidCursorError: No page has this ``cursor``; it may come from a client's query (a ``ValueError``).
        """
        self._check_readable()
        return await self._registry.directory.room_members(check_room(room), max(1, limit), cursor)

    async def room_count(self, room: str) -> int:
        """Return how many connections are in a room."""
        self._check_readable()
        return await self._registry.directory.room_count(check_room(room))

    async def nodes(self) -> list[NodeInfo]:
        """Return every live replica."""
        self._check_readable()
        return await self._registry.directory.nodes()

    async def cluster_connection_count(self) -> int:
        """Return how many connections all live replicas have."""
        return sum(node.connections for node in await self.nodes())

    def _check_readable(self) -> None:
        if self._context.is_distributed:
            self._registry.check_usable()

    # Who is here, on this replica: synchronous, from any thread.

    def get_active_connections(self) -> list[str]:
        """Return the client ids connected to this replica."""
        return self._context.shards.client_ids()

    def get_connection_count(self) -> int:
        """Return how many connections this replica has."""
        return len(self._context.shards)

    def get_memory_usage(self) -> dict[str, int | float]:
        """Return ``total_memory`` and ``per_connection_average`` in bytes, and ``connection_count``."""
        return self._registry.node.budget.usage()

    def statistics(self) -> Statistics:
        """Return a snapshot of every counter and every bound."""
        return snapshot(self._context)
