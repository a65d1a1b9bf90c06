"""The application of the replicas: it sends numbered messages on request, and writes presence events to a file."""

import asyncio
import json
import os
import random
import time
from collections import defaultdict
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.responses import JSONResponse

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    Connection,
    Mailbox,
    PresenceEvent,
    WebSocketConfig,
    WebSocketConnectionManager,
    WebSocketStabilizerError,
)
from fastapi_websocket_stabilizer import (
    History as StoredHistory,
)
from tests.chaos import seeded
from tests.chaos.history import ALONE, EVERYBODY, Bounds, mailbox_of, message
from tests.chaos.schedule import BRIEF, KEPT, LOGGED, LOGS, ROOMS

DRAIN_OVER_S = 1.5
"""Seconds of a drain. Together with uvicorn's time-out it must be shorter than that of ``ChildProcess.stop``."""

LONGEST_HOOK_S = 0.02
LOG_BYTES = 32 * 1024 * 1024
"""More than the messages of a log take, so that their number and age bound it."""

if seeded.SOWN in os.environ:
    seeded.sow(os.environ[seeded.SOWN])


def kept(bounds: Bounds) -> StoredHistory:
    return StoredHistory(messages=bounds.messages, bytes=LOG_BYTES, seconds=int(bounds.seconds))


name = os.environ["REPLICA_NAME"]
manager = WebSocketConnectionManager(
    WebSocketConfig(
        redis_url=os.environ["REPLICA_REDIS_URL"],
        namespace=os.environ["REPLICA_NAMESPACE"],
        node_name=name,
        lease_ttl_s=float(os.environ["REPLICA_LEASE_S"]),
        renew_interval_s=float(os.environ["REPLICA_BEAT_S"]),
        redis_timeout_s=float(os.environ["REPLICA_TIMEOUT_S"]),
        drain_over_s=DRAIN_OVER_S,
        history={KEPT: kept(LOGS[KEPT]), BRIEF: kept(LOGS[BRIEF])},
        history_for_all=kept(LOGS[KEPT]),
        mailbox=Mailbox(messages=LOGS[KEPT].messages, seconds=int(LOGS[KEPT].seconds)),
        log_level="ERROR",
    )
)
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)
numbers = count(1)
held: set[Connection] = set()
# Line-buffered, so that a killed replica loses no reported event.
events = Path(os.environ["CHAOS_EVENTS"]).open("a", buffering=1)  # noqa: SIM115 - for as long as the process lives


class UnknownOutcomeError(Exception):
    """The call for this message failed, so it may arrive late or never."""


@manager.on_presence
async def note(event: PresenceEvent) -> None:
    at_s = time.monotonic()  # the same clock in all processes of a machine
    line = [name, event.event_id, event.kind, event.client_id, event.connection_id, event.room or "", at_s]
    events.write(json.dumps(line) + "\n")
    await asyncio.sleep(random.uniform(0, LONGEST_HOOK_S))


@app.websocket("/ws/{client_id}")
async def serve(websocket: WebSocket, client_id: str, room: list[str] = Query(default=[])) -> None:  # noqa: B008 - FastAPI's way
    await websocket.accept()
    async with manager.connection(websocket, client_id, rooms=room) as connection:
        held.add(connection)
        await connection.send("registered")
        async for _ in connection:
            pass
    held.discard(connection)


@app.websocket("/v1/{client_id}")
async def follow(websocket: WebSocket, client_id: str, room: list[str] = Query(default=[])) -> None:  # noqa: B008 - FastAPI's way
    async with manager.connection(websocket, client_id, rooms=room) as connection:
        held.add(connection)
        async for _ in connection:
            pass
    held.discard(connection)


@app.websocket("/hasty/{client_id}")
async def hurry(websocket: WebSocket, client_id: str, within_s: float) -> None:
    await websocket.accept()
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await manager.connect(client_id, websocket)
    await websocket.close()
    await manager.disconnect(client_id)


async def say(kind: str, target: str, size: int) -> str:
    text = message(kind, target, name, next(numbers))  # no await up to the call: numbers have its order
    padded = text + "x" * size
    try:
        if kind == "direct":
            await manager.send_to_client(target, padded)
        else:
            await broadcast(padded, target if kind == "room" else None, text)
    except BackendUnavailableError as error:
        raise UnknownOutcomeError(text) from error
    return text


async def store(kind: str, target: str, excluded: str, size: int) -> tuple[str, dict[str, int]]:
    """Send a stored message, padded to ``size``, and return it with its id in each log."""
    text = message(kind, target, name, next(numbers), excluded)
    rooms = target.split() or None
    try:
        if kind == "box":
            sent = await manager.send_to_client(target, text.ljust(size, "x"), store=True)
            return text, {mailbox_of(target): sent.id}
        result = await manager.broadcast(text.ljust(size, "x"), room=rooms, exclude_client=excluded or None)
    except BackendUnavailableError as error:
        raise UnknownOutcomeError(text) from error
    return text, {log or EVERYBODY: id_ for log, id_ in result.ids.items()}


async def broadcast(padded: str, room: str | None, text: str) -> None:
    """Broadcast, and record it if messages were delivered without Redis during the call."""
    before = manager.statistics().counters["degraded"]
    try:
        await manager.broadcast(padded, room=room, store=False)
    finally:
        if manager.statistics().counters["degraded"] != before:
            events.write(json.dumps([name, text, ALONE, "", "", "", 0.0]) + "\n")


async def join(client_id: str, room: str) -> bool:
    await manager.join(client_id, room)
    return True


async def leave(client_id: str, room: str) -> bool:
    await manager.leave(client_id, room)
    return True


async def snapshot() -> dict[str, Any]:
    clients = [(entry.client_id, entry.node) async for entry in manager.clients()]
    return {"clients": clients, "nodes": {node.node_id: node.name for node in await manager.nodes()}}


async def members(room: str) -> list[str]:
    found, cursor, is_over = [], None, False
    while not is_over:
        page = await manager.room_members(room, limit=500, cursor=cursor)
        found += [member.client_id for member in page.members]
        cursor, is_over = page.cursor, page.cursor is None
    return found


async def rooms() -> dict[str, Any]:
    local: dict[str, list[str]] = defaultdict(list)
    for connection in (connection for connection in held if connection.ended is None):
        local[connection.client_id] += sorted(connection.rooms)
    return {"local": local, "rooms": {room: await members(room) for room in ROOMS + LOGGED}}


calls: dict[str, Any] = {
    "say": say,
    "store": store,
    "join": join,
    "leave": leave,
    "snapshot": snapshot,
    "rooms": rooms,
}


@app.post("/call/{what}")
async def call(what: str, request: Request) -> JSONResponse:
    try:
        return JSONResponse(await calls[what](**await request.json()))
    except UnknownOutcomeError as error:
        return JSONResponse(str(error), status_code=503)
    except WebSocketStabilizerError as error:
        return JSONResponse(type(error).__name__, status_code=500)
    except Exception as error:  # noqa: BLE001 - reported by the checker
        return JSONResponse(f"unnamed {error!r}", status_code=500)
