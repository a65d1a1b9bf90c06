"""python-socketio with its asyncio Redis manager, mounted as its documentation says."""

from typing import Any

import socketio

from benchmarks.apps.control import control_app
from benchmarks.apps.environment import REDIS_URL

sio = socketio.AsyncServer(
    async_mode="asgi", client_manager=socketio.AsyncRedisManager(REDIS_URL), transports=["websocket"]
)


async def connect(sid: str, environ: dict[str, Any]) -> None:
    """Put the socket into its client's room."""
    query = environ["QUERY_STRING"]
    if "client_id=" in query:
        await sio.enter_room(sid, query.split("client_id=")[1].split("&")[0])


sio.on("connect", connect)


async def broadcast(message: Any) -> None:
    """Emit to everybody on every replica."""
    await sio.emit("message", message)


async def direct(client_id: str, message: Any) -> None:
    """Emit to one client, wherever it is."""
    await sio.emit("message", message, room=client_id)


app = socketio.ASGIApp(sio, control_app(broadcast, direct))
