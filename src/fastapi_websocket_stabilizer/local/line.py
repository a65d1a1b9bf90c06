"""A server's socket that takes prepared frames: no ASGI event, no coroutine and no task for a message.

``fastapi_websocket_stabilizer.uvicorn`` offers one in the ASGI scope; on other servers sockets are written to
through ASGI ``send``.
"""

import asyncio
from typing import Protocol

from starlette.types import Message as AsgiEvent

from .owner import Limits

EXTENSION = "fastapi_websocket_stabilizer"
"""Where a server that has lines puts them in ``scope["extensions"]``."""


class Events(Protocol):
    """Takes what comes in, as ASGI events."""

    def put_nowait(self, event: AsgiEvent) -> None: ...


class Line(Protocol):
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

    def attach(self, observer: "LineObserver", limits: Limits) -> None:
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
    """What a socket tells its connection."""

    def opened(self) -> None:
        """The socket was accepted; messages may be written."""
        ...

    async def flush(self) -> None:
        """Wait until what was sent before is written."""
        ...

    def heard(self) -> None:
        """A message came in."""
        ...

    def hung_up(self, code: int, reason: str) -> None:
        """The peer is gone."""
        ...

    async def too_large(self, size: int, limit: int) -> None:
        """A message over the limit came in: close with 1009."""
        ...


class LineObserver(Observer, Protocol):
    """What a line tells its connection, besides what any socket does."""

    def paused(self) -> None:
        """The write buffer is over its high-water mark."""
        ...

    def deferred(self) -> None:
        """The peer has sent more than one turn of the event loop is to handle."""
        ...

    def refused(self, code: int) -> None:
        """What came in was refused with this close code."""
        ...

    def gone(self, error: str) -> None:
        """The socket is closed; messages that came before may still wait for the application."""
        ...

    def abandoned(self) -> None:
        """The ASGI application has ended, and the server closes the socket."""
        ...

    def cut(self) -> None:
        """Nothing more can be written."""
        ...
