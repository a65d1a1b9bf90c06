"""A server's native socket as unit tests need it: frames are written down, and the peer reads when it is told to.

``tests/wire/test_native_socket.py`` checks that it keeps the contract as the class for uvicorn does.
"""

import asyncio
import struct
from collections import deque
from typing import cast

from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket, WebSocketState

from fastapi_websocket_stabilizer.close_codes import ABNORMAL
from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.local.lifecycle import Limits
from fastapi_websocket_stabilizer.local.native import EXTENSION
from fastapi_websocket_stabilizer.local.transport import Events, Observer
from fastapi_websocket_stabilizer.uvicorn.coalescing import CoalescedWrites, TickFlusher
from fastapi_websocket_stabilizer.wire.frames import PING_FRAME, frame
from tests.unit.fakes import Node, connect

CLOSE = 0x8


def close_frame(code: int, reason: str) -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


class Wire:
    """The transport: what was written, and what of it the peer has not taken. It raises once it is closed."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.buffered = 0
        self.is_closed = False

    def write(self, data: bytes) -> None:
        if self.is_closed:
            raise RuntimeError("the handler is closed")
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return self.buffered


class FakeNativeSocket(CoalescedWrites):
    """An accepted ``NativeSocket``. Its peer stalls, reads, sends and leaves when the test says so.

    It has no parser: nothing is refused or deferred, and no peer answers a close frame by itself.
    """

    def __init__(self, window_bits: int = 0) -> None:
        self.wire = Wire()
        self.transport = cast("asyncio.Transport", self.wire)
        self.flusher = TickFlusher.of(asyncio.get_running_loop())
        self.window_bits = window_bits
        self.is_paused = False
        self.was_aborted = False
        self._is_full = False  # the application must first take an event
        self._is_closing = self._is_lost = self._is_parked = False
        self._observers: tuple[Observer, ...] = ()
        self._unread: deque[AsgiEvent] = deque()
        self._events: Events = asyncio.Queue()
        self._resumed = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None

    # The test

    @property
    def writes(self) -> list[bytes]:
        """Everything up to now, as if this turn of the event loop had ended."""
        self.flush()
        return self.wire.writes

    def stall(self, buffered: int = 100_000) -> None:
        """Read no more; so much is waiting."""
        self.is_paused, self.wire.buffered = True, buffered
        self._resumed.clear()
        for observer in self._observers:
            observer.paused()

    def read_all(self) -> None:
        self.is_paused, self.wire.buffered = False, 0
        self._resumed.set()

    def send(self, *messages: str) -> None:
        """Have the peer send messages, in one piece."""
        for observer in self._observers:
            observer.heard()
        if not self._is_closing:
            self._unread.extend({"type": "websocket.receive", "text": message} for message in messages)
            self._hand_over()

    def leave(self, code: int = ABNORMAL, reason: str = "") -> None:
        """Have the peer close, or answer the close frame."""
        if self._is_lost:
            return
        self._is_lost = self._is_closing = self.wire.is_closed = True
        self._cut()
        if self._deadline is not None:
            self._deadline.cancel()
        self.read_all()
        self._unread.append({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._hand_over()
        for observer in self._observers:
            observer.gone("its socket is closed")

    def end_application(self) -> None:
        """Return from the ASGI application."""
        if not self._is_parked:
            for observer in self._observers:
                observer.abandoned()
            self.abort()

    # NativeSocket

    @property
    def is_open(self) -> bool:
        return not self._is_closing and not self.wire.is_closed

    @property
    def is_reading(self) -> bool:
        return not self._is_full or self._is_lost

    def attach(self, observer: Observer, limits: Limits) -> None:
        self._observers = (*self._observers, observer)
        if self._is_lost:
            asyncio.get_running_loop().call_soon(observer.gone, "its socket is closed")

    def detach(self, observer: Observer) -> None:
        self._observers = tuple(each for each in self._observers if each is not observer)

    def ping(self) -> None:
        if self.is_open:
            self.wire.write(PING_FRAME)

    def hang_up(self, code: int, reason: str, timeout_s: float) -> None:
        if not self.is_open:
            return
        self._is_closing = True
        self._cut()
        self.wire.write(close_frame(code, reason))
        self._unread.clear()
        self._events.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._deadline = asyncio.get_running_loop().call_later(timeout_s, self.abort)

    def abort(self) -> None:
        self._cut()
        self.wire.is_closed = self.was_aborted = True
        asyncio.get_running_loop().call_soon(self.leave)

    async def drain(self) -> None:
        if self.is_paused:
            await self._resumed.wait()

    def park(self, inbox: Events) -> None:
        self._is_parked = True
        waiting = cast("asyncio.Queue[AsgiEvent]", self._events)
        self._events = inbox
        while not waiting.empty():
            inbox.put_nowait(waiting.get_nowait())

    def resume_reading(self) -> None:
        self._is_full = False
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the application its next event. It takes one at a time."""
        if self._unread and not self._is_full:
            self._is_full = True
            self._events.put_nowait(self._unread.popleft())

    def _cut(self) -> None:
        self.flush()
        for observer in self._observers:
            observer.cut()


async def _silent() -> AsgiEvent:
    await asyncio.Event().wait()
    raise AssertionError


async def _refuse(event: AsgiEvent) -> None:
    raise AssertionError(f"went out as an ASGI event: {event}")


def websocket_on(native: FakeNativeSocket) -> WebSocket:
    """Return an accepted socket whose server offers ``native``."""
    websocket = WebSocket({"type": "websocket", "extensions": {EXTENSION: native}}, _silent, _refuse)
    websocket.client_state = websocket.application_state = WebSocketState.CONNECTED
    return websocket


def connect_native(
    client_id: str = "alice", native: FakeNativeSocket | None = None, node: Node | None = None
) -> Connection:
    """Return a connection on a native socket."""
    return connect(client_id, websocket_on(native or FakeNativeSocket()), node)
