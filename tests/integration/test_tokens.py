"""Reconnect tokens while Redis loses or forgets something: one secret for all, and each token once."""

import pytest

from fastapi_websocket_stabilizer import InvalidTokenError, WebSocketConnectionManager
from fastapi_websocket_stabilizer.registry import tokens
from tests.integration.cluster import Managers, counter
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


async def test_a_token_stays_redeemed_when_redis_comes_back_from_a_snapshot_of_before(
    own_managers: Managers, server: RedisServer
) -> None:
    here, there = await own_managers.start_many(2)
    first, second = [await here.issue_reconnect_token(name) for name in ("alice", "bob")]
    unused = await here.issue_reconnect_token("carol")
    with server.client() as client:
        client.save()
    assert await here.validate_reconnect_token(first) == "alice"
    assert await there.validate_reconnect_token(second) == "bob"
    server.kill()
    server.start()
    with server.client() as client:
        assert len(list(client.scan_iter("*:token:*"))) == 3, "they are all back"
    assert await is_refused(here, first), "at once, where it was redeemed"
    assert await is_refused(there, second)
    with server.client() as client:
        await eventually(lambda: len(list(client.scan_iter("*:token:*"))) == 1)
    for node in (here, there):  # and on every node from the next beat on
        assert await is_refused(node, first)
        assert await is_refused(node, second)
    assert await there.validate_reconnect_token(unused) == "carol"


async def is_refused(node: WebSocketConnectionManager, token: str) -> bool:
    try:
        await node.validate_reconnect_token(token)
    except InvalidTokenError:
        return True
    return False


async def test_redeemed_tokens_that_are_remembered_are_bounded(
    managers: Managers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_REDEEMED", 3)
    node = await managers.start()
    issued = [await node.issue_reconnect_token("alice") for _ in range(5)]
    for token in issued:
        assert await node.validate_reconnect_token(token) == "alice"
    for token in issued:
        assert await is_refused(node, token)
    assert counter(node, "redemptions_forgotten") == 2
