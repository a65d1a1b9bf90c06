"""A replica for the clients: rooms, requests, confirmed messages, and settings from ``WS_…`` variables."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import HTMLResponse

from fastapi_websocket_stabilizer import Connection, Identity, WebSocketConfig, WebSocketConnectionManager

manager = WebSocketConnectionManager(WebSocketConfig.from_env())
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)
asked: list[str] = []
"""Requests that began and did not end."""


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    """Return a page that uses the client without a build step, and shows tests what it sees."""
    return """<!doctype html><title>client</title><script type="module">
import { connect } from "/stabilizer/client.js";
const query = new URLSearchParams(location.search);
const client = connect(`/ws?${query}`, query.has("stored") ? { storage: sessionStorage } : {});
const seen = window.seen = JSON.parse(sessionStorage.getItem("seen") ?? "[]");
const note = (event) => {
  seen.push(event);
  sessionStorage.setItem("seen", JSON.stringify(seen));
};
window.statuses = [];
client.on("message", ({ data }) => note(data instanceof ArrayBuffer ? [...new Uint8Array(data)] : data));
client.on("lost", ({ log, code }) => note({ lost: log, code }));
client.on("status", ({ to }) => statuses.push(to));
client.onRequest("confirm", async ({ text }) => text.length);
window.client = client;
</script>"""


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
    await connection.send(message)


@manager.websocket(app, "/ws", on_message=echo)
async def identify(name: str, room: Annotated[list[str], Query()] = []) -> Identity:  # noqa: B006 - FastAPI's way
    return Identity(name, rooms=room)
