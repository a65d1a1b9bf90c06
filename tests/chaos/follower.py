"""Clients of ``stabilizer.v1`` that go away and come back on any replica, with the machine of the Python client."""

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress

from clients.python.tests.mutations import MovesAfterTheHandler
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from fastapi_websocket_stabilizer_client import actions as do
from fastapi_websocket_stabilizer_client import frames
from fastapi_websocket_stabilizer_client.machine import Machine
from fastapi_websocket_stabilizer_client.messages import EVERYBODY as TO_ALL
from fastapi_websocket_stabilizer_client.messages import MAILBOX, Log, Lost, Message, Status
from tests.chaos import history as told
from tests.chaos.history import Heard, History, mailbox_of
from tests.chaos.replicas import Replica

LONGEST_OPENING_S = 10.0
OF_CLIENTS: dict[str, type[Machine]] = {"position after the handler": MovesAfterTheHandler}
"""Sown faults of the followers."""


class Follower:
    """One client object, with all its connections.

    Args:
        rooms: Rooms that every connection enters from its beginning.
        machine: The machine, sound or with a sown fault.
        abrupt: Share of messages whose handler connects again while it handles them.
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
        self.name, self.rooms = name, rooms
        self._replicas, self._history, self._now_s = replicas, history, now_s
        self._rng, self._abrupt = random.Random(name), abrupt
        self._machine = machine(self._rng.random)
        self.record = told.Follower(name)
        history.followers.append(self.record)
        self._links: dict[int, ClientConnection] = {}
        self._sockets: dict[int, told.Socket] = {}
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._with_cursor: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []
        self._actions: deque[do.Action] = deque()
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_live(self) -> bool:
        return self._machine.status is Status.LIVE

    def come(self) -> None:
        """Connect, at first or again."""
        start = self._machine.online if self._machine.status is Status.OFFLINE else self._machine.start
        self._carry_out(start(self._now_s()))

    def go(self) -> None:
        """Lose the network, and with it the connection."""
        self._carry_out(self._machine.offline(self._now_s()))

    def hurry(self) -> None:
        """Connect now if it waits, and not after its delay."""
        if self._machine.status is not Status.LIVE:
            self._carry_out(self._machine.reconnect(self._now_s()))

    def read(self, *, is_reading: bool) -> None:
        """Stop or continue reading."""
        for link in self._links.values():
            if is_reading:
                link.transport.resume_reading()
            else:
                link.transport.pause_reading()

    async def stop(self) -> None:
        """End all connections."""
        self.record.is_live = self.is_live
        self._carry_out(self._machine.close(self._now_s()))
        if self._timer is not None:
            self._timer.cancel()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._failures:
            raise ExceptionGroup(f"the follower {self.name} failed", self._failures)

    # Actions of the machine

    def _carry_out(self, actions: list[do.Action]) -> None:
        """Carry out actions. A handler may call the machine, whose actions then follow behind the others."""
        self._actions.extend(actions)
        if self._is_busy:
            return
        self._is_busy = True
        while self._actions:
            self._act(self._actions.popleft())
        self._is_busy = False
        self._set_timer()

    def _act(self, action: do.Action) -> None:
        match action:
            case do.Dial(generation, items):
                self._dial(generation, items)
            case do.Send(generation, frame):
                self._spawn(self._send(generation, frame))
            case do.Close(generation) | do.Abandon(generation):
                self._end(generation)
            case do.Deliver(event):
                self._deliver(event)
            case do.RoomChanged(room, is_member):
                self._note_room(room, is_member=is_member)
            case _:
                pass

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_s = self._machine.timer_at
        if at_s is not None:
            delay_s = max(0.0, at_s - self._now_s()) + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._carry_out(self._machine.timer(self._now_s()))

    def _deliver(self, event: Message | Lost) -> None:
        log, at_s = self._name_of(event.log), self._now_s()
        if isinstance(event, Lost):
            self.record.heard.append(Heard(at_s, "lost", log, event.top, event.code))
            return
        self.record.heard.append(Heard(at_s, "entry", log, event.id, str(event.data).rstrip("x")))
        if event.id and self._rng.random() < self._abrupt:
            self._carry_out(self._machine.reconnect(self._now_s()))
        elif event.log == MAILBOX and event.id:
            self._carry_out(self._machine.handled(event.id, self._now_s()))

    def _name_of(self, log: Log) -> str:
        if isinstance(log, str):
            return log
        return told.EVERYBODY if log == TO_ALL else mailbox_of(self.name)

    def _note_room(self, room: str, *, is_member: bool) -> None:
        position = json.loads(self._machine.cursor or '{"at":{}}')["at"].get(room)
        positions = {room: position} if is_member else {}
        what = "in" if is_member else "out"
        self.record.heard.append(Heard(self._now_s(), what, room, positions=positions))

    def _note_hi(self, generation: int, hi: frames.Hi) -> None:
        positions = dict(hi.at.rooms)
        for log, position in ((TO_ALL, hi.at.everybody), (MAILBOX, hi.at.mailbox)):
            if position is not None:
                positions[self._name_of(log)] = position
        had_cursor = generation in self._with_cursor
        heard = Heard(self._now_s(), "hi", resumed=hi.outcome, had_cursor=had_cursor, positions=positions)
        heard.lost = len(hi.lost)
        self.record.heard.append(heard)

    # Sockets

    def _dial(self, generation: int, items: tuple[str, ...]) -> None:
        replica = self._rng.choice(self._replicas)
        if any(item.startswith("stabilizer.v1.resume") for item in items):
            self._with_cursor.add(generation)
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
            self._carry_out(self._machine.opened(generation, link.subprotocol, self._now_s()))
            async for data in link:
                if generation not in self._lives:
                    return
                self._take(generation, data)
        except (OSError, TimeoutError, WebSocketException) as error:
            reason = type(error).__name__
        if link is not None:
            code, reason = link.close_code or 1006, link.close_reason or ""
        self._over(generation, code, reason)
        self._carry_out(self._machine.closed(generation, code, reason, self._now_s()))

    def _take(self, generation: int, data: str | bytes) -> None:
        frame, socket = frames.read(data), self._sockets[generation]
        if isinstance(frame, frames.Entry) and not frame.key:  # the machine drops known copies
            socket.got.append(str(frame.data).rstrip("x"))
        actions = self._machine.frame(generation, data, self._now_s())
        if isinstance(frame, frames.Hi) and self._session() == frame.session:
            socket.opened_s = self._now_s()
            self._note_hi(generation, frame)
        self._carry_out(actions)

    def _session(self) -> str:
        return str(json.loads(self._machine.cursor or '{"s":""}')["s"])

    def _over(self, generation: int, code: int, reason: str) -> None:
        socket = self._sockets[generation]
        if socket.closed_s is None:
            socket.closed_s, socket.code, socket.reason = self._now_s(), code, reason
        self._links.pop(generation, None)
        self._lives.pop(generation, None)

    def _end(self, generation: int) -> None:
        """Drop a socket, without waiting for the other side."""
        link, life = self._links.get(generation), self._lives.get(generation)
        if life is None:
            return
        self._over(generation, 1006, "abandoned")
        if link is not None:
            link.transport.abort()
        if life is not asyncio.current_task():
            life.cancel()

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
