"""The socket of one connection: a Starlette WebSocket, or an object with the same methods.

This module also has the contracts of a transport with its connection (``Observer``), and with a server that accepts
prepared frames (``NativeSocket``).
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from types import CoroutineType
from typing import Any, Protocol, cast

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Message as AsgiEvent
from starlette.types import Receive, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .. import close_codes
from ..wire.messages import Encoded, Form, text_size
from .lifecycle import Limits

RETRY_AFTER_S = 1
"""Seconds in ``Retry-After`` for a client whose connection ended before the accept."""


HANDSHAKE = (
    "type", "http_version", "scheme", "server", "client", "root_path", "path", "query_string", "headers",
    "subprotocols", "path_params", "app", "state", "session", "user", "auth",
)  # fmt: skip
"""Keys of an ASGI scope that describe the request, including those of Starlette."""


class Events(Protocol):
    """Receives inbound ASGI events."""

    def put_nowait(self, event: AsgiEvent) -> None:
        """Queue an event."""
        ...


class NativeSocket(Protocol):
    """One socket of a server that accepts prepared frames.

    Attributes:
        transport: The transport below. It knows the size of the write buffer.
        window_bits: Window of the negotiated deflate; 0 for none.
        is_paused: Whether the write buffer is over its high-water mark.
        is_reading: False while the server reads nothing, because the application does not keep up.
    """

    transport: asyncio.Transport
    window_bits: int

    @property
    def is_paused(self) -> bool: ...

    @property
    def is_open(self) -> bool:
        """Whether frames may be written: the socket was accepted, and no close frame was sent."""
        ...

    @property
    def is_reading(self) -> bool: ...

    def attach(self, observer: "Observer", limits: Limits) -> None:
        """Notify ``observer`` of events from now on. Its heartbeat replaces that of the server.

        If the socket is closed, ``gone`` follows in a later turn of the event loop.
        """
        ...

    def detach(self, observer: "Observer") -> None:
        """Stop notifying this observer."""
        ...

    def write_soon(self, data: bytes) -> None:
        """Write frames at the end of this turn of the event loop, or earlier if there are many bytes.

        They are dropped if the socket is closed by then.
        """
        ...

    def flush(self) -> None:
        """Write the frames of ``write_soon`` now."""
        ...

    def write_now(self, data: bytes) -> None:
        """Write frames at once, behind those of ``write_soon``. Not for a socket that has been cut: it may raise."""
        ...

    def ping(self) -> None:
        """Write a ping frame, if the socket is open."""
        ...

    def hang_up(self, code: int, reason: str, timeout_s: float) -> None:
        """Write a close frame behind all data. Abort if the socket is not closed within ``timeout_s``.

        The observers are cut before it returns. A socket that is not open is left as it is.
        """
        ...

    def abort(self) -> None:
        """Close the socket without writing its buffer.

        The observers are cut before it returns. ``gone`` follows in a later turn of the event loop.
        """
        ...

    async def drain(self) -> None:
        """Wait until ``is_paused`` is False, or the socket is closed."""
        ...

    def park(self, inbox: Events) -> None:
        """Keep the socket open when the ASGI application returns. Inbound events go to ``inbox``.

        The inbox gets the next message after ``resume_reading``, and the disconnect of the peer behind its messages.
        That of ``hang_up`` comes at once.
        """
        ...

    def resume_reading(self) -> None:
        """Read again, after the inbox has become empty."""
        ...


class Observer(Protocol):
    """The connection of a socket: it is notified of events. Sockets that are not native report only some of them."""

    def opened(self) -> None:
        """The socket was accepted: messages may be written."""
        ...

    def sent(self, message: Encoded) -> None:
        """The application has sent a message past the connection, which has a session."""
        ...

    async def flush(self) -> None:
        """Wait until everything sent before is written."""
        ...

    def heard(self) -> None:
        """Bytes arrived, on a native socket."""
        ...

    def received(self, size: int, *, is_text: bool) -> None:
        """A message of ``size`` bytes was given to the application."""
        ...

    def hung_up(self, code: int, reason: str) -> None:
        """The application has read the end of the socket."""
        ...

    def closes(self, code: int, reason: str) -> None:
        """The application closes the socket itself, below this library."""
        ...

    async def too_large(self, size: int, limit: int) -> None:
        """A message over the limit arrived: close with 1009."""
        ...

    def abandoned(self) -> None:
        """The ASGI application has returned."""
        ...

    def paused(self) -> None:
        """The write buffer is over its high-water mark."""
        ...

    def deferred(self) -> None:
        """The peer has sent more than one turn of the event loop may process."""
        ...

    def refused(self, code: int) -> None:
        """The server refused a message with this close code."""
        ...

    def gone(self, error: str) -> None:
        """The socket is closed. Messages that arrived before may still wait for the application."""
        ...

    def cut(self) -> None:
        """Nothing more can be written."""
        ...


class Transport(Protocol):
    """The socket, as a connection uses it.

    Attributes:
        awaited: Whether a broadcast waits for a suspended send. Mock sockets of users expect that, as in release
            1.1. On a real socket, one stalled peer would delay the sender.
    """

    awaited: bool

    def attach(self, observer: "Observer") -> None:
        """Notify ``observer`` of events from now on."""
        ...

    @property
    def native(self) -> NativeSocket | None:
        """The native socket, if prepared frames may be written to it."""
        ...

    @property
    def is_receiving(self) -> bool:
        """Whether the application is waiting in ``receive()``."""
        ...

    def send(self, message: Encoded) -> Coroutine[Any, Any, None]:
        """Return a coroutine that sends one message."""
        ...

    def send_some(self, messages: deque[Encoded]) -> Coroutine[Any, Any, None]:
        """Take messages from the front, as many as fit into one write, and return a coroutine that sends them."""
        ...

    async def drained(self, patience_s: Callable[[], float]) -> None:
        """Wait until the write buffer of a native socket is no longer over its high-water mark.

        Raises:
            TimeoutError: The peer has read nothing for ``patience_s``, which is asked every ``write_timeout_s``.
        """
        ...

    async def complete(self, sending: Awaitable[None], deadline_s: float) -> None:
        """Finish a send. Raise ``TimeoutError`` after ``deadline_s``."""
        ...

    def is_disconnect(self, error: BaseException) -> bool:
        """Whether an error of a send means that the peer is gone."""
        ...

    async def close(self, code: int, reason: str, within_s: float = 0.0) -> None:
        """Close. A slow peer has ``within_s`` to read, or ``close_timeout_s`` if that is longer."""
        ...

    def deny(self, status: int, reason: str) -> None:
        """Make ``accept()`` raise this HTTP answer, because the connection ended before it."""
        ...

    def interrupt(self, code: int, reason: str) -> None:
        """End a waiting ``receive()`` with a disconnect, whether or not the server reports one."""
        ...

    def detach(self) -> None:
        """Restore the socket, and stop notifying the observer."""
        ...


class _WithoutNative:
    """A socket that is only written to by awaiting its ``send``."""

    __slots__ = ()

    @property
    def native(self) -> NativeSocket | None:
        return None

    async def drained(self, patience_s: Callable[[], float]) -> None:
        """There is no native write buffer."""

    async def complete(self, sending: Awaitable[None], deadline_s: float) -> None:
        async with asyncio.timeout(deadline_s):
            await sending


class MethodTransport(_WithoutNative):
    """Any object with async ``send_text``, ``send_json``, ``send_bytes`` and ``close``, such as mocks of users."""

    __slots__ = ("_socket",)
    awaited = True

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def attach(self, observer: Observer) -> None:
        """A mock has no events."""

    def send(self, message: Encoded) -> Coroutine[Any, Any, None]:
        return _send_by_method(self._socket, message, message.value if message.form is Form.JSON else None)

    def send_some(self, messages: deque[Encoded]) -> Coroutine[Any, Any, None]:
        return self.send(messages.popleft())

    @property
    def is_receiving(self) -> bool:
        return False

    def is_disconnect(self, error: BaseException) -> bool:
        return False  # release 1.1 reported every error of a mock

    async def close(self, code: int, reason: str, within_s: float = 0.0) -> None:
        await self._socket.close(code=code, reason=reason)

    def deny(self, status: int, reason: str) -> None:
        """A mock is always accepted."""

    def interrupt(self, code: int, reason: str) -> None:
        """A ``receive`` of a mock is not observed."""

    def detach(self) -> None:
        """A mock was not changed."""


class AsgiTransport(_WithoutNative):
    """A Starlette WebSocket.

    It replaces the ASGI channels of the socket. So it also observes what the application receives and sends itself:
    signs of life, sizes, accept and close.
    """

    __slots__ = (
        "_closed", "_denial", "_ended", "_handler", "_has_own_methods", "_has_session", "_idle", "_inner_receive",
        "_inner_send", "_is_read_by_handler", "_limits", "_observer", "_over", "_waiting", "_websocket",
    )  # fmt: skip
    awaited = False

    _observer: Observer

    def __init__(self, websocket: WebSocket, limits: Callable[[], Limits], *, has_session: bool) -> None:
        self._websocket, self._limits, self._has_session = websocket, limits, has_session
        self._has_own_methods = not _is_plain(websocket)
        self._inner_receive: Receive = websocket._receive
        self._inner_send: Send = websocket._send
        self._waiting: asyncio.Timeout | None = None
        self._idle: asyncio.Future[None] | None = None  # done when the server's receive() has returned
        self._over: asyncio.Future[None] | None = None  # done when `_ended` is known
        self._closed = False  # a close frame was sent, or the peer is gone
        self._denial: HTTPException | None = None  # what accept() raises
        self._ended: AsgiEvent | None = None  # what every further receive() answers
        self._handler: asyncio.Task[Any] | None = None  # the task that registered the socket
        self._is_read_by_handler = False

    def attach(self, observer: Observer) -> None:
        self._observer = observer
        self._websocket._receive = self._receive
        self._websocket._send = self._send
        self._watch_handler()

    def _watch_handler(self) -> None:
        """Report the end of the handler, because the server does not.

        The handler is the task that registers the socket and also reads it. A task that only registers may be
        short-lived: before Python 3.12, ``wait_for`` runs its coroutine in a task of its own.
        """
        self._handler = asyncio.current_task()
        if self._handler is not None:
            self._handler.add_done_callback(self._handler_ended)

    def _handler_ended(self, _: "asyncio.Task[Any]") -> None:
        if self._is_read_by_handler:
            self._observer.abandoned()

    def send(self, message: Encoded) -> Coroutine[Any, Any, None]:
        if self._has_own_methods:
            return self._send_by_own_method(message)
        # Below Starlette's state machine, which costs a quarter of a send. It would refuse only sockets that are
        # closed or not accepted, and both are known here.
        if self._closed:
            return self._refuse()
        sending = self._inner_send(message.asgi_with_address if self._has_session else message.asgi)
        return sending if type(sending) is CoroutineType else _awaited(sending)

    def send_some(self, messages: deque[Encoded]) -> Coroutine[Any, Any, None]:
        return self.send(messages.popleft())

    def _send_by_own_method(self, message: Encoded) -> Coroutine[Any, Any, None]:
        if self._has_session:
            event, socket = message.asgi_with_address, self._websocket
            return socket.send_text(event["text"]) if "text" in event else socket.send_bytes(event["bytes"])
        # Decoded again: the value of the application may contain types that only our encoder knows.
        value = json.loads(message.payload) if message.form is Form.JSON else None
        return _send_by_method(self._websocket, message, value)

    def is_disconnect(self, error: BaseException) -> bool:
        return isinstance(error, OSError | WebSocketDisconnect)

    async def close(self, code: int, reason: str, within_s: float = 0.0) -> None:
        # Below Starlette's state machine. Otherwise a busy handler that calls receive_text() later would get a
        # RuntimeError instead of a WebSocketDisconnect.
        if self._closed:
            return
        self._closed = True
        await self._stop_receiving()
        try:
            await self._inner_send({"type": "websocket.close", "code": code, "reason": reason})
        finally:
            self.interrupt(code, reason)

    def deny(self, status: int, reason: str) -> None:
        self._closed = True
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        self._denial = HTTPException(status, reason, headers)

    async def _stop_receiving(self) -> None:
        """End a waiting ``receive()``, because granian delays a close until it has returned."""
        if self._waiting is not None:
            self._idle = asyncio.get_running_loop().create_future()
            self._wake()
            await self._idle

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(0)

    def interrupt(self, code: int, reason: str) -> None:
        if self._ended is None:
            self._end({"type": "websocket.disconnect", "code": code, "reason": reason})
            self._wake()

    def _end(self, event: AsgiEvent) -> None:
        self._ended = event
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def _refuse(self) -> None:
        ended = self._ended or {}
        raise WebSocketDisconnect(ended.get("code", close_codes.NO_STATUS), ended.get("reason"))

    @property
    def is_receiving(self) -> bool:
        return self._waiting is not None

    def detach(self) -> None:
        self._websocket._receive, self._websocket._send = self._inner_receive, self._inner_send

    async def _receive(self) -> AsgiEvent:
        if self._websocket.client_state is WebSocketState.CONNECTING:
            return (
                await self._inner_receive()
            )  # accept() expects exactly this event, even if the connection has ended
        if self._handler is not None and asyncio.current_task() is self._handler:
            self._is_read_by_handler = True
        if not self._closed and self._ended is None:
            try:
                return await self._inspect(await self._next())
            except TimeoutError:
                if not self._closed and self._ended is None:
                    raise
        if self._ended is None:  # being closed: if the handler ended now, the server would close first
            self._over = self._over or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._over)
        assert self._ended is not None
        return self._ended

    async def _next(self) -> AsgiEvent:
        try:
            async with asyncio.timeout(None) as self._waiting:
                return await self._inner_receive()
        finally:
            self._waiting = None
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)

    async def _inspect(self, event: AsgiEvent) -> AsgiEvent:
        if event["type"] == "websocket.receive":
            size, limit = size_of(event), self._limits().max_message_size
            if size > limit:
                await self._observer.too_large(size, limit)
                self.interrupt(close_codes.TOO_LARGE, "message too large")
                return self._ended or event
            self._observer.received(size, is_text=event.get("text") is not None)
        elif event["type"] == "websocket.disconnect":
            if self._ended is not None:  # closed by us: the event of the server is its echo
                return self._ended
            self._closed = True
            self._end(event)
            self._observer.hung_up(event.get("code") or close_codes.NO_STATUS, event.get("reason") or "")
        return event

    async def _send(self, event: AsgiEvent) -> None:
        kind = event["type"]
        if self._denial is not None:
            if kind == "websocket.accept":
                raise self._denial
            await self._inner_send(event)  # the handler's own refusal
            return
        if self._closed and kind != "websocket.close":
            await self._refuse()
        if kind == "websocket.close":
            code, reason = event.get("code", close_codes.NORMAL), event.get("reason") or ""
            self._observer.closes(code, reason)
            await self.close(code, reason)
            return
        if kind == "websocket.send" and self._has_session:
            self._observer.sent(_message(event))  # with its address, and behind the first frame
            await self._observer.flush()
            return
        await self._observer.flush()
        await self._inner_send(event)
        if kind == "websocket.accept":
            self._observer.opened()


async def _awaited(sending: Awaitable[None]) -> None:
    """Make a coroutine of any awaitable. The ``send`` of a server may not be written in Python."""
    await sending


def _send_by_method(socket: Any, message: Encoded, json_value: object) -> Coroutine[Any, Any, None]:
    if message.form is Form.JSON:
        return socket.send_json(json_value)  # type: ignore[no-any-return]  # a foreign object
    if message.form is Form.BINARY:
        return socket.send_bytes(message.payload)  # type: ignore[no-any-return]  # a foreign object
    return socket.send_text(message.payload)  # type: ignore[no-any-return]  # a foreign object


def _message(event: AsgiEvent) -> Encoded:
    text = event.get("text")
    if text is None:
        return Encoded(Form.BINARY, event["bytes"], len(event["bytes"]))
    return Encoded(Form.TEXT, text, len(text) if text.isascii() else len(text.encode()))


def size_of(event: AsgiEvent) -> int:
    """Return the bytes of a received message."""
    text = event.get("text")
    return len(event.get("bytes") or b"") if text is None else text_size(text)


def _is_plain(websocket: WebSocket) -> bool:
    """Whether the methods that send are those of Starlette."""
    return all(
        getattr(type(websocket), name) is getattr(WebSocket, name)
        for name in ("send", "send_text", "send_bytes", "send_json")
    )


def handshake_of(websocket: object) -> HTTPConnection | None:
    """Return the request that opened a socket, without parts that only its ASGI application needs."""
    if not issubclass(type(websocket), WebSocket):
        return None
    scope = cast("WebSocket", websocket).scope
    return HTTPConnection({key: scope[key] for key in HANDSHAKE if key in scope})


def is_accepted(websocket: object) -> bool:
    """Whether the socket was accepted. Always True for a mock."""
    # type(), not isinstance(): AsyncMock(spec=WebSocket) claims to be one.
    return not issubclass(type(websocket), WebSocket) or (
        cast("WebSocket", websocket).application_state is not WebSocketState.CONNECTING
    )
