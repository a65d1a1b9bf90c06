"""How a connection that has ended lets go of its socket, under one deadline."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from ..close_codes import MAX_REASON_BYTES, NO_STATUS
from .lifecycle import Limits
from .transport import Transport
from .writer import SocketWriter


class Closing:
    """One close of one socket, on the event loop of its connection.

    Attributes:
        is_finished: Whether it is over.
    """

    __slots__ = (
        "_deadline", "_is_read_out", "_limits", "_loop", "_over", "_transport", "_writer", "is_finished",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Callable[[], Limits],
        transport: Transport,
        writer: SocketWriter | None,
    ) -> None:
        self._loop, self._limits, self._transport, self._writer = loop, limits, transport, writer
        self._deadline: asyncio.Timeout | None = None
        self._over: asyncio.Future[None] | None = None  # while a call waits for the end of the close
        self._is_read_out = self._loop.create_future()
        self.is_finished: bool = False

    async def finish(self, code: int, reason: str) -> bool:
        """Write what is queued, close, end a ``receive()`` that waits; return whether the socket took the close."""
        reason = (reason or "").encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")
        try:
            async with asyncio.timeout(self._limits().close_timeout_s) as self._deadline:
                if self._writer is not None:
                    await self._writer.flush_patiently(self._deadline)
                await self._transport.close(code, reason, self.left_s)
        except Exception:  # noqa: BLE001 - late, or a socket that cannot even be closed
            return False
        else:
            return True
        finally:
            self._transport.interrupt(code, reason)
            self._end()

    def deny(self, status: HTTPStatus, reason: str) -> None:
        """Have the accept that comes answered with HTTP instead."""
        self._transport.deny(status, reason)
        self._transport.interrupt(NO_STATUS, reason)
        self._end()

    async def read_out(self) -> None:
        """Wait until the application has taken what a peer sent that is gone, for ``close_timeout_s`` at most.

        An application that is still busy then gets the rest later. One that waits is told that nothing more comes.
        """
        try:
            async with asyncio.timeout(self._limits().close_timeout_s) as self._deadline:
                await self._is_read_out
        except TimeoutError:
            if self._transport.is_receiving:
                self._transport.interrupt(NO_STATUS, "")
        finally:
            self._end()

    def was_read_out(self) -> None:
        """End ``read_out``."""
        if not self._is_read_out.done():
            self._is_read_out.set_result(None)

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.drop()
        self.is_finished = True
        if self._over is not None:
            self._over.set_result(None)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        deadline_s = None if self._deadline is None else self._deadline.when()
        return 0.0 if deadline_s is None else max(0.0, deadline_s - self._loop.time())

    def abort(self) -> None:
        """Pass the deadline now."""
        if self._deadline is not None and not self.is_finished and not self._deadline.expired():
            self._deadline.reschedule(self._loop.time())

    async def wait(self) -> None:
        """Wait until the close is over."""
        if self.is_finished:
            return
        if self._over is None:
            self._over = self._loop.create_future()
        # finish() has a deadline; it may wait for its turn for as long (max_concurrent_cleanup).
        await asyncio.wait([self._over], timeout=2 * self._limits().close_timeout_s + self.left_s)

    def let_go(self) -> None:
        """Give the socket back as it was, open."""
        self.is_finished = True
        self._transport.detach()
        if self._writer is not None:
            self._writer.cancel()
