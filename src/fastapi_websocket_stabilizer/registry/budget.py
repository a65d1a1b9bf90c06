"""The memory of metadata and user data: its limits, evictions when they are reached, and the user data itself."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from .. import close_codes
from ..exceptions import LOSSES, ConnectionNotFoundError, MemoryLimitExceededError
from ..local.connection import Connection
from ..models import CloseCause, MemoryEvictionPolicy
from .directory import Directory
from .eviction import EvictionOrder, measure
from .registration import registration_of
from .state import NodeState

End = Callable[[Connection, CloseCause, int, str], Awaitable[None]]


class Budget:
    """Keeps the sum of all sizes as it changes. Everything is measured again every ``memory_check_interval``."""

    def __init__(self, state: NodeState, end: End) -> None:
        self._state, self._end = state, end
        self._order: EvictionOrder[Connection] = EvictionOrder()
        self.total_bytes: int = 0

    async def admit(self, client_id: str, metadata: Mapping[str, Any]) -> int:
        """Make room for a connection and return its size in bytes.

        Raises:
            MemoryLimitExceededError: It is too large, or no other connection is left to evict.
        """
        size = measure(client_id, metadata, {})
        self._check_one(client_id, size)
        await self._make_room(size, keep=None)
        return size

    def add(self, size: int) -> None:
        """Count a connection with a registration of this size."""
        self.total_bytes += size

    def remove(self, connection: Connection) -> None:
        """Count a connection no more."""
        registration = registration_of(connection)
        self.total_bytes -= registration.size
        registration.size = 0

    def usage(self) -> dict[str, int | float]:
        """Return what ``manager.get_memory_usage()`` returns."""
        count, total = len(self._state.shards), self.total_bytes
        average = total / count if count else 0.0
        return {"total_memory": total, "connection_count": count, "per_connection_average": average}

    async def set_user_data(self, connection: Connection, key: str, value: Any) -> None:
        """Store one value if it fits; otherwise change nothing.

        Raises:
            MemoryLimitExceededError: It does not fit.
        """
        size = measure(connection.client_id, connection.metadata, {**connection.user_data, key: value})
        self._check_one(connection.client_id, size)
        await self._make_room(size - registration_of(connection).size, keep=connection)
        connection.user_data[key] = value
        self._resize(connection, size)

    async def make_room_for(self, connection: Connection, metadata: Mapping[str, Any]) -> None:
        """Count a connection with other metadata.

        Raises:
            MemoryLimitExceededError: It does not fit.
        """
        size = measure(connection.client_id, metadata, connection.user_data)
        self._check_one(connection.client_id, size)
        await self._make_room(size - registration_of(connection).size, keep=connection)
        self._resize(connection, size)

    async def run(self) -> None:
        """Measure all connections every ``memory_check_interval``, until cancelled."""
        while True:
            await asyncio.sleep(self._state.config.memory_check_interval)
            await self.measure_all()

    async def measure_all(self) -> None:
        """Measure all connections, because the application may change values in place. Evict some if necessary."""
        for number, connection in enumerate(self._state.shards):
            if number % 1000 == 999:
                await asyncio.sleep(0)
            self._resize(connection, measure(connection.client_id, connection.metadata, connection.user_data))
        await self._make_room(0, keep=None)

    def _resize(self, connection: Connection, size: int) -> None:
        if connection.ended is None:
            registration = registration_of(connection)
            self.total_bytes += size - registration.size
            registration.size = size

    def _check_one(self, client_id: str, size: int) -> None:
        limit = self._state.config.max_memory_per_connection
        if limit is not None and size > limit:
            raise MemoryLimitExceededError(
                f"client {client_id!r} would take {size} bytes, max_memory_per_connection is {limit}"
            )

    async def _make_room(self, more: int, keep: Connection | None) -> None:
        limit = self._state.config.max_total_memory
        if limit is None:
            return
        if more > limit:
            raise MemoryLimitExceededError(f"{more} bytes are over max_total_memory={limit} by themselves")
        while self.total_bytes + more > limit:
            victim = self._next_victim(keep)
            if victim is None:
                raise MemoryLimitExceededError(
                    f"{self.total_bytes} + {more} bytes are over max_total_memory={limit}, nothing can be evicted"
                )
            self._state.counters.connections_evicted_for_memory += 1
            await self._end(victim, CloseCause.EVICTED, close_codes.TRY_AGAIN_LATER, "memory limit reached")

    def _next_victim(self, keep: Connection | None) -> Connection | None:
        is_lru = self._state.config.memory_eviction_policy is MemoryEvictionPolicy.LRU
        return self._order.next(
            live=lambda: self._state.shards,
            is_live=lambda connection: connection.ended is None,
            age=lambda connection: connection.used_at_s if is_lru else connection.opened_at_s,
            keep=keep,
        )


class UserData:
    """Reads and writes user data. The error for a client of another node names that node."""

    def __init__(self, state: NodeState, budget: Budget, directory: Directory) -> None:
        self._state, self._budget, self._directory = state, budget, directory

    async def set(self, client_id: str, key: str, value: Any) -> None:
        """See ``manager.set_user_data``."""
        connections = self._state.shards.of_client(client_id)
        if not connections:
            await self._check_elsewhere(client_id)
            raise ConnectionNotFoundError(f"client {client_id!r} is not connected to this node")
        await self._budget.set_user_data(connections[-1], key, value)

    async def get(self, client_id: str, key: str) -> Any | None:
        """See ``manager.get_user_data``."""
        connections = self._state.shards.of_client(client_id)
        if not connections:
            await self._check_elsewhere(client_id)
            return None
        return connections[-1].user_data.get(key)

    async def _check_elsewhere(self, client_id: str) -> None:
        """Check that no other node holds the client. An unavailable registry counts as the answer no.

        Raises:
            ConnectionNotFoundError: Another node holds the client; the message names it.
        """
        if not self._state.is_distributed or self._state.loop is None:
            return
        nodes = set()
        with suppress(*LOSSES):
            self._state.check_reachable()
            nodes = {entry.node for entry in await self._directory.presence(client_id)}
        if others := sorted(node for node in nodes if not self._state.is_own(node)):
            raise ConnectionNotFoundError(
                f"client {client_id!r} is connected to node {others[0]}, and user data stays with the socket: "
                "call that replica, or use metadata or a store that all replicas share"
            )
