"""A WebSocket class for uvicorn that gives the manager what ASGI lacks; everything works without it, slower.

``manager.lifespan`` installs it by itself (``WebSocketConfig.uvicorn_protocol``); or name it yourself:
``uvicorn --ws fastapi_websocket_stabilizer.uvicorn:WebSocketProtocol``. Sockets that no manager registers are
served as uvicorn's own class serves them.
"""

import asyncio
import os
from importlib.metadata import version
from typing import Any, cast

from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocketDisconnect
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import Server, ServerState
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import Protocol as FrameProtocol
from websockets.protocol import State

from . import close_codes, frames
from .exceptions import ConfigurationError
from .local.flow import Flag, bound_kernel_buffer
from .local.gathering import WRITE_BUFFER_BYTES, GatheredWrites, Turn
from .local.line import EXTENSION, Events, LineObserver, Observer
from .local.owner import Limits
from .signals import find_server
from .wire import Encoded, Form

OLDEST = {"uvicorn": "0.52.1", "websockets": "16.0"}
"""The first with flow control on writes, and the first whose parser bounds messages and fragments apart."""


def _release(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.split(".")[:3] if part.isdigit())


def _check_releases() -> None:
    for package, oldest in OLDEST.items():
        if _release(version(package)) < _release(oldest):
            raise ConfigurationError(
                f"fastapi_websocket_stabilizer.uvicorn needs {package} >= {oldest}, found {version(package)}: "
                "upgrade it, or run with uvicorn's own WebSocket class"
            )


_check_releases()

# Below the check: older releases may lack what is used here.
from uvicorn.protocols.websockets.websockets_sansio_impl import (  # noqa: E402 - see the line above
    WebSocketsSansIOProtocol,
)

NAME = "fastapi_websocket_stabilizer.uvicorn:WebSocketProtocol"
MAX_FRAGMENTS = 16_384
"""Frames of one inbound message; empty ones cost no memory but time. One more closes with 1008."""
INFLATED_PER_TURN = 8192
"""Compressed bytes that are parsed before the application has taken what they hold."""
DEFLATE = ServerPerMessageDeflateFactory(
    # Without context takeover one compressed frame serves every socket, and an idle one keeps no 7 KiB decoder.
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=frames.WINDOW_BITS,
    client_max_window_bits=frames.WINDOW_BITS,
    compress_settings={"memLevel": frames.MEMORY_LEVEL},
)


