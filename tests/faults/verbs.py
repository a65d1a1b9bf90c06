"""What can be done to a Redis, to a replica and to the network between them; all of it to real processes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi_websocket_stabilizer.testing import RedisServer, SlowReader, TcpProxy
from tests.integration.cluster import Replica
from tests.support.waiting import eventually


class Network:
    """The way from one replica to its Redis."""

    def __init__(self, proxy: TcpProxy) -> None:
        self.proxy = proxy

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    @asynccontextmanager
    async def is_cut(self) -> AsyncIterator[None]:
        """Every connection is reset, and each new one at once."""
        self.proxy.cut()
        try:
            yield
        finally:
            self.proxy.resume()

    @asynccontextmanager
    async def swallows(self) -> AsyncIterator[None]:
        """No byte comes through, and nobody is told; what was held is lost when it ends."""
        self.proxy.blackhole()
        try:
            yield
        finally:
            self.proxy.cut()
            self.proxy.resume()

    @asynccontextmanager
    async def is_slow(self, bytes_per_s: float) -> AsyncIterator[None]:
        self.proxy.throttle(bytes_per_s)
        try:
            yield
        finally:
            self.proxy.resume()


class Failover:
    """A leader and its replica behind one address; asynchronous, as everybody's Redis is."""

    def __init__(self, leader: RedisServer, follower: RedisServer, proxy: TcpProxy) -> None:
        self.leader, self.follower, self.proxy = leader, follower, proxy
        self.url = f"redis://127.0.0.1:{proxy.port}/0"

    async def is_in_sync(self) -> bool:
        with self.follower.client() as client:
            about = client.info("replication")
        return str(about.get("master_link_status")) == "up"

    async def happens(self) -> None:
        """Kill the leader, promote the replica, lead everybody there."""
        await asyncio.to_thread(self.leader.kill)
        await asyncio.to_thread(self.follower.promote)
        self.proxy.retarget("127.0.0.1", self.follower.port)


@asynccontextmanager
async def frozen(process: Replica | RedisServer) -> AsyncIterator[None]:
    """SIGSTOP for the length of the block."""
    child = process.process
    child.freeze()
    try:
        yield
    finally:
        child.thaw()


async def kill_replica(replica: Replica) -> None:
    """``kill -9``."""
    await asyncio.to_thread(replica.process.kill)


async def restart_replica(replica: Replica) -> None:
    """Start it again, and wait until it answers."""
    await asyncio.to_thread(replica.start)
    await eventually(replica.is_ready, timeout_s=20, what="the replica answers")


def slow_reader(replica: Replica, client_id: str) -> SlowReader:
    """Connect a client that reads nothing; block the loop only for a handshake."""
    return SlowReader(f"ws://127.0.0.1:{replica.port}/serve/{client_id}")


StartReplica = Callable[[str, str], Replica]
