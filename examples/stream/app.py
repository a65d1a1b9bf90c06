"""A language model answers a page. The answer survives a killed replica and a reload.

uvicorn examples.stream.app:app                                             (one process, in memory)
WS_REDIS_URL=redis://localhost uvicorn examples.stream.app:app --workers 3  (kill -9 the one that the page names)

Open http://127.0.0.1:8000, and ask. In the middle of the answer kill the process that the page names, or reload the
page. The text goes on where it was, and nothing of it is doubled.

- Each part of the answer is stored in the history of the room, so a page that comes back gets what it missed.
- The page asks with a confirmed message. If the replica is killed, the page sends it to the next one.
- That one reads in the history how far the answer has come, and lets the model go on from there.
- ``page.html`` keeps the text and the client's positions in ``sessionStorage``, for a reload.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from fastapi_websocket_stabilizer import (
    Connection,
    History,
    Identity,
    WebSocketConfig,
    WebSocketConnectionManager,
)

TOKENS_PER_SECOND = float(os.environ.get("TOKENS_PER_SECOND", "30"))
SENTENCES = 60
QUIET_S = 2.0
"""An answer that has not grown for so long has lost its replica. Longer than any pause of the model."""

history = {"chat:": History(messages=1_000, seconds=600)}
manager = WebSocketConnectionManager(replace(WebSocketConfig.from_env(), history=history))
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)  # /livez, /readyz and /stabilizer/client.js


class Question(BaseModel):
    """A message of a page. It is sent again until it was answered, so its id names it."""

    id: str = Field(min_length=1, max_length=64)
    text: str = Field(min_length=1, max_length=200)


@dataclass
class Answer:
    """An answer as the history has it. ``page.html`` reads its messages in the same way.

    Each replica that gives the answer does so in a stream of its own, which names the length of the text before it.
    The newest stream counts. So a replica that was only slow, and not dead, doubles nothing.
    """

    stream: str = ""
    text: str = ""
    is_done: bool = False

    def receive(self, message: dict[str, Any], question_id: str) -> None:
        """Add one message of the room, if it belongs to this answer."""
        about = message.get("metadata")
        if about is not None and about["question"] == question_id:
            self.stream, self.text = message["stream"], self.text[: about["begin"]]
        if message["stream"] == self.stream:
            self.text += message["text"]
            self.is_done = message.get("end", False) and "error" not in message


async def read(room: str, question_id: str) -> Answer:
    answer = Answer()
    for entry in await manager.history(room, limit=1_000):
        answer.receive(entry.message, question_id)
    return answer


async def model(question: str, begin: str) -> AsyncIterator[str]:
    """Yield the rest of an answer in tokens. A real model is given ``begin`` as the beginning of its answer."""
    whole = " ".join(f"{number}. {question}" for number in range(1, SENTENCES + 1))
    for token in re.findall(r"\S+\s*", whole[len(begin) :]):
        await asyncio.sleep(1 / TOKENS_PER_SECOND)
        yield token


async def answer(connection: Connection, question: Question) -> None:
    """Answer a question to the end. It is called again for a question whose replica was killed."""
    (room,) = connection.rooms
    known = await read(room, question.id)
    while known.stream and not known.is_done:  # another replica has begun: wait until it ends, or has gone
        await asyncio.sleep(QUIET_S)
        before, known = known, await read(room, question.id)
        if known == before:
            break
    if known.is_done:
        return
    about = {"question": question.id, "begin": len(known.text), "process": os.getpid()}
    async with manager.stream(room, metadata=about) as stream:
        async for token in model(question.text, known.text):
            await stream.write(token)


@manager.websocket(app, "/ws", on_message=answer)
async def identify(chat: Annotated[str, Query(min_length=16, max_length=64)]) -> Identity:
    """A chat belongs to those who have its random name. Use your sign-in for anything that is not an example."""
    return Identity(chat, rooms=[f"chat:{chat}"])


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))
