"""User data stays with the socket: the other replicas say whose it is instead of showing nothing."""

from collections.abc import AsyncIterator

import pytest

from fastapi_websocket_stabilizer import ConnectionNotFoundError
from fastapi_websocket_stabilizer.testing import MemoryCluster


@pytest.fixture
async def cluster() -> AsyncIterator[MemoryCluster]:
    async with MemoryCluster(2) as cluster:
        yield cluster


async def test_user_data_of_a_client_elsewhere_is_an_error_that_names_its_replica(
    cluster: MemoryCluster,
) -> None:
    first, second = cluster.managers
    await cluster.connect(first, "ann")
    await first.set_user_data("ann", "name", "Ann")
    assert await first.get_user_data("ann", "name") == "Ann"
    node = first.registry.state.node_id
    with pytest.raises(
        ConnectionNotFoundError, match=f"'ann' is connected to node {node}.*stays with the socket"
    ):
        await second.get_user_data("ann", "name")
    with pytest.raises(ConnectionNotFoundError, match=f"'ann' is connected to node {node}"):
        await second.set_user_data("ann", "name", "Bob")


async def test_user_data_of_a_client_that_is_nowhere_is_nothing(cluster: MemoryCluster) -> None:
    assert await cluster.managers[0].get_user_data("ann", "name") is None
    with pytest.raises(ConnectionNotFoundError, match="not connected to this node"):
        await cluster.managers[0].set_user_data("ann", "name", "Ann")


async def test_user_data_is_nothing_while_the_registry_does_not_answer(cluster: MemoryCluster) -> None:
    first, second = cluster.managers
    await cluster.connect(first, "ann")
    cluster.cut(second)
    assert await second.get_user_data("ann", "name") is None
