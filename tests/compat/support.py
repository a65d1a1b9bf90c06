"""What the compatibility tests share: mock sockets, the documented applications, a live server."""

import asyncio
import importlib.util
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import uvicorn

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from tests.support.waiting import eventually

APPS = Path(__file__).parent / "apps"
TIMEOUT = 10.0
T = TypeVar("T")


@dataclass
class FakeSocket:
    """Four async methods and nothing else; as a plain dataclass it is unhashable and equal to its like."""

    texts: list[str] = field(default_factory=list)
    jsons: list[Any] = field(default_factory=list)
    binaries: list[bytes] = field(default_factory=list)
    closes: list[tuple[int, str | None]] = field(default_factory=list)

    async def send_text(self, data: str) -> None:
        self.texts.append(data)

    async def send_json(self, data: Any) -> None:
        self.jsons.append(data)

    async def send_bytes(self, data: bytes) -> None:
        self.binaries.append(data)

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        self.closes.append((code, reason))

    @property
    def close_codes(self) -> list[int]:
        return [code for code, _ in self.closes]


@dataclass
class BrokenSocket(FakeSocket):
    """Every send raises, at once or (``late``) after it has given up the loop."""

    late: bool = False

    async def _fail(self) -> None:
        for _ in range(3 if self.late else 0):
            await asyncio.sleep(0)
        raise RuntimeError("gone")

    async def send_text(self, data: str) -> None:
        await self._fail()

    async def send_json(self, data: Any) -> None:
        await self._fail()

    async def send_bytes(self, data: bytes) -> None:
        await self._fail()


class UnclosableSocket(FakeSocket):
    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        await super().close(code, reason)
        raise RuntimeError("already closed")


@dataclass
class GatedSocket(FakeSocket):
    """Sends (``stalls="send"``) or closes (``stalls="close"``) wait until ``gate`` is set."""

    stalls: str = "send"
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    async def _pass(self, what: str) -> None:
        if self.stalls == what:
            self.waiting += 1
            try:
                await self.gate.wait()
            finally:
                self.waiting -= 1

    async def send_text(self, data: str) -> None:
        await self._pass("send")
        await super().send_text(data)

    async def send_json(self, data: Any) -> None:
        await self._pass("send")
        await super().send_json(data)

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        await self._pass("close")
        await super().close(code, reason)


@dataclass
class Gauge:
    """How many were inside at once, at most."""

    now: int = 0
    peak: int = 0

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            await asyncio.sleep(0.005)
            yield
        finally:
            self.now -= 1


@dataclass
class MeasuredSocket(FakeSocket):
    """Takes a moment to send and to close, and reports to gauges that several sockets share."""

    sending: Gauge = field(default_factory=Gauge)
    closing: Gauge = field(default_factory=Gauge)

    async def send_text(self, data: str) -> None:
        async with self.sending.inside():
            await super().send_text(data)

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        async with self.closing.inside():
            await super().close(code, reason)


@dataclass
class AnsweringSocket(FakeSocket):
    """A client that answers each ping through ``handle_pong``, a moment after it got it."""

    client_id: str = ""
    manager: WebSocketConnectionManager | None = None
    answers: list["asyncio.Task[None]"] = field(default_factory=list)

    async def send_json(self, data: Any) -> None:
        await super().send_json(data)
        if self.manager is not None:
            self.answers.append(asyncio.create_task(self.manager.handle_pong(self.client_id)))


async def register(
    manager: WebSocketConnectionManager, client_id: str, mock: Any, metadata: dict[str, Any] | None = None
) -> None:
    """Connect a mock, which no type checker takes for a WebSocket."""
    await manager.connect(client_id, mock, metadata)


async def register_all(manager: WebSocketConnectionManager, **sockets: FakeSocket) -> None:
    for client_id, mock in sockets.items():
        await register(manager, client_id, mock)


def load_app(name: str) -> ModuleType:
    """Import ``apps/<name>.py`` afresh, as a new process would: its manager is a new one."""
    spec = importlib.util.spec_from_file_location(f"compat_app_{name}", APPS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _ThreadedServer(uvicorn.Server):
    """A uvicorn that leaves the signal handlers of the test process alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class LiveServer:
    """A running uvicorn with an event loop and a thread of its own."""

    def __init__(self, app: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()
        self.ws_url = f"ws://{host}:{port}"
        self.http_url = f"http://{host}:{port}"
        config = uvicorn.Config(app, lifespan="on", ws="websockets-sansio", log_config=None)
        self._server = _ThreadedServer(config)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._listener])

    async def start(self) -> None:
        self._thread.start()
        await eventually(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started, "the application did not start"

    async def stop(self) -> None:
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join, TIMEOUT)
        assert not self._thread.is_alive(), "the server did not stop"
        self._listener.close()

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the server's loop, as the application's own code would."""
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[LiveServer]:
    server = LiveServer(app)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
