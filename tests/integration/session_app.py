"""What every ASGI server serves to clients of ``stabilizer.v1``: each way to hold a socket, and HTTP routes to steer.

``/<place>/<way>/<client_id>`` is a WebSocket. A place is one manager with settings of its own.
"""

import asyncio
import json
import os
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, WebSocket

from fastapi_websocket_stabilizer import (
    Connection,
    Identity,
    WebSocketConfig,
    WebSocketConnectionManager,
    offered_token,
)

PULSE_S = 0.2
KIB = 1024
PLACES = {
    "hall": WebSocketConfig(
        max_message_size=256 * KIB, max_connections_per_client=2, client_presence=("stage-",)
    ),
    "single": WebSocketConfig(),
    "full": WebSocketConfig(max_connections=1),
    "strict": WebSocketConfig(on_client_overflow="reject"),
    "pulse": WebSocketConfig(heartbeat_interval=PULSE_S, heartbeat_timeout=3.0),
    "plain": WebSocketConfig(client_protocol=False),
    "drained": WebSocketConfig(),
}

Rooms = Annotated[tuple[str, ...], Query()]
Token = Annotated[str | None, Depends(offered_token)]


async def echo(connection: Connection, message: str | bytes) -> None:
    """Say back what the client said, unless it asks for something else."""
    if message == "raise":
        raise ValueError("as the client asked for")
    if isinstance(message, str) and message.startswith("join "):
        await connection.join(message.removeprefix("join "))
    elif isinstance(message, str) and message.startswith("close "):
        await connection.close(int(message.removeprefix("close ")), "as asked for")
    else:
        await connection.send(message)


class Place:
    """One manager behind all ways and controls."""

    def __init__(self, name: str, config: WebSocketConfig) -> None:
        config.uvicorn_protocol = os.environ.get("SMOKE_UVICORN_PROTOCOL") != "off"
        self.manager = WebSocketConnectionManager(config)
        self.router = APIRouter(prefix=f"/{name}", lifespan=self.manager.lifespan)
        self.manager.on_connect(self._welcome)
        ways = self.router.add_api_websocket_route
        ways("/serve/{client_id}", self.serve)
        ways("/connection/{client_id}", self.hold)
        ways("/connect/{client_id}", self.loop)
        ways("/own/{client_id}", self.own)
        ways("/past/{client_id}", self.send_past_the_connection)
        self.manager.websocket(self.router, "/route/{client_id}", on_message=echo)(self.identify)
        controls = self.router.add_api_route
        controls("/counters", self.counters)
        controls("/send", self.send, methods=["POST"])
        controls("/rooms/{room}/{client_id}", self.join, methods=["PUT"])
        controls("/rooms/{room}/{client_id}", self.leave, methods=["DELETE"])
        controls("/clients", self.clients)
        controls("/clients/{client_id}", self.disconnect, methods=["DELETE"])
        controls("/drain", self.drain, methods=["POST"])

    async def identify(self, client_id: str, token: Token, number: int = 0, rooms: Rooms = ()) -> Identity:
        if client_id.startswith("status-"):
            headers = {"Retry-After": "2"} if client_id in ("status-429", "status-503") else None
            raise HTTPException(int(client_id.removeprefix("status-")), "as asked for", headers)
        if client_id == "error":
            raise ValueError("as asked for")
        return Identity(client_id if token is None else token, rooms=rooms)

    async def serve(self, websocket: WebSocket, client_id: str, rooms: Rooms = ()) -> None:
        await self.manager.serve(websocket, client_id, rooms=rooms, on_message=echo)

    async def hold(self, websocket: WebSocket, client_id: str, rooms: Rooms = ()) -> None:
        async with self.manager.connection(websocket, client_id, rooms=rooms) as connection:
            async for message in connection:
                await echo(connection, message)

    async def loop(self, websocket: WebSocket, client_id: str) -> None:
        await websocket.accept()
        connection = await self.manager.connect(client_id, websocket)
        async for message in connection:
            await echo(connection, message)

    async def send_past_the_connection(self, websocket: WebSocket, client_id: str) -> None:
        async with self.manager.connection(websocket, client_id) as connection:
            await connection.send("first")
            await websocket.send_text("text")
            await websocket.send_json({"a": 1})
            await websocket.send_bytes(b"bytes")
            await connection.send("last")
            async for _ in connection:
                pass

    async def own(self, websocket: WebSocket, client_id: str) -> None:
        await self.manager.serve(websocket, client_id, subprotocol="chat.v2", on_message=echo)

    async def _welcome(self, connection: Connection) -> None:
        if connection.client_id.startswith("welcome"):
            await connection.join("porch")
            await connection.send("welcome")
            await connection.send({"number": 2})

    # The controls

    async def counters(self) -> dict[str, int]:
        return self.manager.statistics().counters

    async def clients(self) -> list[str]:
        return self.manager.get_active_connections()

    async def send(self, request: Request, to: str | None = None, room: Rooms = ()) -> None:
        """Send the body as what it says it is: to one client, to rooms or to all."""
        body = await request.body()
        kind = request.headers["content-type"]
        message: Any = body if "octet" in kind else json.loads(body) if "json" in kind else body.decode()
        if to is not None:
            await self.manager.send_to_client(to, message)
        else:
            await self.manager.broadcast(message, room=room or None)

    async def join(self, room: str, client_id: str) -> None:
        await self.manager.join(client_id, room)

    async def leave(self, room: str, client_id: str) -> None:
        await self.manager.leave(client_id, room)

    async def disconnect(self, client_id: str) -> None:
        await self.manager.disconnect(client_id)

    async def drain(self, over: float) -> None:
        self._draining = asyncio.create_task(self.manager.drain(over))


app = FastAPI()
places = {name: Place(name, settings) for name, settings in PLACES.items()}
for place in places.values():
    app.include_router(place.router)
app.include_router(places["hall"].manager.router)


@app.get("/ready")
async def ready() -> str:
    return "ready"
