"""Rooms on any number of replicas: everybody in a room hears who comes, who goes and what is said.

uvicorn examples.rooms:app                                      (one process, in memory)
WS_REDIS_URL=redis://localhost uvicorn examples.rooms:app       (as many as you like)
python -m websockets "ws://127.0.0.1:8000/ws/lobby?name=ada"
curl http://127.0.0.1:8000/rooms/lobby
"""

from typing import Annotated

from fastapi import FastAPI, Query

from fastapi_websocket_stabilizer import (
    Connection,
    Identity,
    PresenceEvent,
    WebSocketConfig,
    WebSocketConnectionManager,
)

manager = WebSocketConnectionManager(WebSocketConfig.from_env())
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)  # /livez and /readyz

EVENTS = {"room_joined": "came", "room_left": "left"}


async def say(connection: Connection, message: str | bytes) -> None:
    if isinstance(message, str):  # a binary frame comes as bytes
        await manager.broadcast({"from": connection.client_id, "text": message}, room=connection.rooms)


@manager.websocket(app, "/ws/{room}", on_message=say)
async def enter(room: str, name: Annotated[str, Query(min_length=1)]) -> Identity:
    return Identity(name, rooms=[room])


@manager.on_presence
async def tell(event: PresenceEvent) -> None:
    """Runs once for each event, whichever replica it was on, also when that replica has crashed."""
    if event.room is not None:
        await manager.broadcast({"event": EVENTS[event.kind], "name": event.client_id}, room=event.room)


@app.get("/rooms/{room}")
async def members(room: str) -> list[str]:
    return sorted(member.client_id for member in await manager.room_members(room))
