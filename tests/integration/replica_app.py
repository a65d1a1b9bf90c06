"""The application of the replica processes: sockets in every documented style, and a door for the tests."""

import asyncio
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, tzinfo
from typing import Any

from fastapi import FastAPI, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from fastapi_websocket_stabilizer import (
    Connection,
    Identity,
    PresenceEvent,
    WebSocketConfig,
    WebSocketConnectionManager,
    WebSocketStabilizerError,
)

manager = WebSocketConnectionManager(
    WebSocketConfig(
        redis_url=os.environ["REPLICA_REDIS_URL"],
        namespace=os.environ["REPLICA_NAMESPACE"],
        node_name=os.environ["REPLICA_NAME"],
        lease_ttl_s=float(os.environ["REPLICA_LEASE_S"]),
        renew_interval_s=float(os.environ["REPLICA_BEAT_S"]),
        on_backend_loss=os.environ.get("REPLICA_ON_BACKEND_LOSS", "degrade"),  # type: ignore[arg-type]  # checked there
        client_presence=("stage-",),
        drain_secret=os.environ.get("REPLICA_DRAIN_SECRET"),
        log_level="WARNING",
    )
)
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)
events: list[dict[str, Any]] = []
handlers_ended: list[str] = []


HANG_AFTER = int(os.environ.get("REPLICA_HANG_AFTER", "0"))
"""After so many presence events the hook never returns: a sweep stops half-way."""


@manager.on_presence
async def note(event: PresenceEvent) -> None:
    events.append(asdict(event))
    if HANG_AFTER and len(events) >= HANG_AFTER:
        await asyncio.Event().wait()


@manager.on_message
async def echo(connection: Connection, message: str | bytes) -> None:
    await connection.send(message)


@app.websocket("/serve/{client_id}")
async def serve(websocket: WebSocket, client_id: str, room: list[str] = Query(default=[])) -> None:  # noqa: B008 - FastAPI's way
    await websocket.accept()
    async with manager.connection(websocket, client_id, rooms=room) as connection:
        await connection.send("registered")
        async for message in connection:
            await connection.send(message)


@manager.websocket(app, "/identified/{client_id}")
def identify(client_id: str) -> Identity:
    return Identity(client_id)


@app.websocket("/served/{client_id}")
async def served(websocket: WebSocket, client_id: str) -> None:
    await manager.serve(websocket, client_id)


@app.websocket("/block/{client_id}")
async def block_before_accept(websocket: WebSocket, client_id: str) -> None:
    async with manager.connection(websocket, client_id) as connection:
        async for message in connection:
            await connection.send(message)


@app.websocket("/connect/{client_id}")
async def connect_before_accept(websocket: WebSocket, client_id: str) -> None:
    await manager.connect(client_id, websocket)
    await websocket.accept()
    with suppress(WebSocketDisconnect):
        while True:
            await websocket.receive_text()


@app.websocket("/old/{client_id}")
async def pattern_of_release_1_1(websocket: WebSocket, client_id: str) -> None:
    await websocket.accept()
    await manager.connect(client_id, websocket)
    await manager.send_to_client(client_id, "registered")
    try:
        while True:
            await manager.send_to_client(client_id, await websocket.receive_text())
    except WebSocketDisconnect:
        await manager.disconnect(client_id)
    finally:
        handlers_ended.append(client_id)


@app.post("/call/{method}")
async def call(method: str, request: Request) -> JSONResponse:
    arguments = await request.json()
    try:
        return JSONResponse(await questions[method](**arguments))
    except WebSocketStabilizerError as error:
        return JSONResponse({"error": type(error).__name__, "text": str(error)}, status_code=500)


async def local_clients() -> list[str]:
    return manager.get_active_connections()


async def clients() -> list[str]:
    return sorted([entry.client_id async for entry in manager.clients()])


async def presence(client_id: str) -> list[str]:
    return [entry.connection_id for entry in await manager.presence(client_id)]


async def broadcast(**arguments: Any) -> dict[str, Any]:
    return asdict(await manager.broadcast(**arguments))


async def statistics() -> dict[str, Any]:
    snapshot = manager.statistics()
    return {"node_id": snapshot.node_id, "connections": snapshot.connections, "counters": snapshot.counters}


async def sample() -> dict[str, Any]:
    """What this node shows to operators, as of now and also without Redis."""
    return asdict(manager._registry.telemetry.own())


async def ready() -> bool:
    return manager.statistics().bus_connected


async def block(seconds: float) -> None:
    """Do what a handler that computes does: nothing else runs meanwhile."""
    time.sleep(seconds)  # noqa: ASYNC251 - blocking is what it is for


async def step_clock(seconds: float) -> None:
    """Have this process read another time of day from now on; the monotonic clock goes on as it was."""
    read, read_ns = time.time, time.time_ns  # noqa: TID251 - the clock that is stepped

    class Stepped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Stepped":
            return cls.fromtimestamp(read() + seconds, tz)

    time.time = lambda: read() + seconds  # noqa: TID251 - the same
    time.time_ns = lambda: read_ns() + int(seconds * 1e9)
    for name, module in tuple(sys.modules.items()):
        if name.startswith("fastapi_websocket_stabilizer") and getattr(module, "datetime", None) is datetime:
            vars(module)["datetime"] = Stepped


async def heard_events() -> list[dict[str, Any]]:
    return events


async def ended() -> list[str]:
    return handlers_ended


async def node_ids() -> list[str]:
    return [node.node_id for node in await manager.nodes()]


async def room_members(room: str) -> list[str]:
    return sorted(member.client_id for member in await manager.room_members(room))


questions: dict[str, Any] = {
    "block": block,
    "broadcast": broadcast,
    "clients": clients,
    "disconnect": manager.disconnect,
    "ended": ended,
    "events": heard_events,
    "is_connected": manager.is_connected,
    "issue_reconnect_token": manager.issue_reconnect_token,
    "join": manager.join,
    "leave": manager.leave,
    "local_clients": local_clients,
    "node_ids": node_ids,
    "presence": presence,
    "ready": ready,
    "room_count": manager.room_count,
    "room_members": room_members,
    "sample": sample,
    "send_to_client": manager.send_to_client,
    "statistics": statistics,
    "step_clock": step_clock,
    "validate_reconnect_token": manager.validate_reconnect_token,
}
