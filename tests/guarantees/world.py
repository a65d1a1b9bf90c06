"""Two replica processes with clients and a separate Redis, for one fault after the other."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from typing import Self

import aiohttp
import redis

from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.testing import RedisServer, TcpProxy
from tests.faults.verbs import Network
from tests.integration.cluster import Client, RemoteError, Replica, first_row, keys_with
from tests.support.clusters import SLOTS, NobodyAnswersError, RedisCluster
from tests.support.sentinels import SentinelGroup
from tests.support.waiting import eventually

CLIENTS = 5
"""Number of clients of each replica."""
PATIENCE_S = 90.0
POLL_S = 0.02
NAMESPACE = "guarantees"
Condition = Callable[[], Awaitable[bool] | bool]


class Seat:
    """One replica and its clients."""

    replica: Replica

    def __init__(self, name: str) -> None:
        self.name = name
        self.clients: dict[str, Client] = {}
        self._stack = AsyncExitStack()

    async def fill(self) -> None:
        """Connect the clients of the replica. Former connections are closed first."""
        await self.clear()
        for number in range(CLIENTS):
            client_id = f"{self.name}{number}"
            client = await self._stack.enter_async_context(self.replica.client(client_id))
            await client.greeted()
            self.clients[client_id] = client

    async def clear(self) -> None:
        with suppress(OSError):
            await self._stack.aclose()
        self.clients.clear()

    async def lists(self, *wanted: str) -> bool:
        """Whether this replica lists exactly these clients in the registry."""
        try:
            return bool(await self.replica.call("clients") == sorted(wanted))
        except RemoteError:
            return False


class World(ABC):
    """``far`` and ``near`` are two replicas of one registry. Subclasses start its Redis."""

    def __init__(self) -> None:
        self.far, self.near = Seat("far"), Seat("near")
        self.far_url = self.near_url = ""
        self._numbers = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, lease_s: float, beat_s: float) -> AsyncIterator[Self]:
        """Start Redis, replicas and clients. All end with the block."""
        async with AsyncExitStack() as stack:
            world = cls()
            await world._serve(stack)
            for seat, url in ((world.far, world.far_url), (world.near, world.near_url)):
                seat.replica = Replica(url, NAMESPACE, seat.name, lease_s=lease_s, beat_s=beat_s)
                stack.callback(seat.replica.stop)
                stack.push_async_callback(seat.clear)
                await world.until(seat.replica.is_ready)
                await seat.fill()
            await world.until(world.is_whole)
            yield world

    @abstractmethod
    async def _serve(self, stack: AsyncExitStack) -> None:
        """Start Redis, and set the URL of each replica."""

    @property
    def everybody(self) -> list[str]:
        return [*self.far.clients, *self.near.clients]

    async def until(self, condition: Condition) -> float:
        """Return the seconds until ``condition`` holds. An error of a replica or of Redis counts as "not yet".

        Raises:
            TimeoutError: The condition does not hold within ``PATIENCE_S``.
        """
        began_s = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            while not await _holds(condition):  # noqa: ASYNC110 - any condition, so no event to await
                await asyncio.sleep(POLL_S)
        return time.monotonic() - began_s

    async def is_whole(self) -> bool:
        """Whether both replicas list all clients, and a broadcast of each reaches all clients."""
        for seat in (self.far, self.near):
            if not await seat.lists(*self.everybody) or not await self.reaches_all(seat):
                return False
        return True

    async def reaches_all(self, seat: Seat) -> bool:
        """Whether a broadcast from this replica reaches every client."""
        self._numbers += 1
        text = f"whole? {self._numbers}"
        result = await seat.replica.call("broadcast", message=text)
        if result["nodes"] < 2:
            return False
        clients = [*self.far.clients.values(), *self.near.clients.values()]
        return all([await _hears(client, text) for client in clients])

    async def node_id(self, seat: Seat) -> str:
        return str((await seat.replica.call("statistics"))["node_id"])


class ServerWorld(World):
    """One server. ``far`` is connected to it through ``network``."""

    async def _serve(self, stack: AsyncExitStack) -> None:
        self.server = stack.enter_context(RedisServer(first_row()))
        self.network = Network(await stack.enter_async_context(TcpProxy("127.0.0.1", self.server.port)))
        self.far_url, self.near_url = self.network.url, self.server.url

    def keys_of(self, node_id: str) -> list[str]:
        """Return the keys of a node in Redis."""
        return keys_with(self.server.url, node_id)


class SentinelWorld(World):
    """A primary, its replica and three Sentinels."""

    async def _serve(self, stack: AsyncExitStack) -> None:
        self.group = await asyncio.to_thread(stack.enter_context, SentinelGroup(first_row()))
        self.far_url = self.near_url = self.group.url

    def is_in_order(self) -> bool:
        """Whether there is a synchronized replica that every Sentinel knows."""
        return self.group.is_synced and all(sentinel.knows_all() for sentinel in self.group.sentinels)


class ClusterWorld(World):
    """Three primaries with a replica each."""

    async def _serve(self, stack: AsyncExitStack) -> None:
        self.cluster = await asyncio.to_thread(stack.enter_context, RedisCluster(first_row(), replicas=1))
        self.far_url = self.near_url = self.cluster.url
        self.keys = Keys(NAMESPACE)
        self._turns = count()

    @property
    def primaries(self) -> list[RedisServer]:
        """The servers with slots."""
        owners = [self.cluster.owner(slot) for slot in range(0, SLOTS, SLOTS // 16)]
        return [server for server in self.cluster.servers if server in owners]

    def next_primary(self) -> RedisServer:
        """Return the next primary, in turn."""
        return self.primaries[next(self._turns) % len(self.primaries)]


async def _holds(condition: Condition) -> bool:
    try:
        answer = condition()
        return answer if isinstance(answer, bool) else await answer
    except (RemoteError, OSError, aiohttp.ClientError, redis.RedisError, NobodyAnswersError):
        return False


async def _hears(client: Client, text: str) -> bool:
    try:
        await eventually(lambda: text in client.received[-20:], timeout_s=0.5)
    except AssertionError:
        return False
    return True
