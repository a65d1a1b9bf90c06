"""A board of notes for any number of people, with a page in React.

(cd clients/javascript && npm install && npm run build)             (until the package is published)
(cd examples/react && npm install && npm run build)
uvicorn examples.react.app:app                                      (one process, in memory)
WS_REDIS_URL=redis://localhost uvicorn examples.react.app:app       (as many as you like)

Open http://127.0.0.1:8000/?name=ann, and once more with another name. ``npm run dev`` serves the page on a port of
its own, while you change it.

- The board is the history of its room: each note is a message. The page joins the room when its handlers are there,
  and then gets the newest 500.
- The page adds and removes notes with requests, which the server checks and publishes.
- The page shows who is there. A page that was away for long fetches the board, and later notes wait for that.
"""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from fastapi_websocket_stabilizer import (
    Connection,
    History,
    Identity,
    WebSocketConfig,
    WebSocketConnectionManager,
)

BOARD = "board"
NOTES = 500
PAGE = Path(__file__).parent / "dist"

config = replace(
    WebSocketConfig.from_env(),
    history={BOARD: History(messages=NOTES, seconds=86_400, on_join=NOTES)},
    client_presence=(BOARD,),
    max_connections_per_client=8,  # a person may have several tabs
)
manager = WebSocketConnectionManager(config)
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)  # /livez and /readyz


class Text(BaseModel):
    """What a page asks to add."""

    text: str = Field(min_length=1, max_length=200)


class Note(BaseModel):
    """A note as the board shows it."""

    id: str
    text: str
    by: str


@manager.on_request("add")
async def add(connection: Connection, data: Text) -> Note:
    note = Note(id=secrets.token_hex(8), text=data.text, by=connection.client_id)
    await manager.broadcast({"add": note.model_dump()}, room=BOARD)
    return note


@manager.on_request("remove")
async def remove(connection: Connection, data: str) -> None:
    await manager.broadcast({"remove": data}, room=BOARD)


@manager.on_join
async def may_join(connection: Connection, room: str) -> bool:
    return room == BOARD


@manager.websocket(app, "/ws")
async def identify(name: Annotated[str, Query(min_length=1, max_length=40)]) -> Identity:
    """Believe every name. Use your sign-in for anything that is not an example."""
    return Identity(name)


@app.get("/api/board")
async def board() -> list[Any]:
    """Return the messages of the board, for a page that missed too much."""
    return [entry.message for entry in await manager.history(BOARD, limit=NOTES)]


if PAGE.is_dir():
    app.mount("/", StaticFiles(directory=PAGE, html=True))
