"""An application as people write it, set up by WS_* variables alone; for servers that are told to stop."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI, WebSocket

from fastapi_websocket_stabilizer import Connection, Identity, WebSocketConfig, WebSocketConnectionManager

manager = WebSocketConnectionManager(WebSocketConfig.from_env())
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)


async def echo(connection: Connection, message: str | bytes) -> None:
    await connection.send(message)


@manager.websocket(app, "/parked/{client_id}", on_message=echo)
async def identify(client_id: str) -> Identity:
    return Identity(client_id)


async def think(connection: Connection, message: str | bytes) -> None:
    await asyncio.sleep(600)


@manager.websocket(app, "/busy/{client_id}", on_message=think)
async def identify_busy(client_id: str) -> Identity:
    return Identity(client_id)


@app.websocket("/served/{client_id}")
async def served(websocket: WebSocket, client_id: str) -> None:
    await manager.serve(websocket, client_id, on_message=echo)


@app.websocket("/classic/{client_id}")
async def classic(websocket: WebSocket, client_id: str) -> None:
    await websocket.accept()
    await manager.connect(client_id, websocket)
    async for message in websocket.iter_text():
        await manager.send_to_client(client_id, message)


@app.get("/here")
async def here() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "node_id": manager.statistics().node_id,
        "clients": manager.get_active_connections(),
        "draining": {node.node_id: node.draining for node in await manager.nodes()},
    }


@app.get("/local")
async def local() -> list[str]:
    return manager.get_active_connections()


@app.post("/flood/{client_id}")
async def flood(client_id: str, mib: int) -> None:
    for _ in range(mib):
        await manager.send_to_client(client_id, "x" * (1 << 20))


@asynccontextmanager
async def with_own_handler(app: FastAPI) -> AsyncIterator[None]:
    """A lifespan that puts a handler of its own in front of uvicorn's, before the manager comes."""
    found: Any = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        print(f"told with {manager.get_connection_count()} clients", flush=True)
        found(number, frame)

    signal.signal(signal.SIGTERM, handle)
    async with manager.lifespan(app):
        yield


handling = FastAPI(lifespan=with_own_handler, routes=app.routes)
