"""What every ASGI server is asked to serve: each way to hold a socket, and HTTP routes to steer and to look.

``/<place>/<way>/<client_id>`` is a WebSocket. A place is one manager with settings of its own; a way is one of
our four idioms. Whatever a client says is said back to it.
"""

import asyncio
import os
from typing import Annotated, Any
from unittest.mock import AsyncMock

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, WebSocket, WebSocketDisconnect

from fastapi_websocket_stabilizer import Connection, Identity, WebSocketConfig, WebSocketConnectionManager

KIB = 1024
MIB = 1024 * KIB
WRITE_TIMEOUT_S = 0.5
CLOSE_TIMEOUT_S = 0.5

PLACES = {
    "hall": WebSocketConfig(max_message_size=64 * KIB),
    "full": WebSocketConfig(max_connections=1),
    "single": WebSocketConfig(max_connections_per_client=1, on_client_overflow="reject"),
    "pulse": WebSocketConfig(heartbeat_interval=0.1, heartbeat_timeout=0.5),
    "small-outbox": WebSocketConfig(outbox_size=MIB, close_timeout_s=CLOSE_TIMEOUT_S),
    "large-outbox": WebSocketConfig(
        outbox_size=64 * MIB, write_timeout_s=WRITE_TIMEOUT_S, close_timeout_s=CLOSE_TIMEOUT_S
    ),
    "patient": WebSocketConfig(outbox_size=64 * MIB, write_timeout_s=60, close_timeout_s=CLOSE_TIMEOUT_S),
}

Rooms = Annotated[tuple[str, ...], Query()]


async def echo(connection: Connection, message: str | bytes) -> None:
    await connection.send(message)


class Place:
    """One manager behind all ways and controls, and a diary of how connections and handlers ended."""

    def __init__(self, name: str, config: WebSocketConfig) -> None:
        config.uvicorn_protocol = os.environ.get("SMOKE_UVICORN_PROTOCOL") != "off"
        self.manager = WebSocketConnectionManager(config)
        self.router = APIRouter(prefix=f"/{name}", lifespan=self.manager.lifespan)
        self._diary: dict[str, list[str]] = {}
        self.manager.on_connect(self._overtake)
        self.manager.on_disconnect(self._left)
        self._add_ways()
        self._add_controls()

    def _add_ways(self) -> None:
        add = self.router.add_api_websocket_route
        add("/serve/{client_id}", self.serve)
        add("/connection/{client_id}", self.hold)
        add("/connect/{client_id}", self.loop)
        self.manager.websocket(self.router, "/route/{client_id}", on_message=echo)(self.identify)

    def _add_controls(self) -> None:
        add = self.router.add_api_route
        add("/clients", self.clients)
        add("/diary/{client_id}", self.diary)
        add("/send", self.send, methods=["POST"])
        add("/flood/{client_id}", self.flood, methods=["POST"])
        add("/rooms/{room}/{client_id}", self.join, methods=["PUT"])
        add("/rooms/{room}/{client_id}", self.leave, methods=["DELETE"])
        add("/clients/{client_id}", self.disconnect, methods=["DELETE"])

    # The ways

    async def identify(self, client_id: str, rooms: Rooms = ()) -> Identity:
        if client_id.startswith("stranger"):
            raise HTTPException(401, "who are you?", headers={"WWW-Authenticate": "Bearer"})
        return Identity(client_id, rooms=rooms)

    async def serve(self, websocket: WebSocket, client_id: str, rooms: Rooms = ()) -> None:
        try:
            await self.manager.serve(websocket, client_id, rooms=rooms, on_message=echo)
        finally:
            self._note(client_id, "handler ended")

    async def hold(self, websocket: WebSocket, client_id: str, rooms: Rooms = ()) -> None:
        try:
            async with self.manager.connection(websocket, client_id, rooms=rooms) as connection:
                async for message in connection:
                    await connection.send(message)
        finally:
            self._note(client_id, "handler ended")

    async def loop(self, websocket: WebSocket, client_id: str, rooms: Rooms = ()) -> None:
        """Release 1.1's pattern."""
        await websocket.accept()
        try:
            await self.manager.connect(client_id, websocket)
            for room in rooms:
                await self.manager.join(client_id, room)
            while True:
                text = await websocket.receive_text()
                await self.manager.send_to_client(client_id, text)
        except WebSocketDisconnect:
            await self.manager.disconnect(client_id)
        finally:
            self._note(client_id, "handler ended")

    # The controls

    async def clients(self) -> list[str]:
        return self.manager.get_active_connections()

    async def diary(self, client_id: str) -> list[str]:
        return self._diary.get(client_id, [])

    async def send(self, request: Request, to: str | None = None, room: str | None = None) -> int:
        """Send the body as what it says it is: to one client, a room or all; return how many took it."""
        message = await _body(request)
        if to is not None:
            return await self.manager.send_to_client(to, message)
        return (await self.manager.broadcast(message, room=room)).succeeded

    async def flood(self, client_id: str, mib: int) -> int:
        """Send that many messages of 1 MiB (less what frames them) as fast as they are taken."""
        message = "x" * (MIB - KIB)
        return sum([await self.manager.send_to_client(client_id, message) for _ in range(mib)])

    async def join(self, room: str, client_id: str) -> None:
        await self.manager.join(client_id, room)

    async def leave(self, room: str, client_id: str) -> None:
        await self.manager.leave(client_id, room)

    async def disconnect(self, client_id: str, code: int, reason: str) -> None:
        await self.manager.disconnect(client_id, code, reason)

    # The diary

    async def _overtake(self, connection: Connection) -> None:
        """Let a newer socket of the client take over before this one is accepted, or end it another way."""
        match connection.client_id.partition("-")[0]:
            case "outrun" if not connection.is_open:
                newer: Any = AsyncMock()
                await asyncio.create_task(self.manager.connect(connection.client_id, newer))
            case "evicted":
                await asyncio.create_task(self.manager.disconnect(connection.client_id, 1013, "no room"))
            case "banned":
                await asyncio.create_task(self.manager.disconnect(connection.client_id, 4900, "banned"))

    def _left(self, connection: Connection, code: int, reason: str) -> None:
        self._note(connection.client_id, f"closed with {code} {reason}".rstrip())

    def _note(self, client_id: str, event: str) -> None:
        self._diary.setdefault(client_id, []).append(event)


async def _body(request: Request) -> Any:
    match request.headers["content-type"]:
        case "application/json":
            return await request.json()
        case "application/octet-stream":
            return await request.body()
        case _:
            return (await request.body()).decode()


app = FastAPI()
places = {name: Place(name, settings) for name, settings in PLACES.items()}
for place in places.values():
    app.include_router(place.router)
app.include_router(places["hall"].manager.router)


@app.get("/ready")
async def ready() -> str:
    return "ready"
