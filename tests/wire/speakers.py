"""A client that speaks ``stabilizer.v1`` in single frames."""

import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.wire.raw import RawClient, text
from tests.wire.servers import Server

SUBPROTOCOL = "stabilizer.v1"


class Speaker:
    """A client of ``stabilizer.v1`` behind its first frames.

    Attributes:
        hi: The content of the first one.
    """

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.hi: dict[str, Any] = {}

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

    @property
    def cursor(self) -> str:
        """The item of the next handshake that continues from here, without positions."""
        cursor = json.dumps({"s": self.hi["sid"], "t": self.hi["t"], "at": {}})
        return "stabilizer.v1.resume." + urlsafe_b64encode(cursor.encode()).decode().rstrip("=")


@asynccontextmanager
async def speaking(server: Server, path: str, *items: str) -> AsyncIterator[Speaker]:
    """Open a socket that offers the subprotocol, and further items of the handshake."""
    offer = {"Sec-WebSocket-Protocol": ", ".join((SUBPROTOCOL, *items))}
    async with server.connected(path, offer) as client:
        speaker = Speaker(client)
        speaker.hi = (await speaker.next())["hi"]
        assert await speaker.next() == {"live": 0}
        yield speaker
