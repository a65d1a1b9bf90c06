"""Clusters for the integration tests: managers in this process, and three replicas in processes."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from tests.integration import client_replicas
from tests.integration.cluster import Managers, Replica, first_row
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from playwright.async_api import Browser

REPLICAS = 3


@pytest.fixture
async def managers(redis_url: str, namespace: str) -> AsyncIterator[Managers]:
    """Start managers of one registry on the shared Redis."""
    managers = Managers(redis_url, namespace)
    yield managers
    await managers.close()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of this test alone: kill it, freeze it, count its connections."""
    with RedisServer(first_row()) as server:
        yield server


@pytest.fixture
async def own_managers(server: RedisServer, namespace: str) -> AsyncIterator[Managers]:
    """Start managers of one registry on the test's own Redis."""
    managers = Managers(server.url, namespace)
    yield managers
    await managers.close()


@pytest.fixture(scope="session")
def replica_processes(redis_url: str) -> Iterator[list[Replica]]:
    """Three replicas, kept for the whole run: starting one costs a second."""
    namespace = f"replicas-{secrets.token_hex(4)}"
    with ExitStack() as stack:
        replicas = [Replica(redis_url, namespace, f"replica-{number}") for number in range(REPLICAS)]
        for replica in replicas:
            stack.callback(replica.stop)
        yield replicas


@pytest.fixture
async def replicas(replica_processes: list[Replica]) -> list[Replica]:
    """Three replicas that know one another and nobody else; those that a test killed are started again."""
    for replica in replica_processes:
        if not replica.process.is_running:
            replica.start()
    for replica in replica_processes:
        await eventually(replica.is_ready, timeout_s=20, what="a replica answers")

    async def is_settled() -> bool:
        first = replica_processes[0]
        return len(await first.call("node_ids")) == REPLICAS and not await first.call("clients")

    await eventually(is_settled, timeout_s=20, what="three nodes and no client")
    return replica_processes


@pytest.fixture
def endpoints(redis_url: str, namespace: str) -> Iterator[list[client_replicas.Replica]]:
    """Two replicas of one test, for the clients of ``stabilizer.v1``."""
    found = [client_replicas.Replica(redis_url, namespace) for _ in range(2)]
    yield found
    for replica in found:
        replica.process.stop()


@pytest.fixture
async def publisher(managers: Managers) -> WebSocketConnectionManager:
    """A manager of the registry of ``endpoints``, without clients."""
    return await managers.start(**client_replicas.SETTINGS)


@pytest.fixture
async def browser() -> "AsyncIterator[Browser]":
    """A Chromium of this test alone."""
    from tests.integration.demo_support import running_browser

    async with running_browser() as browser:
        yield browser
