"""A replica for the clients: rooms, requests, confirmed messages, and settings from ``WS_…`` variables."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.responses import FileResponse, HTMLResponse

from fastapi_websocket_stabilizer import (
    Connection,
    Identity,
    WebSocketConfig,
    WebSocketConnectionManager,
    offered_token,
)

manager = WebSocketConnectionManager(WebSocketConfig.from_env())
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)
asked: list[str] = []
"""Requests that began and did not end."""


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    """Return a page that uses the client without a build step, and shows tests what it sees.

    With ``stored`` in the query, the session storage keeps the positions, and with ``stored=all`` what was seen.
    ``lasts_s`` is the life of its tokens in seconds. A test may have it send another one, as ``window.token``.
    """
    return """<!doctype html><title>client</title><script type="module">
import { connect } from "/stabilizer/client.js";
import { follow } from "/follow.mjs";
const query = new URLSearchParams(location.search), lasts = query.get("lasts_s");
const fetchToken = async () => window.token ?? (await fetch(`/token?lasts_s=${lasts}`)).json();
const client = follow(connect, `${lasts ? "/private" : "/ws"}?${query}`, {
  stored: query.get("stored"), ...lasts ? { auth: () => (fetched.push(1), fetchToken()) } : {},
});
const fetched = window.fetched = [];
window.statuses = [];
client.on("status", ({ to }) => statuses.push(to));
client.onRequest("confirm", async ({ text }) => text.length);
</script>"""


@app.get("/follow.mjs")
async def script() -> FileResponse:
    return FileResponse(Path(__file__).with_name("follow.mjs"), media_type="text/javascript")


@app.get("/elsewhere", response_class=HTMLResponse)
async def elsewhere() -> str:
    return "<!doctype html><title>elsewhere</title>"


@app.get("/token")
async def issue(lasts_s: float) -> str:
    """Return a token, which is the time of its expiry."""
    return (datetime.now(UTC) + timedelta(seconds=lasts_s)).isoformat()


@manager.on_request("double")
async def double(connection: Connection, data: int) -> int:
    if data == 0:
        raise HTTPException(409, "not zero")
    return 2 * data


@manager.on_request("wait")
async def wait(connection: Connection, data: str) -> None:
    asked.append(data)
    try:
        await asyncio.Event().wait()
    finally:
        asked.remove(data)


@manager.on_request("asked")
async def list_asked(connection: Connection, data: None) -> list[str]:
    return asked


@manager.on_join
async def may_join(connection: Connection, room: str) -> bool:
    return room.startswith("open")


async def echo(connection: Connection, message: Any) -> None:
    """Send a message back, or store one that ``follow.mjs`` has sent for a room."""
    if isinstance(message, str) and message.startswith('{"told":'):
        await manager.broadcast(json.loads(message), room=json.loads(message)["room"])
    else:
        await connection.send(message)


@manager.websocket(app, "/ws", on_message=echo)
async def identify(name: str, room: Annotated[list[str], Query()] = []) -> Identity:  # noqa: B006 - FastAPI's way
    return Identity(name, rooms=room)


@manager.websocket(app, "/private", on_message=echo)
async def identify_by_token(
    name: str,
    token: Annotated[str | None, Depends(offered_token)],
    room: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI's way
) -> Identity:
    expires_at = datetime.fromisoformat(token or "1970-01-01T00:00:00+00:00")
    if expires_at <= datetime.now(UTC):
        raise HTTPException(401, "the token has expired")
    return Identity(name, rooms=room, expires_at=expires_at)
