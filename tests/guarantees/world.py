"""Two replica processes with clients, and a Redis of their own: one fault after the other is done to them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Self

import aiohttp

from fastapi_websocket_stabilizer.testing import RedisServer, TcpProxy
from tests.faults.verbs import Network
from tests.integration.cluster import Client, RemoteError, Replica, first_row, keys_with
from tests.support.waiting import eventually

CLIENTS = 5
"""Clients of each replica."""
PATIENCE_S = 90.0
POLL_S = 0.02
NAMESPACE = "guarantees"
Condition = Callable[[], Awaitable[bool] | bool]


class Seat:
    """One replica and its clients."""

    def __init__(self, replica: Replica, name: str) -> None:
        self.replica, self.name = replica, name
        self.clients: dict[str, Client] = {}
        self._stack = AsyncExitStack()

    async def fill(self) -> None:
        """Connect its clients; those that are connected still are let go first."""
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


class World:
    """``far`` reaches Redis through ``network``, ``near`` directly."""

    def __init__(self, server: RedisServer, network: Network, far: Seat, near: Seat) -> None:
        self.server, self.network, self.far, self.near = server, network, far, near
        self._numbers = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, lease_s: float, beat_s: float) -> AsyncIterator[Self]:
        """Start everything; all of it ends with the block."""
        async with AsyncExitStack() as stack:
            server = stack.enter_context(RedisServer(first_row()))
            network = Network(await stack.enter_async_context(TcpProxy("127.0.0.1", server.port)))
            seats = []
            for name, url in (("far", network.url), ("near", server.url)):
                replica = Replica(url, NAMESPACE, name, lease_s=lease_s, beat_s=beat_s)
                stack.callback(replica.stop)
                seats.append(Seat(replica, name))
            world = cls(server, network, *seats)
            for seat in seats:
                stack.push_async_callback(seat.clear)
                await world.until(seat.replica.is_ready)
                await seat.fill()
            yield world

    @property
    def everybody(self) -> list[str]:
        return [*self.far.clients, *self.near.clients]

    async def until(self, condition: Condition) -> float:
        """Return how many seconds it took until ``condition`` held; a replica that does not answer is "not yet".

        Raises:
            TimeoutError: It did not within ``PATIENCE_S``.
        """
        began_s = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            while not await _holds(condition):  # noqa: ASYNC110 - any condition, so no event to await
                await asyncio.sleep(POLL_S)
        return time.monotonic() - began_s

    async def is_whole(self) -> bool:
        """Whether both replicas list everybody, and a broadcast of either reaches everybody."""
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

    def keys_of(self, node_id: str) -> list[str]:
        """Return what is left in Redis of a node."""
        return keys_with(self.server.url, node_id)


async def _holds(condition: Condition) -> bool:
    try:
        answer = condition()
        return answer if isinstance(answer, bool) else await answer
    except (RemoteError, OSError, aiohttp.ClientError):
        return False


async def _hears(client: Client, text: str) -> bool:
    try:
        await eventually(lambda: text in client.received[-20:], timeout_s=0.5)
    except AssertionError:
        return False
    return True
