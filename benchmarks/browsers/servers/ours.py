"""This library. ``POST /control`` sends one message to the room."""

from typing import Annotated

from fastapi import Body, FastAPI

from benchmarks.apps.environment import NAMESPACE, REDIS_URL
from fastapi_websocket_stabilizer import History, Identity, WebSocketConfig, WebSocketConnectionManager

ROOM = "re:room"
settings = WebSocketConfig(redis_url=REDIS_URL, namespace=NAMESPACE, history={"re:": History(messages=2_000)})
manager = WebSocketConnectionManager(settings)
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)


@manager.websocket(app, "/ws")
async def identify(name: str) -> Identity:
    """Join the room."""
    return Identity(name, rooms=[ROOM])


@app.post("/control")
async def send(n: Annotated[int, Body(embed=True)]) -> None:
    """Send one message."""
    await manager.broadcast({"n": n}, room=ROOM)
