"""Credentials that expire, on a real server: the socket ends, or its client sends newer ones in time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, HTTPException
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from fastapi_websocket_stabilizer import (
    Connection,
    Identity,
    WebSocketConfig,
    WebSocketConnectionManager,
    offered_token,
)
from fastapi_websocket_stabilizer_client import Client
from tests.support.waiting import eventually
from tests.wire.inprocess import serving

LASTS_S = 3.0


class World:
    def __init__(self, *, uvicorn_protocol: bool) -> None:
        self.manager = WebSocketConnectionManager(
            WebSocketConfig(uvicorn_protocol=uvicorn_protocol, log_level="CRITICAL")
        )
        self.tokens: list[str] = []
        self.port = 0

    @property
    def counters(self) -> dict[str, int]:
        return self.manager.statistics().counters

    async def fetch(self) -> str:
        return f"token {len(self.tokens)}"

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        app = FastAPI(lifespan=self.manager.lifespan)

        async def ignore(_: Connection, __: str | bytes) -> None: ...

        @self.manager.websocket(app, "/ws", on_message=ignore)
        async def identify(token: Annotated[str | None, Depends(offered_token)]) -> Identity:
            if token in self.tokens:
                raise HTTPException(401, "the token was used before")
            self.tokens += [token] if token else []
            return Identity("ann", expires_at=datetime.now(UTC) + timedelta(seconds=LASTS_S))

        async with serving(app) as served:
            self.port = served.port
            yield


@pytest.fixture(params=[True, False], ids=["parked", "asgi"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    world = World(uvicorn_protocol=request.param)
    async with world.served():
        yield world


async def test_client_stays_connected_by_newer_tokens(world: World) -> None:
    async with Client(f"ws://127.0.0.1:{world.port}/ws", auth=world.fetch):
        await eventually(lambda: len(world.tokens) >= 3, timeout_s=30, what="two newer tokens")
        assert world.tokens[:3] == ["token 0", "token 1", "token 2"]
        assert world.counters["connections_opened"] == 1
        assert world.counters["credentials_expired"] == 0


@pytest.mark.parametrize("subprotocols", [None, ["stabilizer.v1"]])
async def test_socket_ends_when_its_credentials_have_expired(
    world: World, subprotocols: list[str] | None
) -> None:
    began_s = asyncio.get_running_loop().time()
    url = f"ws://127.0.0.1:{world.port}/ws"
    async with connect(url, subprotocols=subprotocols, proxy=None) as socket:  # type: ignore[arg-type]  # they are texts
        async with asyncio.timeout(30):
            with suppress(ConnectionClosed):
                while True:
                    await socket.recv()
        assert (socket.close_code, socket.close_reason) == (4401, "the credentials have expired")
    assert asyncio.get_running_loop().time() - began_s >= LASTS_S - 0.1
    assert world.counters["credentials_expired"] == 1


async def test_client_whose_token_is_not_renewed_comes_back_with_another_one(world: World) -> None:
    tokens = iter(
        ["token a", "token a", "token b"]
    )  # the second one is refused, and the third one is a new connection

    async def fetch() -> str:
        return next(tokens, "token z")

    async with Client(f"ws://127.0.0.1:{world.port}/ws", auth=fetch):
        await eventually(lambda: world.tokens[-1:] == ["token b"], timeout_s=30, what="the next connection")
    assert world.counters["connections_opened"] == 2
    assert world.counters["credentials_expired"] == 1
