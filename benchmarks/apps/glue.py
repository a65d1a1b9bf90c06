"""Release 1.1 in two replicas, as people run it today: a pub/sub listener beside each manager."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from redis.asyncio import Redis

from benchmarks.apps.control import add_control
from benchmarks.apps.environment import NAMESPACE, REDIS_URL
from fastapi_websocket_stabilizer import ConnectionNotFoundError, WebSocketConnectionManager

PONG = '{"type":"pong"}'
manager = WebSocketConnectionManager()
redis: "Redis" = Redis.from_url(REDIS_URL)


async def listen() -> None:
    """Hand every publication to this replica's sockets."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(NAMESPACE)
        async for published in pubsub.listen():
            if published["type"] == "message":
                envelope = json.loads(published["data"])
                if envelope["to"] is None:
                    await manager.broadcast(envelope["message"])
                else:
                    await manager.send_to_client(envelope["to"], envelope["message"])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Listen as long as the application runs."""
    await manager.start()
    listener = asyncio.create_task(listen())
    yield
    listener.cancel()
    await manager.graceful_shutdown()
    await redis.aclose()


async def broadcast(message: Any) -> None:
    """Publish to every replica."""
    await redis.publish(NAMESPACE, json.dumps({"to": None, "message": message}))


async def direct(client_id: str, message: Any) -> None:
    """Publish to every replica; the one that has the client sends."""
    await redis.publish(NAMESPACE, json.dumps({"to": client_id, "message": message}))


app = FastAPI(lifespan=lifespan)
add_control(app, broadcast, direct)


@app.websocket("/ws")
async def serve(websocket: WebSocket, client_id: str) -> None:
    """Register, and read until the client leaves."""
    await websocket.accept()
    await manager.connect(client_id, websocket)
    try:
        while True:
            if await websocket.receive_text() == PONG:
                await manager.handle_pong(client_id)
    except WebSocketDisconnect:
        with suppress(ConnectionNotFoundError):
            await manager.disconnect(client_id)
