"""An operator on every topology, and with the least permissions: it lists nodes, asks them, and closes clients."""

from collections.abc import AsyncIterator, Iterator

import pytest

from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.cli.operator import Operator
from fastapi_websocket_stabilizer.observe.looking import explain, look
from fastapi_websocket_stabilizer.registry.views import OfConnections
from tests.integration.cluster import Socket, join, register
from tests.support.requirements import missing
from tests.support.servers import Missing
from tests.support.topologies import TOPOLOGIES


@pytest.fixture(scope="module", params=TOPOLOGIES)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    topology = TOPOLOGIES[request.param]
    found = topology.find()
    if isinstance(found, Missing):
        missing(found.reason)
    with topology.serve(found) as url:
        yield url


@pytest.fixture
async def node(url: str, namespace: str) -> AsyncIterator[WebSocketConnectionManager]:
    config = WebSocketConfig(redis_url=url, namespace=namespace, log_level="CRITICAL")
    async with WebSocketConnectionManager(config) as manager:
        yield manager


async def test_node_answers_an_operator(node: WebSocketConnectionManager) -> None:
    await join(node, "ada", "lobby")
    async with Operator(node.config) as operator:
        shown = await look(operator, OfConnections(room="lobby"), lambda view: view.open_s)
        found = await explain(operator, "ada")
    assert ([view.client_id for view in shown.rows], shown.silent) == (["ada"], {})
    assert (len(found.connections), found.ghosts, found.verdict) == (
        1,
        [],
        ["Nothing is wrong with its connections."],
    )


async def test_operator_closes_a_client_and_is_told_of_it(node: WebSocketConnectionManager) -> None:
    socket = Socket()
    await register(node, "ada", socket)
    async with Operator(node.config) as operator:
        told = operator.tail()
        first = await anext(told)  # the node has confirmed that it is watched
        assert first == {"events": [], "dropped": 0, "silent": []}
        assert await operator.disconnect("ada", 4510, "bye") == 1
        (event,) = (await anext(told))["events"]
        assert (event["kind"], event["client_id"], event["cause"]) == ("closed", "ada", "kicked")
        await told.aclose()
    assert socket.closed_with == (4510, "bye")
