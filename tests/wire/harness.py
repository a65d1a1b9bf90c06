"""The protocol class on a transport that is only two buffers: thousands of conversations in seconds."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from fastapi_websocket_stabilizer.uvicorn import WebSocketProtocol
from tests.wire.app import app, manager
from tests.wire.raw import Frame, Op, RawClient, request

PATIENCE = 2_000
"""Turns of the event loop after which nothing more will happen."""


class MemoryTransport(asyncio.Transport):
    """What a protocol writes to, and how it pauses us."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self.written = bytearray()
        self.is_paused = False
        self.is_lost = False
        self.has_peer_gone = False
        self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        # asyncio drops it, or sends it behind the close frame if that is still in its buffer.
        assert self.has_peer_gone or not self._is_closing, "written after close()"
        self.written += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_reading(self) -> bool:
        return not self.is_paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever buffered."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        self.is_lost = True
        self._protocol.connection_lost(None)


@dataclass
class Heard:
    """What the server said, frame by frame."""

    messages: list[str | bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    closes: list[int] = field(default_factory=list)


class Conversation:
    """One socket of the application, which runs here too."""

    _numbers = itertools.count()

    def __init__(self, config: Config, way: str, headers: dict[str, str]) -> None:
        self.client_id = f"fuzz-{next(self._numbers)}"
        self._protocol = WebSocketProtocol(config, ServerState(), {}, asyncio.get_running_loop())
        self.transport = MemoryTransport(self._protocol)
        self._protocol.connection_made(self.transport)
        self._protocol.data_received(request(f"{way}/{self.client_id}", headers))

    async def accepted(self) -> None:
        await until(lambda: b"\r\n\r\n" in self.transport.written, "answer to the handshake")
        await until(lambda: self.client_id in manager.get_active_connections(), "registered")
        assert self.transport.written.startswith(b"HTTP/1.1 101 ")
        del self.transport.written[: self.transport.written.index(b"\r\n\r\n") + 4]

    async def feed(self, pieces: Iterable[bytes]) -> None:
        """Hand bytes over as an event loop does: not while reading is paused, and not to a closed socket."""
        for piece in pieces:
            await until(lambda: not self.transport.is_paused or self.is_over, "reading goes on")
            if self.is_over:
                return
            if piece:
                self._protocol.data_received(piece)

    async def end_of_stream(self) -> None:
        if not self.is_over:
            self.transport.has_peer_gone = True
            self._protocol.eof_received()
            self.transport.close()  # as asyncio does when eof_received() returns nothing

    @property
    def is_over(self) -> bool:
        return self.transport.is_closing()

    async def over(self) -> None:
        """Return once nothing of it is left."""
        await until(lambda: self.transport.is_lost, "the connection ends")
        await until(lambda: self.client_id not in manager.get_active_connections(), "released")

    async def heard(self) -> Heard:
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(self.transport.written))
        reader.feed_eof()
        client = RawClient(reader, None)  # type: ignore[arg-type]  # it only reads
        heard = Heard()
        while (frame := await client.frame()) is not None:
            assert not heard.closes or frame.opcode == Op.PONG, "written after the close frame"
            note(heard, client, frame)
        return heard


def note(heard: Heard, client: RawClient, frame: Frame) -> None:
    if frame.opcode == Op.PONG:
        heard.pongs.append(frame.payload)
    elif frame.opcode == Op.CLOSE:
        heard.closes.append(int.from_bytes(frame.payload[:2]) if frame.payload else 1005)
    else:
        heard.messages.append(client.decode(frame))


async def until(condition: Callable[[], bool], what: str) -> None:
    """Give the loop turns until it is so; never waits for a duration."""
    for _ in range(PATIENCE):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"stuck: {what}")


class Trouble(logging.Handler):
    """Collects what nobody may cause: errors in the log, and exceptions that only the event loop saw."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))

    def handle_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.found.append(f"{context['message']}: {context.get('exception')!r}")

    def check(self) -> None:
        found, self.found = self.found, []
        assert not found, "\n".join(found)


def configured() -> Config:
    config = Config(app, ws=WebSocketProtocol, lifespan="off", log_config=None)
    config.load()
    return config
