"""The clients of a run: each reconnects when its socket is closed, and records its messages."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.chaos.checker import REPLACED
from tests.chaos.history import History, Socket
from tests.chaos.replicas import Replica

GREETING = "registered"
LONGEST_OPENING_S = 15.0


async def connect_in_haste(replica: Replica, socket: Socket, within_s: float) -> None:
    """Open a socket that is closed when registered, or whose registration is cancelled after ``within_s``."""
    url = f"ws://127.0.0.1:{replica.port}/hasty/{socket.client}?within_s={within_s}"
    with suppress(OSError, TimeoutError, ConnectionClosed, WebSocketException):
        async with asyncio.timeout(LONGEST_OPENING_S), connect(url, proxy=None, close_timeout=1) as link:
            await link.wait_closed()


class Client:
    """One client, usually with one socket. It has two for a moment when it moves."""

    def __init__(
        self, name: str, replicas: list[Replica], history: History, now_s: Callable[[], float]
    ) -> None:
        self.name = name
        self._replicas, self._history, self._now_s = replicas, history, now_s
        self._rng = random.Random(name)
        self._lives: dict[asyncio.Task[None], Socket] = {}
        self._links: dict[int, ClientConnection] = {}
        self.is_wanted = True

    def come(self, replica: Replica) -> None:
        """Open a socket at a replica, in addition to existing ones."""
        socket = Socket(self.name, replica.name, self._now_s())
        self._history.sockets.append(socket)
        life = asyncio.create_task(self._live(socket, replica))
        self._lives[life] = socket
        life.add_done_callback(self._lives.pop)

    def hang_up(self) -> None:
        """Close all open sockets. The client reconnects later."""
        for socket in [s for s in self._lives.values() if s.is_open]:
            socket.is_hung_up = True
            link = self._links.get(id(socket))
            if link is not None:
                link.transport.close()

    def read(self, *, is_reading: bool) -> None:
        """Stop or continue reading."""
        for link in self._links.values():
            if is_reading:
                link.transport.resume_reading()
            else:
                link.transport.pause_reading()

    async def _live(self, socket: Socket, replica: Replica) -> None:
        url = f"ws://127.0.0.1:{replica.port}/ws/{self.name}"
        try:
            async with asyncio.timeout(LONGEST_OPENING_S) as opening:
                link = await connect(url, proxy=None, ping_interval=None, close_timeout=1, max_size=None)
                self._links[id(socket)] = link
                await self._listen(socket, link, opening)
        except (OSError, TimeoutError, ConnectionClosed, WebSocketException) as error:
            self._note_end(socket, error)
        finally:
            self._links.pop(id(socket), None)
        if self.is_wanted and socket.reason != REPLACED and not self._has_others(socket):
            await asyncio.sleep(self._rng.uniform(0.1, 1.0))
            if self.is_wanted and not self._has_others(socket):
                self.come(self._rng.choice(self._replicas))

    async def _listen(self, socket: Socket, link: ClientConnection, opening: asyncio.Timeout) -> None:
        while True:
            text = str(await link.recv()).rstrip("x")
            if text == GREETING:
                socket.opened_s = self._now_s()
                opening.reschedule(None)
            else:
                socket.got.append(text)

    def _note_end(self, socket: Socket, error: Exception) -> None:
        socket.closed_s = self._now_s()
        socket.code, socket.reason = 1006, type(error).__name__
        link = self._links.get(id(socket))
        if link is None:
            return
        if isinstance(error, ConnectionClosed):
            socket.code, socket.reason = link.close_code or 1006, link.close_reason or ""
        else:
            link.transport.abort()

    def _has_others(self, socket: Socket) -> bool:
        return any(other is not socket for other in self._lives.values())

    async def stop(self) -> None:
        """Close all sockets, without reconnecting."""
        self.is_wanted = False
        for life in tuple(self._lives):
            life.cancel()
        if self._lives:
            await asyncio.wait(tuple(self._lives))
