"""A chat on any number of replicas, as an example of an application of this package.

``stabilizer demo`` starts several replicas. One process in memory mode also works:
``uvicorn fastapi_websocket_stabilizer.demo.app:app``.
"""

import asyncio
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from .. import (
    BackendUnavailableError,
    Connection,
    Identity,
    InvalidTokenError,
    PresenceEvent,
    TokenExpiredError,
    WebSocketConfig,
    WebSocketConnectionManager,
)

HOST = os.environ.get("DEMO_HOST", "127.0.0.1")
REPLICA = os.environ.get("DEMO_REPLICA", "replica-1")
REPLICAS: dict[str, int] = json.loads(os.environ.get("DEMO_REPLICAS", '{"replica-1": 8000}'))
REFRESH_S = 1.0

Room = Literal["tea", "music", "chess"]
Name = Annotated[str, Query(min_length=1, max_length=24)]

manager: WebSocketConnectionManager = WebSocketConnectionManager(
    WebSocketConfig(
        redis_url=os.environ.get("DEMO_REDIS_URL"),
        namespace="demo",
        node_name=REPLICA,
        log_level="ERROR",  # the page shows all other events
        lease_ttl_s=3.0,  # short, so that visitors see the lease of a killed replica lapse; the default is 10
        renew_interval_s=1.0,
    )
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the manager, and refresh the lists in this replica's tabs."""
    async with manager.lifespan(app), asyncio.TaskGroup() as tasks:
        refreshing = tasks.create_task(refresh())
        yield
        refreshing.cancel()


app: FastAPI = FastAPI(title="stabilizer demo", lifespan=lifespan)
app.include_router(manager.router)
app.include_router(manager.admin_router())  # answers browsers on this machine only


class Say(BaseModel):
    """A chat message from a tab: to everyone, to a room that it has joined, or to one client."""

    kind: Literal["say"]
    text: str = Field(min_length=1, max_length=500)
    room: Room | None = None
    to: str | None = None


class Move(BaseModel):
    """A request of a tab to join or leave a room."""

    kind: Literal["join", "leave"]
    room: Room


COMMAND: TypeAdapter[Say | Move] = TypeAdapter(Annotated[Say | Move, Field(discriminator="kind")])


async def chat(connection: Connection, message: str | bytes) -> None:
    """Execute the command of a tab, or refuse it if it is malformed."""
    try:
        command = COMMAND.validate_json(message)
    except ValidationError as error:
        await connection.send({"kind": "refused", "why": error.errors()[0]["msg"]})
        return
    if isinstance(command, Say):
        await say(connection, command)
    else:
        await move(connection, command)


async def say(connection: Connection, said: Say) -> None:
    """Send a message to its recipients on all replicas."""
    sender = {"id": connection.client_id, "name": connection.metadata["name"], "replica": REPLICA}
    message: dict[str, Any] = {"kind": "message", "from": sender, **said.model_dump(exclude={"kind"})}
    if said.to is not None:
        message["delivered"] = await manager.send_to_client(said.to, message)
        await connection.send(message)
    elif said.room is None or said.room in connection.rooms:
        await manager.broadcast(message, room=said.room)


async def move(connection: Connection, command: Move) -> None:
    """Join or leave a room, and report it to every tab."""
    if command.kind == "join":
        await connection.join(command.room)
        what = f"entered #{command.room}"
    else:
        await connection.leave(command.room)
        what = f"left #{command.room}"
    await report(secrets.token_hex(8), connection.client_id, connection.connection_id, what)


async def report(event_id: str, client_id: str, connection_id: str, what: str) -> None:
    """Send an event to every tab. Each guest of a tab receives it as well, so the tab drops repeated ids."""
    news = {"event": event_id, "id": client_id, "connection": connection_id, "what": what}
    await manager.broadcast({"kind": "news", **news})


def own_page(origin: Annotated[str, Header()] = "", host: Annotated[str, Header()] = "") -> None:
    """Refuse requests of other sites' pages. Browsers send the site of the page as ``Origin``.

    Raises:
        HTTPException: 403.
    """
    names = {"127.0.0.1", "localhost", HOST}
    if HOST == "0.0.0.0":  # reachable by any name of this machine
        names.add(host.rpartition(":")[0])
    if origin not in {f"http://{name}:{port}" for name in names for port in REPLICAS.values()}:
        raise HTTPException(403, "not from a page of this demo")


@manager.websocket(app, "/ws", on_message=chat)
async def identify(
    name: Name,
    _: Annotated[None, Depends(own_page)],
    rooms: Annotated[list[Room], Query()] = [],  # noqa: B006  # FastAPI copies it
    token: str | None = None,
) -> Identity:
    """Return the identity that the reconnect token was issued to, or a new one."""
    client_id = secrets.token_hex(4)
    if token is not None:
        # An application with accounts would respond with 401 instead, so that the client signs in again.
        with suppress(TokenExpiredError, InvalidTokenError):
            client_id = await manager.validate_reconnect_token(token) or client_id
    return Identity(client_id, metadata={"name": name}, rooms=rooms)


@manager.on_connect
async def welcome(connection: Connection) -> None:
    """Send a tab its identity, and a reconnect token for its next connection."""
    await connection.send(
        {
            "kind": "welcome",
            "id": connection.client_id,
            "connection": connection.connection_id,
            "replica": REPLICA,
            "token": await manager.issue_reconnect_token(connection.client_id),
        }
    )
    await connection.send(await overview())


@manager.on_presence
async def changed(event: PresenceEvent) -> None:
    """Send every presence change to all tabs at once. Only one replica runs this hook per event."""
    if event.kind == "left":
        await report(event.event_id, event.client_id, event.connection_id, "left")
    await manager.broadcast(await overview())


async def refresh() -> None:
    """Send the overview to this replica's tabs every ``REFRESH_S``, because a lapsed lease is not an event."""
    while True:
        with suppress(BackendUnavailableError):  # retried after REFRESH_S
            await manager.send_to_clients(manager.get_active_connections(), await overview())
        await asyncio.sleep(REFRESH_S)


async def overview() -> dict[str, Any]:
    """Return the live replicas, the clients of each, and the number of members of each room."""
    nodes = {node.node_id: node for node in await manager.nodes()}
    return {
        "kind": "overview",
        "replicas": [{"name": node.name, "node": node.node_id} for node in nodes.values()],
        "people": [
            {
                "id": entry.client_id,
                "connection": entry.connection_id,
                "name": entry.metadata["name"],
                "replica": nodes[entry.node].name,
            }
            async for entry in manager.clients()
            if entry.node in nodes
        ],
        "rooms": {room: await manager.room_count(room) for room in get_args(Room)},
    }


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page of the chat."""
    return FileResponse(Path(__file__).with_name("page.html"))


@app.get("/replicas")
async def replicas() -> dict[str, int]:
    """Return name and port of all replicas, including those that are down."""
    return REPLICAS


@app.post("/kill", dependencies=[Depends(own_page)])
async def kill(tasks: BackgroundTasks) -> None:
    """Kill this replica after the response, as the kernel does when out of memory: no socket is closed first."""
    tasks.add_task(os.kill, os.getpid(), signal.SIGKILL)
