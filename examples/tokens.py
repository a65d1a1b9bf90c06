"""A language model answers in a room, word by word; each reader gets at most 20 messages a second.

uvicorn examples.tokens:app
WS_HISTORY='{"chat:": {}}' uvicorn examples.tokens:app     (a reader who was away for a moment misses nothing)
python -m websockets "ws://127.0.0.1:8000/ws/chat:7?name=ada"
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import FastAPI, Query

from fastapi_websocket_stabilizer import Connection, Identity, WebSocketConfig, WebSocketConnectionManager

manager = WebSocketConnectionManager(WebSocketConfig.from_env())
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)  # /livez and /readyz

SECONDS_PER_TOKEN = 0.005


async def model(question: str) -> AsyncIterator[str]:
    """Yield an answer in tokens, as the client library of a real model does."""
    for number in range(1, 201):
        await asyncio.sleep(SECONDS_PER_TOKEN)
        yield f"{number}. {question} "


async def answer(connection: Connection, question: str) -> None:
    """Send {"stream": id, "seq": 0, "text": "", "metadata": …}, then parts, the last one with "end"."""
    (room,) = connection.rooms
    async with manager.stream(room, metadata={"to": connection.client_id}) as stream:
        async for token in model(question):
            await stream.write(token)


@manager.websocket(app, "/ws/{room}", on_message=answer)
async def enter(room: str, name: Annotated[str, Query(min_length=1)]) -> Identity:
    return Identity(name, rooms=[room])
