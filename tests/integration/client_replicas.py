"""Replicas in processes for clients of the subprotocol, and one address for all of them."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import httpx2

from fastapi_websocket_stabilizer import History, Mailbox
from tests.integration.cluster import PROJECT
from tests.support import http
from tests.support.forked import ForkedServer
from tests.support.process import free_port
from tests.support.waiting import eventually

HISTORY = {
    "chat": History(),
    "chat:short": History(messages=3),
    "long:": History(messages=100_000, bytes=16_777_216, seconds=3_600),
}
SETTINGS: dict[str, Any] = {
    "history": HISTORY,
    "mailbox": Mailbox(),
    "client_presence": ("lobby",),
    "max_connections_per_client": 1,
}
"""The settings of the replicas, for a manager beside them."""


class Replica:
    """A uvicorn process with the library's WebSocket class. ``settings`` are further ``WS_…`` variables."""

    def __init__(self, url: str, namespace: str, **settings: str) -> None:
        self.port = free_port()
        self._environment = {
            "WS_REDIS_URL": url,
            "WS_NAMESPACE": namespace,
            "WS_HISTORY": json.dumps({prefix: asdict(bounds) for prefix, bounds in HISTORY.items()}),
            "WS_MAILBOX": "{}",
            "WS_CLIENT_PRESENCE": "lobby",
            "WS_LEASE_TTL_S": "1.5",
            "WS_RENEW_INTERVAL_S": "0.4",
            "WS_MAX_CONNECTIONS_PER_CLIENT": "1",
            **settings,
        }
        self.start()

    def start(self) -> None:
        """Start the process, or another one in its place."""
        command = f"uvicorn tests.integration.client_app:app --port {self.port} --log-level warning"
        self.process = ForkedServer(
            [sys.executable, "-m", *command.split()], environment=self._environment, directory=PROJECT
        )

    async def ready(self) -> None:
        async with http.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=5) as asking:

            async def answers() -> bool:
                assert self.process.is_running, self.process.output
                try:
                    return (await asking.get("/readyz")).status_code == 200
                except httpx2.TransportError:
                    return False

            await eventually(answers, timeout_s=60)


class Door:
    """One address for all replicas, as a load balancer gives it: each connection goes to the first that accepts."""

    def __init__(self, *replicas: Replica) -> None:
        self.replicas = list(replicas)
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for replica in self.replicas:
            try:
                there_reader, there = await asyncio.open_connection("127.0.0.1", replica.port)
            except OSError:
                continue
            await asyncio.gather(_copy(reader, there), _copy(there_reader, writer))
            return
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def door(*replicas: Replica) -> AsyncIterator[Door]:
    opened = Door(*replicas)
    async with await asyncio.start_server(opened.serve, "127.0.0.1", 0) as server:
        opened.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        yield opened
