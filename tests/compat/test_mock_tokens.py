"""Reconnect tokens of release 1.1, without any socket."""

import time
from datetime import timedelta

import pytest

from fastapi_websocket_stabilizer import (
    InvalidTokenError,
    TokenExpiredError,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from tests.support.waiting import eventually

from .support import FakeSocket, register


@pytest.fixture
def manager() -> WebSocketConnectionManager:
    return WebSocketConnectionManager()


async def test_token_has_four_parts(manager: WebSocketConnectionManager) -> None:
    token = manager.generate_reconnect_token("alice")
    assert [bool(part) for part in token.split(".")] == [True] * 4


async def test_token_brings_its_client_id_back(manager: WebSocketConnectionManager) -> None:
    token = manager.generate_reconnect_token("alice")
    assert await manager.validate_reconnect_token(token) == "alice"


async def test_token_outlives_the_connection(manager: WebSocketConnectionManager) -> None:
    await register(manager, "alice", FakeSocket())
    token = manager.generate_reconnect_token("alice")
    await manager.disconnect("alice")
    assert await manager.validate_reconnect_token(token) == "alice"


async def test_token_is_good_for_one_use(manager: WebSocketConnectionManager) -> None:
    token = manager.generate_reconnect_token("alice")
    await manager.validate_reconnect_token(token)
    with pytest.raises(InvalidTokenError):
        await manager.validate_reconnect_token(token)


async def test_tokens_of_one_client_are_independent(manager: WebSocketConnectionManager) -> None:
    tokens = [manager.generate_reconnect_token("alice") for _ in range(5)]
    assert len(set(tokens)) == 5
    assert [await manager.validate_reconnect_token(token) for token in tokens] == ["alice"] * 5


async def test_expired_token_is_told_apart() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(reconnect_token_ttl=timedelta(milliseconds=1)))
    token = manager.generate_reconnect_token("alice")
    generated = time.monotonic()
    await eventually(lambda: time.monotonic() > generated + 0.01)
    with pytest.raises(TokenExpiredError):
        await manager.validate_reconnect_token(token)


@pytest.mark.parametrize("part", range(4))
async def test_altered_token_is_invalid_and_leaves_the_original_good(
    manager: WebSocketConnectionManager, part: int
) -> None:
    token = manager.generate_reconnect_token("alice")
    parts = token.split(".")
    parts[part] = ("1" if parts[part][0] != "1" else "2") + parts[part][1:]
    with pytest.raises(InvalidTokenError):
        await manager.validate_reconnect_token(".".join(parts))
    assert await manager.validate_reconnect_token(token) == "alice"


@pytest.mark.parametrize("garbage", ["", "a", "a.b.c.d", "....", "é.é.é.é", "x" * 10_000])
async def test_garbage_is_an_invalid_token(manager: WebSocketConnectionManager, garbage: str) -> None:
    with pytest.raises(InvalidTokenError):
        await manager.validate_reconnect_token(garbage)


async def test_token_of_another_manager_is_invalid(manager: WebSocketConnectionManager) -> None:
    foreign = WebSocketConnectionManager().generate_reconnect_token("alice")
    with pytest.raises(InvalidTokenError):
        await manager.validate_reconnect_token(foreign)
