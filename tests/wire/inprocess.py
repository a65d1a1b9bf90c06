"""An application of a test's own on a real uvicorn in this process, and raw clients of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from fastapi import FastAPI
from uvicorn import Config, Server

from fastapi_websocket_stabilizer.uvicorn.protocol import NAME
from tests.support.waiting import eventually
from tests.wire.raw import RawClient, dialled, request


@dataclass
class Served:
    """A running server."""

    server: Server

    @property
    def port(self) -> int:
        port: int = self.server.servers[0].sockets[0].getsockname()[1]
        return port

    @property
    def open_sockets(self) -> int:
        return len(self.server.server_state.connections)

    @asynccontextmanager
    async def connected(self, path: str, extensions: str = "") -> AsyncIterator[RawClient]:
        async with dialled(self.port) as client:
            client.write(request(path, {"Sec-WebSocket-Extensions": extensions}))
            assert (await client.shake_hands()).status == 101
            yield client


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[Served]:
    """Serve ``app`` with the protocol class for the length of the block; it must then end by itself."""
    server = Server(Config(app, port=0, ws=NAME, lifespan="on", log_config=None))
    server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]  # pytest's
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or task.done())
    try:
        yield Served(server)
    finally:
        server.should_exit = True
        async with asyncio.timeout(8):
            await task
