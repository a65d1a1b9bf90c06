"""A server on a real socket whose frames a test writes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

V1 = Subprotocol("stabilizer.v1")
PATIENCE_S = 10.0


class Peer:
    """The server's end of a connection."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection
        assert connection.request is not None
        self.headers = connection.request.headers
        self.items = self.headers.get("Sec-WebSocket-Protocol", "").split(", ")

    async def send(self, *frames: Any) -> None:
        for frame in frames:
            await self._connection.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def greet(self, sid: str = "s1", *, rooms: tuple[str, ...] = ("a",), **more: Any) -> None:
        """Send ``hi`` and the end of a replay without entries."""
        at = more.pop("at", dict.fromkeys(rooms, 0))
        hi = {
            "v": 1,
            "id": "ann",
            "sid": sid,
            "t": 1,
            "ping": 25,
            "pong": False,
            "at": at,
            "all": 0,
            "box": 0,
        }
        await self.send({"hi": hi | more}, {"live": 0})

    async def receive(self) -> Any:
        """Return the next frame of the client."""
        async with asyncio.timeout(PATIENCE_S):
            frame = await self._connection.recv()
        return json.loads(frame) if isinstance(frame, str) else frame

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._connection.close(code, reason)

    def abort(self) -> None:
        """Cut the connection without a close frame."""
        self._connection.transport.abort()

    async def ended(self) -> int | None:
        """Wait until the client has closed the connection, and return its code."""
        async with asyncio.timeout(PATIENCE_S):
            await self._connection.wait_closed()
        return self._connection.close_code


class Scripted:
    """Hands each connection to the test."""

    def __init__(self) -> None:
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self.url = ""

    async def peer(self) -> Peer:
        """Return the next connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._peers.get()

    async def greeted(self, sid: str = "s1", **hi: Any) -> Peer:
        """Return the next connection, after ``hi``."""
        peer = await self.peer()
        await peer.greet(sid, **hi)
        return peer

    async def serve(self, connection: ServerConnection) -> None:
        self._peers.put_nowait(Peer(connection))
        await connection.wait_closed()


@asynccontextmanager
async def scripted(*, subprotocol: str | None = V1, ssl: SSLContext | None = None) -> AsyncIterator[Scripted]:
    """Run a server that selects a subprotocol."""
    server = Scripted()
    selected = None if subprotocol is None else Subprotocol(subprotocol)
    async with serve(
        server.serve,
        "127.0.0.1",
        0,
        ssl=ssl,
        select_subprotocol=lambda *_: selected,
        ping_interval=None,
        close_timeout=1,
    ) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        server.url = f"{'ws' if ssl is None else 'wss'}://localhost:{port}/ws"
        yield server
