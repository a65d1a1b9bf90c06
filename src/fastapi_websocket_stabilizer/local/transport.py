"""One accepted socket, as the connection writes to it: a Starlette WebSocket, or anything with its methods.

The contracts stand here that a transport has with its connection, and with a server whose sockets take prepared
frames: ``NativeSocket``.
"""

import asyncio
import json
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
from ..wire.messages import Encoded, Form
from .lifecycle import Limits

RETRY_AFTER_S = 1
"""Seconds that a client waits before it tries again, when its connection ended before it was accepted."""


HANDSHAKE = (
    "type", "http_version", "scheme", "server", "client", "root_path", "path", "query_string", "headers",
    "subprotocols", "path_params", "app", "state", "session", "user", "auth",
)  # fmt: skip
"""Parts of an ASGI scope, and of what Starlette puts into it, that describe the request."""


class Events(Protocol):
    """Takes what comes in, as ASGI events."""

    def put_nowait(self, event: AsgiEvent) -> None: ...


class NativeSocket(Protocol):
    """One socket of such a server.

    Attributes:
        transport: What frames are written to while ``is_paused`` is False.
        window_bits: Of the deflate that was negotiated; 0 for none.
        is_paused: The write buffer is over its high-water mark.
        is_reading: False while the server reads nothing, since the application does not keep up.
    """

    transport: asyncio.Transport
    window_bits: int

    @property
    def is_paused(self) -> bool: ...

    @property
    def is_open(self) -> bool:
        """Whether frames may be written: accepted, and no close frame was sent."""
        ...

    @property
    def is_reading(self) -> bool: ...

    def attach(self, observer: "Observer", limits: Limits) -> None:
        """Tell an observer what happens from now on; its heartbeat takes the place of the server's."""
        ...

    def detach(self, observer: "Observer") -> None: ...

    def write_soon(self, data: bytes) -> None:
        """Write frames when this turn of the event loop ends, or before that if they are many."""
        ...

    def flush(self) -> None:
        """Write now what is to be written soon."""
        ...

    def write_now(self, data: bytes) -> None:
        """Write frames at once, behind what was to be written soon."""
        ...

    def ping(self) -> None: ...

    def hang_up(self, code: int, reason: str, timeout_s: float) -> None:
        """Write a close frame behind everything else; abort when the socket is not closed in time."""
        ...

    def abort(self) -> None: ...

    async def drain(self) -> None:
        """Wait until ``is_paused`` is False, or the socket is gone."""
        ...

    def park(self, inbox: Events) -> None:
        """Keep the socket when the ASGI application returns; what comes in goes to ``inbox``."""
        ...

    def resume_reading(self) -> None: ...


class Observer(Protocol):
    """The connection of a socket: it is notified of events. Sockets that are not native report only some of them."""

    def opened(self) -> None:
        """The socket was accepted: messages may be written."""
        ...

    async def flush(self) -> None:
        """Wait until everything sent before is written."""
        ...

    def heard(self) -> None:
        """A message arrived."""
        ...

    def hung_up(self, code: int, reason: str) -> None:
        """The application has read the end of the socket."""
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
    """What a connection needs of its socket.

    Attributes:
        awaited: Whether a broadcast waits for a send that was suspended (release 1.1 did, and its users'
            mock sockets expect it; on a real socket one stalled peer would then delay the sender).
    """

    awaited: bool

    def attach(self, observer: "Observer") -> None:
        """Notify ``observer`` of events from now on."""
        ...

    @property
    def native(self) -> NativeSocket | None:
        """Where prepared frames may be written, on a server that has lines."""
        ...

    @property
    def is_receiving(self) -> bool:
        """Whether the application waits in ``receive()``."""
        ...

    def send(self, message: Encoded) -> Coroutine[Any, Any, None]: ...

    async def drained(self) -> None:
        """Wait until the peer has taken enough of what was written to the native socket."""
        ...

    async def complete(self, sending: Awaitable[None], deadline_s: float) -> None:
        """Finish a send; ``TimeoutError`` when the peer takes too long."""
        ...

    def is_disconnect(self, error: BaseException) -> bool:
        """Whether an error of a send means that the peer is gone."""
        ...

    async def close(self, code: int, reason: str, within_s: float = 0.0) -> None:
        """Close; a peer that is slow gets ``within_s`` to take what was written, or ``close_timeout_s``."""
        ...

    def deny(self, status: int, reason: str) -> None:
        """Have the handler's ``accept()`` raise this HTTP answer: the connection ended before it was accepted."""
        ...

    def interrupt(self, code: int, reason: str) -> None:
        """End a ``receive()`` that waits: the socket is closed, whether or not the server says so."""
        ...

    def detach(self) -> None:
        """Leave the socket as it was found."""
        ...


class _WithoutNative:
    """A socket that is only reached by awaiting its own ``send``."""

    __slots__ = ()

    @property
    def native(self) -> NativeSocket | None:
        return None

    async def drained(self) -> None:
        """Nothing is ever written behind its back."""

    async def complete(self, sending: Awaitable[None], deadline_s: float) -> None:
        async with asyncio.timeout(deadline_s):
            await sending


class MethodTransport(_WithoutNative):
    """Any object with async ``send_text``, ``send_json``, ``send_bytes`` and ``close``: users' mocks."""

    __slots__ = ("_socket",)
    awaited = True

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def attach(self, observer: Observer) -> None:
        """A mock has no events."""

    def send(self, message: Encoded) -> Coroutine[Any, Any, None]:
        return _send_by_method(self._socket, message, message.value if message.form is Form.JSON else None)

    @property
    def is_receiving(self) -> bool:
        return False

    def is_disconnect(self, error: BaseException) -> bool:
        return False  # release 1.1 reported every error of a mock

    async def close(self, code: int, reason: str, within_s: float = 0.0) -> None:
        await self._socket.close(code=code, reason=reason)

    def deny(self, status: int, reason: str) -> None:
        """A mock counts as accepted."""

    def interrupt(self, code: int, reason: str) -> None:
        """Nobody waits in a mock's ``receive``."""

    def detach(self) -> None:
        """A mock is never changed."""


