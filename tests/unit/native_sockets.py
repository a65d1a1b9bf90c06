"""A server's native socket as unit tests need it: frames are written down, and the peer reads when it is told to."""

import asyncio
from typing import Any, cast

from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket, WebSocketState

from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.local.lifecycle import Limits
from fastapi_websocket_stabilizer.local.native import EXTENSION
from fastapi_websocket_stabilizer.local.transport import Events, Observer
from fastapi_websocket_stabilizer.uvicorn.coalescing import CoalescedWrites, TickFlusher
from tests.unit.fakes import Node, connect


class Wire:
    """The transport: what was written, and what of it the peer has not taken."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.buffered = 0

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self.buffered


class FakeNativeSocket(CoalescedWrites):
    """A ``NativeSocket`` whose peer stalls and reads when the test says so."""

    def __init__(self, window_bits: int = 0) -> None:
        self.wire = Wire()
        self.transport = cast("asyncio.Transport", self.wire)
        self.flusher = TickFlusher.of(asyncio.get_running_loop())
        self.window_bits = window_bits
        self.is_open = self.is_reading = True
        self.is_paused = False
        self.told: list[Any] = []
        self.inbox: Events | None = None
        self._observer: Observer | None = None
        self._resumed = asyncio.Event()

    @property
    def writes(self) -> list[bytes]:
        """Everything up to now, as if this turn of the event loop had ended."""
        self.flush()
        return self.wire.writes

    def stall(self, buffered: int = 100_000) -> None:
        self.is_paused, self.wire.buffered = True, buffered
        self._resumed.clear()
        if self._observer is not None:
            self._observer.paused()

    def read_all(self) -> None:
        self.is_paused, self.wire.buffered = False, 0
        self._resumed.set()

    def attach(self, observer: Observer, limits: Limits) -> None:
        self._observer = observer

    def detach(self, observer: Observer) -> None:
        self.told.append("detach")

    def ping(self) -> None:
        self.told.append("ping")

    def hang_up(self, code: int, reason: str, timeout_s: float) -> None:
        self.is_open = False
        self.told.append(("hang up", code, reason))

    def abort(self) -> None:
        self.is_open = False
        self.told.append("abort")

    async def drain(self) -> None:
        if self.is_paused:
            await self._resumed.wait()

    def park(self, inbox: Events) -> None:
        self.inbox = inbox

    def resume_reading(self) -> None:
        self.is_reading = True


async def _silent() -> AsgiEvent:
    await asyncio.Event().wait()
    raise AssertionError


async def _refuse(event: AsgiEvent) -> None:
    raise AssertionError(f"went out as an ASGI event: {event}")


def websocket_on(native: FakeNativeSocket) -> WebSocket:
    """Return an accepted socket whose server offers ``line``."""
    websocket = WebSocket({"type": "websocket", "extensions": {EXTENSION: native}}, _silent, _refuse)
    websocket.client_state = websocket.application_state = WebSocketState.CONNECTED
    return websocket


def connect_native(
    client_id: str = "alice", native: FakeNativeSocket | None = None, node: Node | None = None
) -> Connection:
    """Return a connection on a native socket."""
    return connect(client_id, websocket_on(native or FakeNativeSocket()), node)
