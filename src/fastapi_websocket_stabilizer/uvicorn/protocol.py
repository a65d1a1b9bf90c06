"""A WebSocket class for uvicorn that offers the manager more than ASGI. It is optional, but faster.

``manager.lifespan`` installs it (``WebSocketConfig.uvicorn_protocol``). It can also be selected by
``uvicorn --ws fastapi_websocket_stabilizer.uvicorn:WebSocketProtocol``. Sockets that no manager registers are
served as with uvicorn's own class.
"""

import asyncio
import os
from importlib.metadata import version
from typing import Any, cast
from weakref import WeakKeyDictionary

from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocketDisconnect
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import Server, ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from .. import close_codes
from ..exceptions import ConfigurationError
from ..local.lifecycle import Limits
from ..local.native import EXTENSION
from ..local.transport import Events, Observer
from ..wire import frames
from ..wire.messages import Encoded, Form
from .coalescing import WRITE_BUFFER_BYTES, CoalescedWrites, TickFlusher
from .flow import Flag, bound_kernel_buffer
from .sigterm import find_server

OLDEST = {"uvicorn": "0.53.0", "websockets": "17.0"}
"""Oldest releases that encode header values alike. With others, a value that is not ASCII fails the handshake."""


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

# Imported after the check, so that releases that are too old get its error and not an ImportError.
from .receiving import ReceivingProtocol  # noqa: E402 - see the line above

NAME = "fastapi_websocket_stabilizer.uvicorn:WebSocketProtocol"


