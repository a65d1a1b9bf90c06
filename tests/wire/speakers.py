"""A client that speaks ``stabilizer.v1`` in single frames."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.wire.raw import RawClient, text
from tests.wire.servers import Server

SUBPROTOCOL = {"Sec-WebSocket-Protocol": "stabilizer.v1"}


class Speaker:
    """A client of ``stabilizer.v1`` behind its first frames."""

    def __init__(self, client: RawClient) -> None:
        self.client = client

    def say(self, *frames: Any) -> None:
        """Send frames in one piece."""
        self.client.send(*(text(json.dumps(frame)) for frame in frames))

    async def next(self) -> Any:
        """Return the next frame that is no sign of life."""
        while True:
            frame = json.loads(await self.client.message())
            if frame != {} and "t" not in frame:
                return frame

    async def ask(self, number: int, name: str, data: Any = None) -> Any:
        self.say({"q": number, "m": name, "d": data})
        return await self.next()


@asynccontextmanager
async def speaking(server: Server, path: str) -> AsyncIterator[Speaker]:
    async with server.connected(path, SUBPROTOCOL) as client:
        speaker = Speaker(client)
        assert "hi" in await speaker.next()
        assert await speaker.next() == {"live": 0}
        yield speaker
