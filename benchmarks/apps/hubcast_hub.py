"""hubcast, as its README writes it; the queue is longer than its default, so that a burst is not dropped."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from hubcast import Hub
from redis.asyncio import Redis

from benchmarks.apps.control import add_control
from benchmarks.apps.environment import REDIS_URL

EVERYBODY = "everybody"
hub = Hub(Redis.from_url(REDIS_URL), max_queue=1000)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Listen as long as the application runs."""
    async with hub:
        yield


async def broadcast(message: Any) -> None:
    """Publish to everybody."""
    await hub.publish(EVERYBODY, message if isinstance(message, str) else json.dumps(message))


async def direct(client_id: str, message: Any) -> None:
    """Publish to the client's own topic."""
    await hub.publish(client_id, message if isinstance(message, str) else json.dumps(message))


app = FastAPI(lifespan=lifespan)
add_control(app, broadcast, direct)


@app.websocket("/ws")
async def serve(websocket: WebSocket, client_id: str = EVERYBODY) -> None:
    """Forward a topic while noticing, as any endpoint must, that the client left."""
    await websocket.accept()
    forwarding = asyncio.create_task(forward(websocket, client_id))
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        forwarding.cancel()


async def forward(websocket: WebSocket, topic: str) -> None:
    """Write a topic's messages to the socket."""
    async with hub.subscribe(topic) as messages:
        async for message in messages:
            await websocket.send_text(message)