class WebSocketProtocol(CoalescedWrites, ReceivingProtocol):
    """One WebSocket: uvicorn's class, and a ``NativeSocket`` for the manager that registers it."""

    # All attributes: uvicorn's, those of the bases and its own. A slot takes 8 bytes, and an entry of a dictionary of
    # this size 28. An attribute that another release of uvicorn adds is in a dictionary.
    __slots__ = (
        "_carried", "_deflate", "_fragments", "_gathered", "_has_peer_gone", "_has_pinged", "_intake",
        "_is_accepted", "_is_full", "_is_heavy", "_is_inflating", "_is_refused", "_is_waiting", "_last",
        "_max_message_size", "_observers", "_parts", "_reader", "app", "app_state", "asgi_version", "client",
        "close_sent", "close_timeout", "close_timer", "config", "conn", "connections", "curr_msg_data_type",
        "default_headers", "descriptor", "disconnected", "flusher", "frames", "frames_at_once",
        "handshake_complete", "handshake_initiated", "initial_response", "is_parked", "last_ping_rtt",
        "logger", "loop", "pending_ping_payload", "ping_interval", "ping_sent_at", "ping_timeout",
        "ping_timer", "pong_timer", "queue", "read_paused", "request", "response", "root_path", "scheme",
        "scope", "server", "tasks", "transport", "window_bits", "writable",
    )  # fmt: skip

    # Attributes of uvicorn's class that are set here.
    close_sent: bool
    close_timeout: float
    frames_at_once: int
    close_timer: asyncio.TimerHandle | None
    scope: Any
    queue: asyncio.Queue[ASGIReceiveEvent]
    writable: asyncio.Event
    # Attributes of CoalescedWrites.
    flusher: TickFlusher
    descriptor: int

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.writable = cast("asyncio.Event", Flag())
        self.scope = None
        self.is_parked: bool = False
        self.descriptor: int = -1
        self._gathered: bytes = b""
        self.flusher = TickFlusher.of(self.loop)

    # Handshake, and calls of the application

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.close_sent:
            return
        self.scope["extensions"][EXTENSION] = self

    def start_keepalive(self) -> None:
        if not self._observers:
            super().start_keepalive()

    async def run_asgi(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException as error:
            # Handlers of registered sockets may exit with WebSocketDisconnect; the manager has already logged it.
            if not self._observers or not isinstance(error, WebSocketDisconnect):
                self.logger.exception("Exception in ASGI application\n")
            self.send_500_response()
        else:
            if not self.handshake_complete and not self.close_sent:  # neither accepted nor refused
                self.logger.error("ASGI callable returned without completing handshake.")
                self.send_500_response()
        if not self.is_parked:
            self._application_ended()

    def _application_ended(self) -> None:
        for observer in self._observers:
            observer.abandoned()
        if self.scope is not None:
            self.scope["extensions"].pop(EXTENSION, None)  # breaks a reference cycle
        if self.close_timer is None:
            self._cut()
            self.transport.close()
            self._abort_unless_closed()

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] != "websocket.send" or not self.is_open:
            await self._send_other(message)
            return
        await self.writable.wait()
        text, data = message.get("text"), message.get("bytes")
        if not self.is_open:
            raise ClientDisconnected
        if data is not None:
            self.write_soon(Encoded(Form.BINARY, data, len(data)).frame(self.window_bits))
        elif text is not None:
            self.write_soon(Encoded(Form.TEXT, text, len(text)).frame(self.window_bits))

    async def _send_other(self, message: ASGISendEvent) -> None:
        """Send an ASGI event other than a message to an open socket."""
        if message["type"] == "websocket.close":
            self._cut()
        if self._is_refused:  # because of invalid input; uvicorn would log it as an error of the application
            raise ClientDisconnected
        await super().send(message)
        if self.is_open:
            self.accepted()
        elif self.close_sent:
            self.resume_reading()  # otherwise the peer's close frame could stay unread behind other messages

    async def receive(self) -> ASGIReceiveEvent:
        if self.is_parked:  # the application has returned; messages go to the inbox
            return {"type": "websocket.disconnect", "code": close_codes.NO_STATUS}
        return await super().receive()

    # Called by the manager

    @property
    def is_open(self) -> bool:
        """Whether frames may be written."""
        return self.handshake_complete and not self.close_sent and not self.transport.is_closing()

    @property
    def is_paused(self) -> bool:
        """Whether the write buffer is over its high-water mark."""
        return not self.writable.is_set()

    def attach(self, observer: Observer, limits: Limits) -> None:
        """Notify ``observer`` of events from now on, and bound the buffers. Its heartbeat replaces uvicorn's."""
        self._observers = (*self._observers, observer)
        if self.disconnected:
            self.loop.call_soon(observer.gone, "its socket is closed")
            return
        self.close_timeout = limits.close_timeout_s
        self.stop_keepalive()
        self.limit_messages(limits.max_message_size)
        self.frames_at_once = limits.inbound_frames_per_turn
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        peer = self.transport.get_extra_info("socket")
        if peer is not None:
            bound_kernel_buffer(peer, limits)
            is_plain = self.scheme == "ws" and os.name == "posix"
            self.descriptor = peer.fileno() if is_plain else -1

    def detach(self, observer: Observer) -> None:
        """Stop notifying this observer."""
        self._observers = tuple(each for each in self._observers if each is not observer)
        if self.is_open:
            self.start_keepalive()

    def ping(self) -> None:
        """Write a ping frame. Any frame of the peer counts as an answer."""
        if self.is_open:
            self.transport.write(frames.PING_FRAME)

    def hang_up(self, code: int, reason: str, timeout_s: float) -> None:
        """Write a close frame behind all data, and abort if the peer has not closed within ``timeout_s``."""
        if not self.is_open:
            return
        self.conn.send_close(code, reason)
        self.close_sent = True
        self._cut()
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.close_timer = self.loop.call_later(timeout_s, self.abort)
        self.resume_reading()  # otherwise the peer's close frame could stay unread behind other messages

    def abort(self) -> None:
        """Close the socket without writing its buffer."""
        self._cut()
        self.transport.abort()

    async def drain(self) -> None:
        """Wait until the write buffer is below its low-water mark, or the socket is closed."""
        await self.writable.wait()

    def park(self, inbox: Events) -> None:
        """Keep the socket open after the application returns, and release the request data."""
        self.is_parked = True
        waiting = self.queue
        self.queue = cast("asyncio.Queue[ASGIReceiveEvent]", inbox)
        while not waiting.empty():
            inbox.put_nowait(cast("AsgiEvent", waiting.get_nowait()))
        self.scope = None
        del self.response, self.app_state, self.server  # only the application needs them

    # Called by the transport and the parser

    def handle_parser_exception(self) -> None:
        self._cut()
        super().handle_parser_exception()
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
        super().eof_received()
        self._cut()
        self._abort_unless_closed()  # the transport closes only when the peer has read the buffer

    def connection_lost(self, exc: Exception | None) -> None:
        self._cut()
        super().connection_lost(exc)
        for observer in self._observers:
            observer.gone("its socket is closed")

    def shutdown(self) -> None:
        if not self.transport.is_closing():
            self._cut()
            super().shutdown()
            self._abort_unless_closed()

    def _cut(self) -> None:
        """End direct writes: after a close, the descriptor may belong to another socket."""
        self.flush()
        self.descriptor = -1
        for observer in self._observers:
            observer.cut()

    def _abort_unless_closed(self) -> None:
        """Abort after ``close_timeout``. Otherwise a peer that reads nothing would block the server's shutdown."""
        if self.close_timer is None and not self.disconnected:
            self.close_timer = self.loop.call_later(self.close_timeout, self.abort)


def install(*, compress: bool, max_message_size: int) -> str:
    """Serve new sockets of the uvicorn ``Server`` in this process with ``WebSocketProtocol``.

    Call this in lifespan startup, when the handler of SIGTERM is a method of the starting server.

    Args:
        compress: Whether compression may be negotiated.
        max_message_size: Bytes of an inbound message, also before a manager registers its socket. If several
            managers share a server, the largest value applies until then.

    Returns:
        The reason why the class is not installed, or "" if it is.
    """
    server = find_server()
    if not isinstance(server, Server):
        return "the server is not uvicorn, or does not run in the main thread"
    config = server.config
    chosen = config.ws_protocol_class
    if not isinstance(chosen, type) or not issubclass(WebSocketProtocol, chosen):
        return f"uvicorn is configured to use {getattr(chosen, '__name__', chosen)}"
    config.ws_protocol_class = WebSocketProtocol
    config.ws_per_message_deflate &= compress
    uvicorns = _uvicorns_limit.setdefault(config, config.ws_max_size)
    others = 0 if config.ws_max_size == uvicorns else config.ws_max_size
    config.ws_max_size = min(uvicorns, max(others, max_message_size))
    return ""


_uvicorns_limit: WeakKeyDictionary[Config, int] = WeakKeyDictionary()
"""The original ``ws_max_size`` of each server's configuration."""
