"""Centrifugo: one process a replica, Redis engine, JSON, published to over HTTP."""

import asyncio
import json
import re
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.process import ChildProcess

from ..apps.control import Order, run
from .base import Cluster, MissingError, Stage, System, output_of, variable
from .posting import Pool

BINARY = "CENTRIFUGO"
INSTALL = "go install github.com/centrifugal/centrifugo/v6@latest"
KEY = "benchmarks"
HEADERS = {"X-API-Key": KEY, "Content-Type": "application/json"}
HISTORY = {"history_size": 500, "history_ttl": "120s", "force_recovery": True}
"""The same bounds as the recorded rooms of this library."""
RECORDED = "re"
"""The namespace of channels with history and recovery."""


class CentrifugoCluster(Cluster):
    """Published to from outside, over connections that are kept."""

    def order(self, **order: Any) -> dict[str, float]:
        """Publish what a replica of the other systems would have sent by itself."""
        asyncio.run(_publish(self.ports[0], Order(**order)))
        return {}


class Centrifugo(System):
    """The strongest peer with history and recovery: Go."""

    name = "centrifugo"
    title = "Centrifugo (Go)"
    dialect = "centrifugo"
    everybody_path = "/connection/websocket"
    client_path = "/connection/websocket"
    room_path = "/connection/websocket"
    everybody_channel = "everybody"
    client_channel = "client-{id}"
    room_channel = "{rooms}"
    takes_messages = False
    records = True
    resumes = True
    ready_path = "/health"

    def versions(self) -> dict[str, str]:
        """Ask the binary; one that ``go install`` has built does not know its own version, but Go does."""
        binary = _binary()
        if binary is None:
            raise MissingError(INSTALL)
        command = ["go", "version", "-m"] if shutil.which("go") else []
        return {"Centrifugo": output_of([*command, binary, *["version"] * (not command)], _version)}

    def launch(self, port: int, stage: Stage, stack: ExitStack) -> ChildProcess:
        """Start it with a configuration file, as its documentation recommends for production."""
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-centrifugo-"))
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(_configuration(port, stage)))
        return ChildProcess([str(_binary()), "--config", path])

    def cluster(self, processes: Any, ports: Any) -> Cluster:
        """Return the handle that publishes."""
        return CentrifugoCluster(processes, ports)


def _configuration(port: int, stage: Stage) -> dict[str, Any]:
    open_to_all = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
    return {
        "http_server": {"address": "127.0.0.1", "port": port},
        "engine": {"type": "redis", "redis": {"address": stage.redis_url, "prefix": stage.namespace}},
        "client": {"allow_anonymous_connect_without_token": True},
        "channel": {
            "without_namespace": open_to_all,
            "namespaces": [{"name": RECORDED, **open_to_all, **HISTORY}],
        },
        "http_api": {"key": KEY},
        "health": {"enabled": True},
        "usage_stats": {"disabled": True},
    }


def _binary() -> str | None:
    return variable(BINARY) or shutil.which("centrifugo") or shutil.which("centrifugo", path=_go_binaries())


def _go_binaries() -> str:
    return str(Path.home() / "go" / "bin")


def _version(text: str) -> str:
    found = re.search(r"(?m)(?:^\s*mod\s+\S+\s+|Centrifugo )v?(\d\S+)", text)
    return found[1] if found else "unknown"


async def _publish(port: int, order: Order) -> None:
    async with Pool(port) as pool:
        publisher = _Publisher(pool)

        async def broadcast(message: Any, *, room: str = Centrifugo.everybody_channel) -> None:
            await publisher.publish(room, message)

        async def direct(client_id: str, message: Any) -> None:
            await publisher.publish(Centrifugo.client_channel.format(id=client_id), message)

        await run(order, broadcast, direct)


class _Publisher:
    """Calls of one turn of the event loop leave as one batch, which its documentation names for many commands."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._batch: list[dict[str, Any]] = []
        self._sending: asyncio.Task[None]

    async def publish(self, channel: str, message: Any) -> None:
        """Publish one message; return when it was answered."""
        self._batch.append({"channel": channel, "data": message})
        if len(self._batch) == 1:
            self._sending = asyncio.create_task(self._send())
        await self._sending

    async def _send(self) -> None:
        batch, self._batch = self._batch, []
        body: dict[str, Any] = batch[0]
        if len(batch) > 1:
            body = {"commands": [{"publish": publication} for publication in batch], "parallel": True}
        path = "/api/batch" if len(batch) > 1 else "/api/publish"
        answer = await self._pool.post(path, json.dumps(body).encode(), HEADERS)
        if b'"error"' in answer:
            raise RuntimeError(f"Centrifugo refused a message: {answer[:200]!r}")
