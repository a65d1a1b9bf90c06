"""Clients of ``stabilizer.v1`` that go away and come back on any replica, with the machine of the Python client."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress

from clients.python.tests.mutations import MovesAfterTheHandler
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from fastapi_websocket_stabilizer_client import frames
from fastapi_websocket_stabilizer_client.machine import Machine
from tests.chaos import history as told
from tests.chaos.history import History
from tests.chaos.recorder import Recorder
from tests.chaos.replicas import Replica

LONGEST_OPENING_S = 10.0
OF_CLIENTS: dict[str, type[Machine]] = {"position after the handler": MovesAfterTheHandler}
"""Sown faults of the followers."""


class Follower(Recorder):
    """One client object, with all its connections.

    Args:
        rooms: Rooms that every connection enters from its beginning.
        machine, abrupt: See ``Recorder``.
    """

    def __init__(
        self,
        name: str,
        rooms: list[str],
        replicas: list[Replica],
        history: History,
        now_s: Callable[[], float],
        machine: type[Machine],
        abrupt: float,
    ) -> None:
        super().__init__(name, history, now_s, machine, abrupt)
        self.rooms, self._replicas, self._history = rooms, replicas, history
        self._links: dict[int, ClientConnection] = {}
        self._sockets: dict[int, told.Socket] = {}
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []

    def read(self, *, is_reading: bool) -> None:
        """Stop or continue reading."""
        for link in self._links.values():
            if is_reading:
                link.transport.resume_reading()
            else:
                link.transport.pause_reading()

    async def stop(self) -> None:
        """End all connections."""
        self.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._failures:
            raise ExceptionGroup(f"the follower {self.name} failed", self._failures)

    # Sockets

    def dial(self, generation: int, items: tuple[str, ...]) -> None:
        replica = self._rng.choice(self._replicas)
        socket = told.Socket(self.name, replica.name, self._now_s())
        self._sockets[generation] = socket
        self._history.sockets.append(socket)
        query = "&".join(f"room={room}" for room in self.rooms)
        url = f"ws://127.0.0.1:{replica.port}/v1/{self.name}?{query}"
        self._lives[generation] = self._spawn(self._live(generation, url, items))

    async def _live(self, generation: int, url: str, items: tuple[str, ...]) -> None:
        code, reason, link = 1006, "", None
        try:
            async with asyncio.timeout(LONGEST_OPENING_S):
                offered = [Subprotocol(item) for item in items]
                link = await connect(
                    url,
                    subprotocols=offered,
                    proxy=None,
                    compression=None,  # padding takes its bytes
                    ping_interval=None,
                    close_timeout=1,
                    max_size=None,
                )
            self._links[generation] = link
            self.opened(generation, link.subprotocol)
            async for data in link:
                if generation not in self._lives:
                    return
                self._take(generation, data)
        except (OSError, TimeoutError, WebSocketException) as error:
            reason = type(error).__name__
        if link is not None:
            code, reason = link.close_code or 1006, link.close_reason or ""
        self._over(generation, code, reason)
        self.closed(generation, code, reason)

    def _take(self, generation: int, data: str | bytes) -> None:
        frame, socket = frames.read(data), self._sockets[generation]
        if isinstance(frame, frames.Entry) and not frame.key:  # the machine drops known copies
            socket.got.append(str(frame.data).rstrip("x"))
        if self.take(generation, data):
            socket.opened_s = self._now_s()

    def _over(self, generation: int, code: int, reason: str) -> None:
        socket = self._sockets[generation]
        if socket.closed_s is None:
            socket.closed_s, socket.code, socket.reason = self._now_s(), code, reason
        self._links.pop(generation, None)
        self._lives.pop(generation, None)

    def end(self, generation: int) -> None:
        link, life = self._links.get(generation), self._lives.get(generation)
        if life is None:
            return
        self._over(generation, 1006, "abandoned")
        if link is not None:
            link.transport.abort()
        if life is not asyncio.current_task():
            life.cancel()

    def send(self, generation: int, frame: str | bytes) -> None:
        self._spawn(self._send(generation, frame))

    async def _send(self, generation: int, frame: str | bytes) -> None:
        link = self._links.get(generation)
        if link is not None:
            with suppress(ConnectionClosed, OSError):
                await link.send(frame)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._failures.append(error)
