"""A chat in one process, without Redis, written with the calls of release 1.1.

uvicorn examples.basic_app:app
python -m websockets ws://127.0.0.1:8000/ws/ada
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from fastapi_websocket_stabilizer import (
    ConnectionLimitExceededError,
    WebSocketConfig,
    WebSocketConnectionManager,
)

manager = WebSocketConnectionManager(
    WebSocketConfig(heartbeat_interval=30.0, heartbeat_timeout=60.0, max_connections=100)
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await manager.start()
    yield
    await manager.graceful_shutdown()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws/{client_id}")
async def chat(websocket: WebSocket, client_id: str) -> None:
    await websocket.accept()
    try:
        await manager.connect(client_id, websocket)
        while True:
            text = await websocket.receive_text()
            if text == "pong":
                await manager.handle_pong(client_id)
            else:
                await manager.broadcast(json.dumps({"user": client_id, "message": text}))
    except ConnectionLimitExceededError:
        await websocket.close(1013, "the chat is full")
    except WebSocketDisconnect:
        await manager.disconnect(client_id)


@app.get("/stats")
async def stats() -> dict[str, Any]:
    return {
        "active_connections": manager.get_connection_count(),
        "client_ids": manager.get_active_connections(),
    }
