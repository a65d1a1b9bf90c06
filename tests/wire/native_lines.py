"""Open native sockets with their peers: the class for uvicorn on each event loop, and the double of unit tests."""

import asyncio
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvloop
from fastapi import FastAPI, WebSocket

from fastapi_websocket_stabilizer import WebSocketConfig
from fastapi_websocket_stabilizer.local.native import find_native
from fastapi_websocket_stabilizer.local.transport import NativeSocket
from fastapi_websocket_stabilizer.wire.messages import Encoded
from tests.support.waiting import eventually
from tests.unit.native_sockets import FakeNativeSocket
from tests.wire.inprocess import serving
from tests.wire.raw import ANSWER_S, Frame, Op, close, request, text

LIMITS = WebSocketConfig(max_message_size=100_000, inbound_frames_per_turn=8)
FILLER = Frame(Op.BINARY, bytes(65_536), mask=None)
OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate"}


class Recorder:
    """An ``Observer`` that notes what it is notified of."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def opened(self) -> None:
        self.noted.append("opened")

    def sent(self, message: Encoded) -> None:
        self.noted.append("sent")

    async def flush(self) -> None:
        self.noted.append("flush")

    def heard(self) -> None:
        self.noted.append("heard")

    def received(self, size: int, *, is_text: bool) -> None:
        self.noted.append("received")

    def hung_up(self, code: int, reason: str) -> None:
        self.noted.append("hung up")

    def closes(self, code: int, reason: str) -> None:
        self.noted.append("closes")

    async def too_large(self, size: int, limit: int) -> None:
        self.noted.append("too large")

    def abandoned(self) -> None:
        self.noted.append("abandoned")

    def paused(self) -> None:
        self.noted.append("paused")

    def deferred(self) -> None:
        self.noted.append("deferred")

    def refused(self, code: int) -> None:
        self.noted.append(f"refused {code}")

    def gone(self, error: str) -> None:
        self.noted.append("gone")

    def cut(self) -> None:
        self.noted.append("cut")


class Inbox:
    """The events of a parked socket: the texts of messages, and the code and reason of the end."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def put_nowait(self, event: Any) -> None:
        end = f"{event.get('code')} {event.get('reason') or ''}".strip()
        self.events.append(event["text"] if event["type"] == "websocket.receive" else end)


class Line(ABC):
    """An open native socket, an observer of it, and its peer, which reads when it is told to."""

    def __init__(self, native: NativeSocket) -> None:
        self.native = native
        self.observer = self.attach()
        self.inbox = Inbox()

    def attach(self) -> Recorder:
        """Attach one more observer."""
        observer = Recorder()
        self.native.attach(observer, LIMITS)
        return observer

    @property
    def noted(self) -> list[str]:
        return self.observer.noted

    def arrived(self, count: int = 0) -> list[Frame]:
        """Return what the peer has read, without fillers; wait for ``count`` frames without a turn of the loop."""
        return [frame for frame in frames_in(self._read(count)) if frame != FILLER]

    @abstractmethod
    def _read(self, count: int) -> bytes: ...

    @abstractmethod
    async def stall(self) -> None:
        """Have the peer read nothing until the write buffer is full."""

    @abstractmethod
    def read_on(self) -> None:
        """Have the peer read everything from now on."""

    @abstractmethod
    def send(self, *messages: str) -> None:
        """Have the peer send messages in one piece."""

    @abstractmethod
    def close(self, code: int, reason: str = "") -> None:
        """Have the peer send a close frame, or answer one."""

    @abstractmethod
    def leave(self) -> None:
        """Have the peer end its connection without a close frame."""

    @abstractmethod
    def end_application(self) -> None:
        """Return from the ASGI application."""


class LineOfDouble(Line):
    """The double of the unit tests."""

    native: FakeNativeSocket

    def _read(self, count: int) -> bytes:
        return b"".join(self.native.wire.writes)

    async def stall(self) -> None:
        self.native.stall()

    def read_on(self) -> None:
        if self.native.is_paused:
            self.native.read_all()

    def send(self, *messages: str) -> None:
        self.native.send(*messages)

    def close(self, code: int, reason: str = "") -> None:
        self.native.leave(code, reason)

    def leave(self) -> None:
        self.native.leave()

    def end_application(self) -> None:
        self.native.end_application()


