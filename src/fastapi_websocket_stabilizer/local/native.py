"""A Starlette WebSocket on a server that accepts prepared frames. A message needs no event, coroutine or task.

``fastapi_websocket_stabilizer.uvicorn`` offers such a socket in the ASGI scope. On other servers, messages go through
ASGI ``send``.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket

from .. import close_codes
from ..wire.messages import WITH_ADDRESS, Encoded
from .lifecycle import Limits
from .transport import AsgiTransport, Events, MethodTransport, NativeSocket, Observer, Transport

EXTENSION = "fastapi_websocket_stabilizer"
"""Key of the native socket in ``scope["extensions"]``."""
JOINED_BYTES = 64 * 1024
"""Bytes that one write of a replay may have before its last message."""


class NativeTransport(AsgiTransport):
    """A Starlette WebSocket on a native socket. The application's own ``send`` is still observed."""

    __slots__ = ("_is_parked", "_native", "_window_bits")

    def __init__(
        self,
        websocket: WebSocket,
        native: NativeSocket,
        limits: Callable[[], Limits],
        *,
        has_session: bool,
    ) -> None:
        super().__init__(websocket, limits, has_session=has_session)
        self._native, self._is_parked = native, False
        self._window_bits = native.window_bits + (WITH_ADDRESS if has_session else 0)

    def attach(self, observer: Observer) -> None:
        super().attach(observer)
        self._native.attach(observer, self._limits())

    def _watch_handler(self) -> None:
        """The server reports the end of the handler."""

    @property
    def native(self) -> NativeSocket | None:
        return None if self._has_own_methods else self._native

    def send(self, message: Encoded) -> Coroutine[Any, Any, None]:
        return super().send(message) if self._has_own_methods else self._send_frames([message])

    def send_some(self, messages: deque[Encoded]) -> Coroutine[Any, Any, None]:
        if self._has_own_methods:
            return super().send_some(messages)
        some, size = [messages.popleft()], 0
        while messages and (size := size + some[-1].size) < JOINED_BYTES:
            some.append(messages.popleft())
        return self._send_frames(some)

    async def _send_frames(self, messages: Sequence[Encoded]) -> None:
        if self._closed or not self._native.is_open:
            await self._refuse()
        self._native.write_now(b"".join([message.frame(self._window_bits) for message in messages]))

    async def drained(self, patience_s: Callable[[], float]) -> None:
        buffered, stalled_s = self._native.transport.get_write_buffer_size, 0.0
        step_s = self._limits().write_timeout_s
        while self._native.is_paused:
            waiting = buffered()
            try:
                async with asyncio.timeout(step_s):
                    await self._native.drain()
            except TimeoutError:
                stalled_s = 0.0 if buffered() < waiting else stalled_s + step_s
                if stalled_s and stalled_s >= patience_s():
                    raise TimeoutError(f"accepted no data for {stalled_s:g} s") from None

    async def _next(self) -> AsgiEvent:
        return await self._inner_receive()  # hang_up() queues a disconnect there

    async def close(self, code: int, reason: str, within_s: float = 0.0) -> None:
        if not self._native.is_open:
            if not self._is_parked:  # before the accept, a close is an HTTP answer
                await super().close(code, reason, within_s)
            return
        self._closed = True
        self._native.hang_up(code, reason, max(within_s, self._limits().close_timeout_s))
        try:
            await self._native.drain()
        except BaseException:  # the deadline of the caller: the close frame will not be written in time
            self._native.abort()
            raise
        finally:
            self.interrupt(code, reason)

    def interrupt(self, code: int, reason: str) -> None:
        if self._native.is_open:  # the deadline passed before a close frame could be written
            self._native.abort()
        super().interrupt(code, reason)

    def park(self, inbox: Events) -> None:
        """Keep the socket open when the ASGI application returns. Inbound events go to ``inbox``."""
        super().detach()
        self._is_parked = True
        del self._websocket, self._inner_receive, self._inner_send  # and everything that they keep in memory
        self._native.park(inbox)

    def detach(self) -> None:
        if self._is_parked:  # it has no application that could read or close it
            self._native.hang_up(close_codes.GOING_AWAY, "server shutdown", self._limits().close_timeout_s)
            return
        super().detach()
        self._native.detach(self._observer)


def find_native(websocket: WebSocket) -> NativeSocket | None:
    """Return the native socket of a WebSocket, or None if the server offers none."""
    native: NativeSocket | None = (websocket.scope.get("extensions") or {}).get(EXTENSION)
    return native


def open_transport(websocket: Any, limits: Callable[[], Limits], *, has_session: bool = False) -> Transport:
    """Return the fastest transport that still calls methods which the application has overridden.

    With ``has_session``, which is for sockets of ``stabilizer.v1``, messages are sent with their address.
    """
    if not issubclass(type(websocket), WebSocket):  # type(): AsyncMock(spec=WebSocket) claims to be one
        return MethodTransport(websocket)
    native = find_native(websocket)
    if native is None:
        return AsgiTransport(websocket, limits, has_session=has_session)
    return NativeTransport(websocket, native, limits, has_session=has_session)
