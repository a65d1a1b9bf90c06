"""Routes that serve sockets: what is refused, when, and with which HTTP answer."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from fastapi_websocket_stabilizer import Identity, WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.testing import MemoryCluster

Close = Callable[[WebSocketConnectionManager], Any]

CLOSED: dict[str, Close] = {
    "draining": lambda manager: manager.drain(over=0.1),
    "shut down": lambda manager: manager.graceful_shutdown(),
    "max_connections is 1": lambda manager: manager.connect("first", object()),  # type: ignore[arg-type]  # any object
}


def application(manager: WebSocketConnectionManager, identified: list[str]) -> FastAPI:
    """Return two routes that note who was identified: one of ours, and one of the application's own."""
    app = FastAPI()

    def note(client_id: str) -> Identity:
        identified.append(client_id)
        return Identity(client_id)

    manager.websocket(app, "/ours/{client_id}")(note)

    async def own(websocket: WebSocket, identity: Identity = Depends(note)) -> None:  # noqa: B008 - FastAPI's way
        await manager.serve(websocket, identity.client_id)

    app.add_api_websocket_route("/own/{client_id}", own, dependencies=[Depends(manager.check_open)])
    return app


def refusal(app: FastAPI, path: str) -> WebSocketDenialResponse:
    with pytest.raises(WebSocketDenialResponse) as caught, TestClient(app).websocket_connect(path):
        pass
    return caught.value


@pytest.mark.parametrize("path", ["/ours/ann", "/own/ann"])
@pytest.mark.parametrize("why", CLOSED)
def test_closed_door_refuses_before_anybody_is_identified(why: str, path: str) -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(max_connections=1, log_level="ERROR"))
    asyncio.run(CLOSED[why](manager))
    identified: list[str] = []
    refused = refusal(application(manager, identified), path)
    assert (refused.status_code, identified) == (503, [])
    assert why in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize("why", ["draining", "max_connections is 1"])
def test_closed_door_counts_whom_it_refuses(why: str) -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(max_connections=1, log_level="ERROR"))
    asyncio.run(CLOSED[why](manager))
    refusal(application(manager, []), "/ours/ann")
    assert manager.statistics().counters["connections_rejected"] == 1


async def test_door_is_closed_without_redis_under_refuse_only() -> None:
    config = WebSocketConfig(on_backend_loss="refuse", log_level="ERROR")
    async with MemoryCluster(1, config) as cluster:
        (manager,) = cluster.managers
        await manager.check_open()
        manager.registry.context.is_away = True
        with pytest.raises(HTTPException, match="503: the registry cannot be reached"):
            await manager.check_open()
        manager.registry.context.degrades = True
        await manager.check_open()
