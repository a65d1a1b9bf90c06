"""Three servers of one system: pages connect to the first two, and the third one sends."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.support.process import ChildProcess, free_port

from ..systems.base import PROJECT, MissingError, get, post, variable
from .door import Door

READY_S = 60.0
HISTORY_MESSAGES = 2_000
"""More than are sent in the longest fault, and as many in each system."""
STOP_S = 60.0
"""Time for a graceful stop, then the process is killed."""


class Replicas(ABC):
    """The servers and the door of one system."""

    ready_path: ClassVar[str] = "/control"

    def __init__(self, redis_url: str, modules: Path) -> None:
        self.redis_url, self.modules, self.namespace = redis_url, modules, f"browsers-{secrets.token_hex(4)}"
        self.ports = [free_port() for _ in range(3)]
        self.processes: list[ChildProcess] = []
        self._stack = AsyncExitStack()

    @abstractmethod
    def launch(self, port: int) -> ChildProcess:
        """Start one server."""

    def publish(self, number: int) -> None:
        """Send one message by the server that no page is connected to."""
        post(self.ports[2], "/control", json.dumps({"n": number}).encode())

    @property
    def environment(self) -> dict[str, str]:
        """What a server is told, without its port."""
        return {
            "BENCHMARKS_REDIS_URL": self.redis_url,
            "BENCHMARKS_NAMESPACE": self.namespace,
            "BENCHMARKS_NODE_MODULES": str(self.modules),
        }

    async def __aenter__(self) -> Self:
        self.processes = [self.launch(port) for port in self.ports]
        self.door = await self._stack.enter_async_context(Door(self.ports[:2]))
        for index in range(3):
            await self.ready(index)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        for process in self.processes:
            process.kill()

    async def ready(self, index: int) -> None:
        """Wait until a server answers.

        Raises:
            RuntimeError: it did not, or has ended; has its output.
        """
        deadline = time.monotonic() + READY_S
        while True:
            with suppress(OSError, RuntimeError):
                await asyncio.to_thread(get, self.ports[index], self.ready_path)
                return
            if not self.processes[index].is_running or time.monotonic() > deadline:
                raise RuntimeError(f"{type(self).__name__} did not start:\n{self.processes[index].output}")
            await asyncio.sleep(0.1)

    def kill(self, index: int) -> None:
        """Kill a server, and start it again on the same port."""
        self.processes[index].kill()
        self.processes[index] = self.launch(self.ports[index])

    async def replace(self, index: int) -> None:
        """End a server by SIGTERM as a deploy does, and start its successor when it has gone."""
        await asyncio.to_thread(_stop, self.processes[index])
        self.processes[index] = self.launch(self.ports[index])
        await self.ready(index)


def _stop(process: ChildProcess) -> None:
    os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while process.is_running and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()


class Ours(Replicas):
    """This library under uvicorn."""

    ready_path = "/readyz"

    def launch(self, port: int) -> ChildProcess:
        """Start uvicorn."""
        application = "benchmarks.browsers.servers.ours:app"
        options = ["--port", str(port), "--log-level", "warning"]
        command = [sys.executable, "-m", "uvicorn", application, *options]
        return ChildProcess(command, environment=self.environment, directory=PROJECT)


class NodeServers(Replicas):
    """A variant of ``servers/node.mjs``."""

    variant: ClassVar[str]

    def launch(self, port: int) -> ChildProcess:
        """Start Node."""
        script = Path(__file__).parent / "servers" / "node.mjs"
        told = {"BENCHMARKS_VARIANT": self.variant, "BENCHMARKS_PORT": str(port), **self.environment}
        return ChildProcess(["node", script], environment=told)


class Plain(NodeServers):
    """A broadcaster."""

    variant = "plain"


class Phoenix(NodeServers):
    """A stand-in for a Phoenix endpoint."""

    variant = "phoenix"


class SocketIo(NodeServers):
    """socket.io with connection state recovery."""

    variant = "socketio"


class Centrifugo(Replicas):
    """Centrifugo with history, on Redis."""

    ready_path = "/health"
    KEY = "browsers"

    @staticmethod
    def binary() -> str:
        """Return the path of the binary.

        Raises:
            MissingError: there is none.
        """
        found = variable("CENTRIFUGO") or shutil.which("centrifugo")
        if found is None:
            raise MissingError("go install github.com/centrifugal/centrifugo/v6@latest; then set CENTRIFUGO")
        return found

    def launch(self, port: int) -> ChildProcess:
        """Start it, with its settings in the environment."""
        return ChildProcess(
            [self.binary()], environment={f"CENTRIFUGO_{k}": v for k, v in self._settings(port).items()}
        )

    def publish(self, number: int) -> None:
        """Send one message by the HTTP API."""
        body = json.dumps({"channel": "re:room", "data": {"n": number}}).encode()
        answer = post(self.ports[2], f"/api/publish?api_key={self.KEY}", body)
        if '"error"' in answer:
            raise RuntimeError(answer)

    def _settings(self, port: int) -> dict[str, str]:
        allowed = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
        history = {"history_size": HISTORY_MESSAGES, "history_ttl": "120s", "force_recovery": True}
        namespaces: list[dict[str, Any]] = [{"name": "re", **allowed, **history}]
        return {
            "HTTP_SERVER_ADDRESS": "127.0.0.1",
            "HTTP_SERVER_PORT": str(port),
            "ENGINE_TYPE": "redis",
            "ENGINE_REDIS_ADDRESS": self.redis_url,
            "ENGINE_REDIS_PREFIX": self.namespace,
            "CLIENT_ALLOW_ANONYMOUS_CONNECT_WITHOUT_TOKEN": "true",
            "CLIENT_ALLOWED_ORIGINS": "*",
            "CHANNEL_NAMESPACES": json.dumps(namespaces),
            "HTTP_API_KEY": self.KEY,
            "HEALTH_ENABLED": "true",
            "USAGE_STATS_DISABLED": "true",
        }


SYSTEMS: dict[str, type[Replicas]] = {
    "ours": Ours,
    "centrifuge": Centrifugo,
    "socketio": SocketIo,
    "phoenix": Phoenix,
    "partysocket": Plain,
    "reconnecting": Plain,
}
