"""One socket: opened, read and written in tasks of its own, and reported to the client."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Literal, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    NegotiationError,
    ProxyError,
)
from websockets.typing import Subprotocol

from .closes import BROKEN

CLOSE_TIMEOUT_S = 2.0
"""Seconds for the closing handshake of a socket that is not used any more."""
QUEUED_FRAMES = 64
"""Frames that wait to be written before ``drain`` waits."""
_OWN_FAULTS = frozenset({1002, 1007, 1009})
"""Codes with which this side ends a socket because of what it received."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where and how sockets are opened; the values are those of ``websockets``."""

    url: str
    headers: Mapping[str, str]
    ssl: SSLContext | None
    proxy: str | Literal[True] | None
    max_frame_bytes: int


class Listener(Protocol):
    """Receives the events of sockets."""

    def opened(self, generation: int, subprotocol: str | None) -> None:
        """Note that a socket is open."""

    def received(self, generation: int, data: str | bytes) -> None:
        """Take a frame."""

    def ended(self, generation: int, code: int, reason: str) -> None:
        """Note that a socket was closed, or could not be opened."""


class Socket:
    """One attempt to open a socket, and the socket.

    Args:
        endpoint: Where to connect.
        generation: The number of the socket in the machine.
        items: The subprotocols to offer.
        listener: Receives the events, except after ``abandon``.
        may_read: Returns when the next frame may be read.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        generation: int,
        items: Sequence[str],
        *,
        listener: Listener,
        may_read: Callable[[], Awaitable[None]],
    ) -> None:
        self._endpoint, self._generation, self._items = endpoint, generation, items
        self._listener, self._may_read = listener, may_read
        self._frames: deque[str | bytes] = deque()
        self._has_frames, self._has_room = asyncio.Event(), asyncio.Event()
        self._has_room.set()
        self._is_closing = False
        self.task: asyncio.Task[None] = asyncio.create_task(
            self._run(), name=f"stabilizer socket {generation}"
        )

    def send(self, frame: str | bytes) -> None:
        """Queue a frame. After ``close`` it is dropped."""
        if not self._is_closing:
            self._frames.append(frame)
            self._has_frames.set()
            if len(self._frames) >= QUEUED_FRAMES:
                self._has_room.clear()

    async def drain(self) -> None:
        """Wait until few frames are queued, or the socket ends."""
        await self._has_room.wait()

    def close(self) -> None:
        """Write what is queued, then close with 1000. The task ends within two seconds."""
        self._is_closing = True
        self._has_frames.set()
        self._has_room.set()

    def abandon(self) -> None:
        """Drop the socket at once."""
        self._is_closing = True
        self._has_room.set()
        self.task.cancel()

    async def _run(self) -> None:
        try:
            code, reason = await self._connect_and_read()
        except (
            NegotiationError
        ) as error:  # the server selected what was not offered; only the text has its name
            self._listener.opened(self._generation, str(error).rpartition(": ")[2])
            return
        except (OSError, InvalidHandshake, InvalidProxy, ProxyError, TimeoutError) as error:
            code, reason = BROKEN, f"{type(error).__name__}: {error}"
        self._is_closing = True
        self._has_room.set()
        self._listener.ended(self._generation, code, reason)

    async def _connect_and_read(self) -> tuple[int, str]:
        endpoint = self._endpoint
        tls: dict[str, Any] = {} if endpoint.ssl is None else {"ssl": endpoint.ssl}
        connection = await connect(
            endpoint.url,
            subprotocols=[Subprotocol(item) for item in self._items],
            additional_headers=endpoint.headers,
            proxy=endpoint.proxy,
            max_size=endpoint.max_frame_bytes,
            open_timeout=None,  # the machine has a deadline for the whole attempt
            ping_interval=None,  # and its own signs of life
            close_timeout=CLOSE_TIMEOUT_S,
            **tls,
        )
        writer = asyncio.create_task(self._write(connection), name=f"stabilizer writer {self._generation}")
        try:
            self._listener.opened(self._generation, connection.subprotocol)
            return await self._read(connection)
        finally:
            writer.cancel()
            connection.transport.abort()

    async def _read(self, connection: ClientConnection) -> tuple[int, str]:
        try:
            while True:
                await self._may_read()
                self._listener.received(self._generation, await connection.recv())
        except ConnectionClosed as closed:
            sent = closed.sent
            if sent is not None and sent.code in _OWN_FAULTS and closed.rcvd_then_sent is not True:
                return sent.code, sent.reason
            if closed.rcvd is None:
                return BROKEN, ""
            return closed.rcvd.code, closed.rcvd.reason

    async def _write(self, connection: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                while self._frames:
                    await connection.send(self._frames.popleft())
                    if len(self._frames) < QUEUED_FRAMES // 2:
                        self._has_room.set()
                if self._is_closing:
                    await connection.close()
                    return
                self._has_frames.clear()
                await self._has_frames.wait()