class WebSocketProtocol(GatheredWrites, WebSocketsSansIOProtocol):
    """One WebSocket: uvicorn's, and a ``Line`` for the manager that registers it."""

    # Uvicorn's attributes that are set here too.
    close_timeout: float
    close_timer: asyncio.TimerHandle | None
    scope: Any
    frames: list[bytes]
    queue: asyncio.Queue[ASGIReceiveEvent]
    read_paused: bool
    writable: asyncio.Event
    # Those of GatheredWrites.
    turn: Turn
    descriptor: int

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        if self.conn.available_extensions:
            self.conn.available_extensions = [DEFLATE]
        self.writable = cast("asyncio.Event", Flag())
        self.scope = None
        self.window_bits: int = 0
        self.is_parked: bool = False
        self._observers: tuple[LineObserver, ...] = ()  # one, unless it is registered under several ids
        self._unread = b""
        self.turn = Turn.of(self.loop)
        self._fragments = 0

    # The handshake, and what the application sends by itself

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.close_sent:
            return
        self.scope["extensions"][EXTENSION] = self
        for extension in self.conn.extensions:
            self.window_bits = cast("PerMessageDeflate", extension).local_max_window_bits
        # Forget the request: a parser that has read it keeps it.
        del self.request
        self.conn.parser = FrameProtocol.parse(self.conn)
        next(self.conn.parser)

    def start_keepalive(self) -> None:
        if not self._observers:
            super().start_keepalive()

    async def run_asgi(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException as error:
            # A handler may leave with its socket's end: of a registered socket the manager knows, and has said so.
            if not self._observers or not isinstance(error, WebSocketDisconnect):
                self.logger.exception("Exception in ASGI application\n")
            self.send_500_response()
        else:
            if not self.handshake_complete and not self.close_sent:  # nor refused with an HTTP answer
                self.logger.error("ASGI callable returned without completing handshake.")
                self.send_500_response()
        if not self.is_parked and self.close_timer is None:
            self._cut()
            self.transport.close()
            self._abort_unless_closed()

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close":
            self._cut()
        if message["type"] != "websocket.send" or not self.is_open:
            await super().send(message)
            return
        await self.writable.wait()
        text, data = message.get("text"), message.get("bytes")
        if not self.is_open:
            raise ClientDisconnected
        if data is not None:
            self.write_soon(Encoded(Form.BINARY, data, len(data)).frame(self.window_bits))
        elif text is not None:
            self.write_soon(Encoded(Form.TEXT, text, len(text)).frame(self.window_bits))

    async def receive(self) -> ASGIReceiveEvent:
        if self.is_parked:  # the application is over; what comes in goes to the inbox
            return {"type": "websocket.disconnect", "code": close_codes.NO_STATUS}
        event = await self.queue.get()
        if self.queue.empty():
            self.resume_reading()
        return event

    # What the manager calls

    @property
    def is_open(self) -> bool:
        """Whether frames may be written."""
        return self.handshake_complete and not self.close_sent and not self.transport.is_closing()

    @property
    def is_paused(self) -> bool:
        """Whether the write buffer is over its high-water mark."""
        return not self.writable.is_set()

    @property
    def is_reading(self) -> bool:
        """False while the application does not keep up with what comes in."""
        return not self.read_paused or self.disconnected

    def attach(self, observer: LineObserver, limits: Limits) -> None:
        """Bound the buffers, and tell the observer what happens; its heartbeat replaces uvicorn's."""
        self._observers = (*self._observers, observer)
        self.close_timeout = limits.close_timeout_s
        self.stop_keepalive()
        self.conn.max_message_size = min(
            self.conn.max_message_size or limits.max_message_size, limits.max_message_size
        )
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        peer = self.transport.get_extra_info("socket")
        if peer is not None:
            bound_kernel_buffer(peer, limits)
            is_plain = self.scheme == "ws" and os.name == "posix"
            self.descriptor = peer.fileno() if is_plain else -1

    def detach(self, observer: Observer) -> None:
        """Tell this observer nothing any more."""
        self._observers = tuple(each for each in self._observers if each is not observer)
        if self.is_open:
            self.start_keepalive()

    def ping(self) -> None:
        """Write a ping frame; any answer is life."""
        if self.is_open:
            self.transport.write(frames.PING_FRAME)

    def hang_up(self, code: int, reason: str, timeout_s: float) -> None:
        """Write a close frame behind everything else; abort if the peer has not closed in time."""
        if not self.is_open:
            return
        self.conn.send_close(code, reason)
        self.close_sent = True
        self._cut()
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.resume_reading()  # the peer's close frame may be behind other messages
        self.close_timer = self.loop.call_later(timeout_s, self.abort)

    def abort(self) -> None:
        """Drop the socket and what is buffered for it."""
        self._cut()
        self.transport.abort()

    async def drain(self) -> None:
        """Wait until the write buffer is below its low-water mark, or the socket is gone."""
        await self.writable.wait()

    def park(self, inbox: Events) -> None:
        """Keep the socket when the application returns. What it was asked with is forgotten."""
        self.is_parked = True
        waiting = self.queue
        self.queue = cast("asyncio.Queue[ASGIReceiveEvent]", inbox)
        while not waiting.empty():
            inbox.put_nowait(cast("AsgiEvent", waiting.get_nowait()))
        self.scope = None
        del self.response, self.app_state  # only the application needs them

    def resume_reading(self) -> None:
        """Read again."""
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
            unread, self._unread = self._unread, b""
            self._parse(unread)

    # What the transport says

    def data_received(self, data: bytes) -> None:
        for observer in self._observers:
            observer.heard()
        if self._unread or (self.window_bits and len(data) > INFLATED_PER_TURN):
            self._parse(self._unread + data)
        else:
            super().data_received(data)

    def _parse(self, data: bytes) -> None:
        """Parse in pieces, and no more than the application takes: a little deflate may be a lot of messages."""
        while data and not self.read_paused and not self.transport.is_closing():
            super().data_received(data[:INFLATED_PER_TURN])
            data = data[INFLATED_PER_TURN:]
        self._unread = data

    # The parser holds its last frame until the next one: an idle socket must not keep what it last said.

    def handle_text(self, event: Frame) -> None:
        super().handle_text(event)
        event.data = b""

    def handle_bytes(self, event: Frame) -> None:
        super().handle_bytes(event)
        event.data = b""

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return
        self._fragments += 1
        if self._fragments >= MAX_FRAGMENTS:  # the first frame is not counted here
            self._refuse(close_codes.POLICY_VIOLATION, f"more than {MAX_FRAGMENTS} fragments")
            return
        # One growing buffer: a list of fragments would cost 60 bytes for each empty one.
        message = cast("list[Any]", self.frames)
        if not isinstance(message[0], bytearray):
            message[0] = bytearray(message[0])
        message[0] += event.data
        event.data = b""
        if event.fin:
            self._fragments = 0
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        data, self.frames = bytes(self.frames[0]), []
        if self.close_sent:
            return  # too late; reading goes on, up to the peer's close frame
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        else:
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:  # uvicorn would log a traceback for each
                self._refuse(close_codes.INVALID_DATA, "text is not UTF-8")
                return
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _refuse(self, code: int, reason: str) -> None:
        if self.conn.state is State.OPEN:  # else a close that came with it was answered already
            self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_ping(self) -> None:
        if self.transport.is_closing() or (self.is_paused and self.conn.state is State.OPEN):
            self.conn.data_to_send()  # a peer that reads no pongs gets none, and does not fill our memory
        else:
            super().handle_ping()

    def handle_parser_exception(self) -> None:
        self._cut()
        super().handle_parser_exception()
        if self.conn.close_sent is not None:
            for observer in self._observers:
                observer.refused(self.conn.close_sent.code)
        self._abort_unless_closed()

    def handle_close(self, event: Frame) -> None:
        self._cut()
        super().handle_close(event)
        self._abort_unless_closed()

    def pause_writing(self) -> None:
        super().pause_writing()
        for observer in self._observers:
            observer.paused()

    def eof_received(self) -> None:
        self._cut()
        self._abort_unless_closed()  # the transport closes, once the peer has read what is buffered

    def connection_lost(self, exc: Exception | None) -> None:
        self._cut()
        super().connection_lost(exc)
        if self.scope is not None:
            self.scope["extensions"].pop(EXTENSION, None)  # a reference to ourselves

    def shutdown(self) -> None:
        if not self.transport.is_closing():
            self._cut()
            super().shutdown()
            self._abort_unless_closed()

    def _cut(self) -> None:
        """Nothing more is written; the descriptor may soon be that of another socket."""
        self.flush()
        self.descriptor = -1
        for observer in self._observers:
            observer.cut()

    def _abort_unless_closed(self) -> None:
        """A peer that reads nothing must not keep a socket that is being closed, nor a server that ends."""
        if self.close_timer is None and not self.disconnected:
            self.close_timer = self.loop.call_later(self.close_timeout, self.abort)


def install(*, compress: bool) -> str:
    """Have the uvicorn that runs this process serve new sockets with ``WebSocketProtocol``.

    Called in lifespan startup: the handler of SIGTERM is then the method of the server that is starting.

    Returns:
        Why not; empty when it is installed.
    """
    server = find_server()
    if not isinstance(server, Server):
        return "the server is not uvicorn, or does not run in the main thread"
    chosen = server.config.ws_protocol_class
    if not isinstance(chosen, type) or not issubclass(WebSocketProtocol, chosen):
        return f"uvicorn was told to use {getattr(chosen, '__name__', chosen)}"
    server.config.ws_protocol_class = WebSocketProtocol
    server.config.ws_per_message_deflate &= compress
    return ""
