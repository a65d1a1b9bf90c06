"""Reconnect tokens while Redis loses or forgets something: one secret for all, and each token once."""

import pytest

from fastapi_websocket_stabilizer import InvalidTokenError, WebSocketConnectionManager
from tests.integration.cluster import Managers
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


async def redeems_tokens_of(node: WebSocketConnectionManager, other: WebSocketConnectionManager) -> bool:
    try:
        return await node.validate_reconnect_token(await other.issue_reconnect_token("alice")) == "alice"
    except InvalidTokenError:
        return False


@pytest.mark.parametrize("newcomer", [True, False], ids=["another node starts", "no node starts"])
async def test_a_secret_that_redis_lost_is_agreed_on_again_with_a_beat(
    own_managers: Managers, server: RedisServer, newcomer: bool
) -> None:
    nodes = await own_managers.start_many(2)
    outstanding = await nodes[0].issue_reconnect_token("alice")
    with server.client() as client:
        (key,) = client.scan_iter("*:secret")
        client.delete(key)
        if newcomer:
            nodes.append(await own_managers.start())
        await eventually(lambda: client.exists(key) == 1)
    for node in nodes:
        for other in nodes:
            await eventually(lambda n=node, o=other: redeems_tokens_of(n, o))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    if not newcomer:
        assert await nodes[1].validate_reconnect_token(outstanding) == "alice"