@dataclass
class Peer:
    """A client on a socket of its own, which can be read without a turn of the event loop."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    is_over: bool = False

    def pull(self) -> None:
        """Read what the kernel has."""
        with suppress(BlockingIOError):
            while not self.is_over:
                try:
                    data = self.socket.recv(1 << 20)
                except ConnectionResetError:
                    data = b""
                self.received += data
                self.is_over = not data
        if self.is_over:
            asyncio.get_running_loop().remove_reader(self.socket)  # otherwise it would be called in each turn

    def has_shaken_hands(self) -> bool:
        """Take the answer to the handshake when it is there."""
        self.pull()
        _, end, rest = self.received.partition(b"\r\n\r\n")
        self.received = rest
        return bool(end)

    def pull_frames(self, count: int) -> None:
        """Wait until the kernel has had so many frames."""
        self.pull()
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        while len(frames_in(self.received)) < count:
            assert poll.poll(ANSWER_S * 1000), f"fewer than {count} frames: {bytes(self.received[:100])!r}"
            assert not self.is_over
            self.pull()


class LineOfClass(Line):
    """A socket of the class for uvicorn on a real server, and a client on the loopback device."""

    def __init__(self, native: NativeSocket, peer: Peer, may_return: asyncio.Event) -> None:
        super().__init__(native)
        self._peer, self._may_return = peer, may_return

    def _read(self, count: int) -> bytes:
        self._peer.pull_frames(count)
        return bytes(self._peer.received)

    async def stall(self) -> None:
        asyncio.get_running_loop().remove_reader(self._peer.socket)
        async with asyncio.timeout(ANSWER_S):
            while not self.native.is_paused:
                self.native.write_now(FILLER.encode())
                await asyncio.sleep(0)

    def read_on(self) -> None:
        asyncio.get_running_loop().add_reader(self._peer.socket, self._peer.pull)

    def send(self, *messages: str) -> None:
        self._peer.socket.sendall(b"".join(text(message).encode() for message in messages))

    def send_pongs(self, count: int) -> None:
        """Have the peer send empty frames in one piece. Nothing answers them."""
        self._peer.socket.sendall(Frame(Op.PONG).encode() * count)

    def close(self, code: int, reason: str = "") -> None:
        self._peer.socket.sendall(close(code, reason.encode()).encode())

    def leave(self) -> None:
        """End the connection. When this returns, the kernel of the server knows it."""
        asyncio.get_running_loop().remove_reader(self._peer.socket)
        self._peer.socket.close()
        poll = select.poll()
        poll.register(self.native.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        assert poll.poll(ANSWER_S * 1000)

    def end_application(self) -> None:
        self._may_return.set()


def frames_in(data: bytes | bytearray) -> list[Frame]:
    """Return the complete frames of a server in ``data``."""
    found, at = list[Frame](), 0
    while at + 2 <= len(data):
        first, length = data[at], data[at + 1]
        begin = at + {126: 4, 127: 10}.get(length, 2)
        if length > 125:
            length = int.from_bytes(data[at + 2 : begin])
        at = begin + length
        if at <= len(data):
            payload = bytes(data[begin:at])
            found.append(Frame(first & 15, payload, bool(first >> 7), (first >> 4) & 7, None))
    return found


Opened = Callable[[bool], AbstractAsyncContextManager[Line]]


@asynccontextmanager
async def double(compressed: bool) -> AsyncIterator[Line]:
    yield LineOfDouble(FakeNativeSocket(12 if compressed else 0))


@asynccontextmanager
async def served(compressed: bool) -> AsyncIterator[Line]:
    """Serve an application that accepts a socket and reads nothing."""
    app, may_return = FastAPI(), asyncio.Event()
    accepted: asyncio.Future[NativeSocket | None] = asyncio.get_running_loop().create_future()

    @app.websocket("/")
    async def serve(websocket: WebSocket) -> None:
        await websocket.accept()
        accepted.set_result(find_native(websocket))
        await may_return.wait()

    async with serving(app) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(request("", OFFER if compressed else None))
            connection.setblocking(False)
            peer = Peer(connection)
            native = await accepted
            assert native is not None
            await eventually(peer.has_shaken_hands)
            line = LineOfClass(native, peer, may_return)
            try:
                yield line
            finally:
                if connection.fileno() >= 0:
                    asyncio.get_running_loop().remove_reader(connection)
                may_return.set()
                native.abort()


@dataclass(frozen=True)
class Kind:
    """What keeps the contract, and the event loop that it runs on."""

    name: str
    new_loop: Callable[[], asyncio.AbstractEventLoop]
    opened: Opened


DOUBLE = Kind("double", asyncio.new_event_loop, double)
CLASSES = [Kind("asyncio", asyncio.new_event_loop, served), Kind("uvloop", uvloop.new_event_loop, served)]
KINDS = [DOUBLE, *CLASSES]
