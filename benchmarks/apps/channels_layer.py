"""The pub/sub layer of channels_redis under FastAPI: the layer alone, without what Django's consumers cost."""

import asyncio
import json
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from benchmarks.apps.control import add_control
from benchmarks.apps.environment import REDIS_URL

EVERYBODY = "everybody"
layer = RedisPubSubChannelLayer(hosts=[REDIS_URL])
app = FastAPI()


async def group_send(group: str, message: Any) -> None:
    """Send to a group's sockets on every replica."""
    text = message if isinstance(message, str) else json.dumps(message)
    await layer.group_send(group, {"type": "push", "text": text})


async def broadcast(message: Any) -> None:
    """Send to everybody."""
    await group_send(EVERYBODY, message)


async def direct(client_id: str, message: Any) -> None:
    """Send to one client's group."""
    await group_send(f"client.{client_id}", message)


add_control(app, broadcast, direct)


@app.websocket("/ws")
async def serve(websocket: WebSocket, client_id: str | None = None) -> None:
    """Join the client's group, or that of all, and forward it until the client leaves."""
    await websocket.accept()
    channel = await layer.new_channel()
    group = EVERYBODY if client_id is None else f"client.{client_id}"
    await layer.group_add(group, channel)
    forwarding = asyncio.create_task(forward(websocket, channel))
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        forwarding.cancel()
        await layer.group_discard(group, channel)


async def forward(websocket: WebSocket, channel: str) -> None:
    """Write what arrives on a channel to the socket."""
    while True:
        event = await layer.receive(channel)
        await websocket.send_text(event["text"])
