"""The verbs as fixtures. A Redis, a proxy and replicas of one test alone: whatever is done to them harms no other."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from fastapi_websocket_stabilizer.testing import RedisServer, TcpProxy
from tests.faults.verbs import Failover, Network
from tests.integration.cluster import Managers, Replica, first_row
from tests.support.waiting import eventually

AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""Begin to replicate when the first replica asks, not five seconds later."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis: ``kill()``, ``freeze()``, ``thaw()``, ``restart_empty()``, ``flush()``, ``kill_pubsub()``."""
    with RedisServer(first_row()) as server:
        yield server


@pytest.fixture
async def network(server: RedisServer) -> AsyncIterator[Network]:
    """The way to ``server``: ``is_cut()``, ``swallows()``, ``is_slow(bytes_per_s)``."""
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        yield Network(proxy)


@pytest.fixture
async def failover() -> AsyncIterator[Failover]:
    """A leader with a replica in sync, behind one address: ``happens()``."""
    async with AsyncExitStack() as stack:
        leader, follower = (
            stack.enter_context(RedisServer(first_row(), arguments=AT_ONCE)) for _ in range(2)
        )
        proxy = await stack.enter_async_context(TcpProxy("127.0.0.1", leader.port))
        follower.follow(leader)
        pair = Failover(leader, follower, proxy)
        await eventually(pair.is_in_sync, what="the replica is in sync")
        yield pair


@pytest.fixture
async def managers(server: RedisServer, namespace: str) -> AsyncIterator[Managers]:
    """Start managers in this process, on ``server`` or wherever ``redis_url=`` says."""
    managers = Managers(server.url, namespace)
    yield managers
    await managers.close()


@pytest.fixture
def start_replica(server: RedisServer, namespace: str) -> Iterator[Callable[..., Replica]]:
    """Start replicas, each a process: ``start_replica("name")``, or with ``url=network.url``."""
    with ExitStack() as stack:

        def start(name: str, url: str = server.url) -> Replica:
            replica = Replica(url, namespace, name)
            stack.callback(replica.stop)
            return replica

        yield start