class AsgiTransport(_WithoutNative):
    """A Starlette WebSocket.

    It listens in on the socket's ASGI channel, so that what the application receives and sends by itself
    counts too: life, size, accept and close.
    """

    __slots__ = (
        "_closed", "_denial", "_ended", "_handler", "_has_own_methods", "_idle", "_inner_receive", "_inner_send",
        "_is_read_by_handler", "_limits", "_observer", "_over", "_waiting", "_websocket",
    )  # fmt: skip
    awaited = False

    _observer: Observer

    def __init__(self, websocket: WebSocket, limits: Callable[[], Limits]) -> None:
        self._websocket, self._limits = websocket, limits
        self._has_own_methods = not _is_plain(websocket)
        self._inner_receive: Receive = websocket._receive
        self._inner_send: Send = websocket._send
        self._waiting: asyncio.Timeout | None = None
        self._idle: asyncio.Future[None] | None = None  # when nobody waits in the server's receive()
        self._over: asyncio.Future[None] | None = None  # when `_ended` is known
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
        """Report the end of the handler, which the server does not.

        The handler is the task that registers the socket and also reads it. One that only registers may be
        short-lived: before Python 3.12 ``wait_for`` runs what it is given in a task of its own.
        """
        self._handler = asyncio.current_task()
        if self._handler is not None:
            self._handler.add_done_callback(self._handler_ended)

    def _handler_ended(self, _: "asyncio.Task[Any]") -> None:
        if self._is_read_by_handler:
            self._observer.abandoned()

    def send(self, message: Encoded) -> Coroutine[Any, Any, None]:
        if self._has_own_methods:
            # Decoded again: the application's own value may hold what only our encoder knows.
            value = json.loads(message.payload) if message.form is Form.JSON else None
            return _send_by_method(self._websocket, message, value)
        # Below Starlette's state machine, which costs a quarter of a send: what it would refuse, a socket that
        # is closed or not accepted, is known here.
        if self._closed:
            return self._refuse()
        sending = self._inner_send(message.asgi)
        return sending if type(sending) is CoroutineType else _awaited(sending)

    def is_disconnect(self, error: BaseException) -> bool:
        return isinstance(error, OSError | WebSocketDisconnect)

    async def close(self, code: int, reason: str, within_s: float = 0.0) -> None:
        # Below Starlette's state machine: a handler that is busy now and calls receive_text() later gets
        # the WebSocketDisconnect it is written for, not a RuntimeError.
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
        """End a ``receive()`` that waits: granian holds a close back until it has returned."""
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
            return await self._inner_receive()  # accept() expects just this one, also when it comes too late
        if self._handler is not None and asyncio.current_task() is self._handler:
            self._is_read_by_handler = True
        if not self._closed and self._ended is None:
            try:
                return await self._inspect(await self._next())
            except TimeoutError:
                if not self._closed and self._ended is None:
                    raise
        if self._ended is None:  # being closed: a handler that ended now would have the server close first
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
            size, limit = _size(event), self._limits().max_message_size
            if size > limit:
                await self._observer.too_large(size, limit)
                self.interrupt(close_codes.TOO_LARGE, "message too large")
                return self._ended or event
            self._observer.heard()
        elif event["type"] == "websocket.disconnect":
            if self._ended is not None:  # by us: what the server says of it is an echo
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
            await self.close(event.get("code", close_codes.NORMAL), event.get("reason") or "")
            return
        await self._observer.flush()
        await self._inner_send(event)
        if kind == "websocket.accept":
            self._observer.opened()


async def _awaited(sending: Awaitable[None]) -> None:
    """Make a coroutine of any awaitable: a server's ``send`` need not be written in Python."""
    await sending


def _send_by_method(socket: Any, message: Encoded, json_value: object) -> Coroutine[Any, Any, None]:
    if message.form is Form.JSON:
        return socket.send_json(json_value)  # type: ignore[no-any-return]  # a foreign object
    if message.form is Form.BINARY:
        return socket.send_bytes(message.payload)  # type: ignore[no-any-return]  # a foreign object
    return socket.send_text(message.payload)  # type: ignore[no-any-return]  # a foreign object


def _size(event: AsgiEvent) -> int:
    text = event.get("text")
    if text is None:
        return len(event.get("bytes") or b"")
    return len(text) if text.isascii() else len(text.encode())


def _is_plain(websocket: WebSocket) -> bool:
    """Whether nobody has replaced the methods that send."""
    return all(
        getattr(type(websocket), name) is getattr(WebSocket, name)
        for name in ("send", "send_text", "send_bytes", "send_json")
    )


def handshake_of(websocket: object) -> HTTPConnection | None:
    """Return the request that opened a socket, without what only its ASGI application needs."""
    if not issubclass(type(websocket), WebSocket):
        return None
    scope = cast("WebSocket", websocket).scope
    return HTTPConnection({key: scope[key] for key in HANDSHAKE if key in scope})


def is_accepted(websocket: object) -> bool:
    """Whether messages may be written; a mock always says yes."""
    # type(), not isinstance(): AsyncMock(spec=WebSocket) claims to be one.
    return not issubclass(type(websocket), WebSocket) or (
        cast("WebSocket", websocket).application_state is not WebSocketState.CONNECTING
    )
