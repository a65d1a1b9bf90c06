"""A Starlette WebSocket on a line: messages go out as prepared frames."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket

from .. import close_codes
from ..wire.messages import Encoded
from .line import EXTENSION, Events, Line, LineObserver
from .owner import Limits
from .transport import AsgiTransport, MethodTransport, Transport


class LineTransport(AsgiTransport):
    """A Starlette WebSocket on a line. Messages go there; the application's own ``send`` is still tapped."""

    __slots__ = ("_is_parked", "_line")

    def __init__(
        self, websocket: WebSocket, line: Line, observer: LineObserver, limits: Callable[[], Limits]
    ) -> None:
        super().__init__(websocket, observer, limits)
        self._line, self._is_parked = line, False
        line.attach(observer, limits())

    @property
    def line(self) -> Line | None:
        return None if self._has_own_methods else self._line

    def send(self, message: Encoded) -> Coroutine[Any, Any, None]:
        return super().send(message) if self._has_own_methods else self._send_frame(message)

    async def _send_frame(self, message: Encoded) -> None:
        if self._closed or not self._line.is_open:
            await self._refuse()
        self._line.write_now(message.frame(self._line.window_bits))

    async def drained(self) -> None:
        """Wait until the peer has taken enough.

        Raises:
            TimeoutError: It took nothing at all for ``write_timeout_s``.
        """
        while self._line.is_paused:
            waiting = self._line.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._limits().write_timeout_s):
                    await self._line.drain()
            except TimeoutError:
                if self._line.transport.get_write_buffer_size() >= waiting:
                    raise

    async def _next(self) -> AsgiEvent:
        return await self._inner_receive()  # hang_up() puts its end there

    async def close(self, code: int, reason: str, within_s: float = 0.0) -> None:
        if not self._line.is_open:
            if not self._is_parked:  # before accept it is an HTTP answer
                await super().close(code, reason, within_s)
            return
        self._closed = True
        self._line.hang_up(code, reason, max(within_s, self._limits().close_timeout_s))
        try:
            await self._line.drain()
        except BaseException:  # the deadline of whoever closes: it will not come through
            self._line.abort()
            raise
        finally:
            self.interrupt(code, reason)

    def interrupt(self, code: int, reason: str) -> None:
        if self._line.is_open:  # the deadline passed before a close frame could be written
            self._line.abort()
        super().interrupt(code, reason)

    def park(self, inbox: Events) -> None:
        """Let the ASGI application end; the socket stays, and what comes in goes to ``inbox``."""
        super().detach()
        self._is_parked = True
        del self._websocket, self._inner_receive, self._inner_send  # with all that hangs on them
        self._line.park(inbox)

    def detach(self) -> None:
        if self._is_parked:  # nobody else would ever read or close it
            self._line.hang_up(close_codes.GOING_AWAY, "server shutdown", self._limits().close_timeout_s)
            return
        super().detach()
        self._line.detach(self._observer)


def find_line(websocket: WebSocket) -> Line | None:
    """Return the line that the server offers for a socket."""
    line: Line | None = (websocket.scope.get("extensions") or {}).get(EXTENSION)
    return line


def open_transport(websocket: Any, observer: LineObserver, limits: Callable[[], Limits]) -> Transport:
    """Return the fastest transport that keeps what the socket's own methods do."""
    if not issubclass(type(websocket), WebSocket):  # type(): AsyncMock(spec=WebSocket) claims to be one
        return MethodTransport(websocket)
    line = find_line(websocket)
    if line is None:
        transport = AsgiTransport(websocket, observer, limits)
        transport.watch_handler(observer.abandoned)
        return transport
    return LineTransport(websocket, line, observer, limits)
