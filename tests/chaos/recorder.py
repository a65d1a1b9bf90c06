"""One client object of ``stabilizer.v1``, and the record of what its application is told. It has no sockets."""

import asyncio
import json
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from fastapi_websocket_stabilizer_client import actions as do
from fastapi_websocket_stabilizer_client import frames
from fastapi_websocket_stabilizer_client.machine import Machine
from fastapi_websocket_stabilizer_client.messages import EVERYBODY as TO_ALL
from fastapi_websocket_stabilizer_client.messages import MAILBOX, Log, Lost, Message, Status
from tests.chaos import history as told
from tests.chaos.history import Heard, History, mailbox_of


class Recorder(ABC):
    """Carries out the actions of the machine of a Python client, over all its connections.

    Args:
        machine: The machine, sound or with a sown fault.
        abrupt: Share of messages whose handler connects again while it handles them.
    """

    def __init__(
        self, name: str, history: History, now_s: Callable[[], float], machine: type[Machine], abrupt: float
    ) -> None:
        self.name = name
        self._now_s = now_s
        self._rng, self._abrupt = random.Random(name), abrupt
        self._machine = machine(self._rng.random)
        self.record = told.Follower(name)
        history.followers.append(self.record)
        self._with_cursor: set[int] = set()
        self._actions: deque[do.Action] = deque()
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None

    @abstractmethod
    def dial(self, generation: int, items: tuple[str, ...]) -> None:
        """Open a socket that offers these items."""

    @abstractmethod
    def send(self, generation: int, frame: str | bytes) -> None:
        """Send a frame, unless the socket is closing."""

    @abstractmethod
    def end(self, generation: int) -> None:
        """Drop a socket, without waiting for the other side."""

    @property
    def is_live(self) -> bool:
        return self._machine.status is Status.LIVE

    def come(self) -> None:
        """Connect, at first or again."""
        start = self._machine.online if self._machine.status is Status.OFFLINE else self._machine.start
        self.carry_out(start(self._now_s()))

    def go(self) -> None:
        """Lose the network, and with it the connection."""
        self.carry_out(self._machine.offline(self._now_s()))

    def hurry(self) -> None:
        """Connect now if it waits, and not after its delay."""
        if self._machine.status is not Status.LIVE:
            self.carry_out(self._machine.reconnect(self._now_s()))

    def close(self) -> None:
        """End all connections."""
        self.record.is_live = self.is_live
        self.carry_out(self._machine.close(self._now_s()))
        if self._timer is not None:
            self._timer.cancel()

    # Actions of the machine

    def carry_out(self, actions: list[do.Action]) -> None:
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
                if any(item.startswith("stabilizer.v1.resume") for item in items):
                    self._with_cursor.add(generation)
                self.dial(generation, items)
            case do.Send(generation, frame):
                self.send(generation, frame)
            case do.Close(generation) | do.Abandon(generation):
                self.end(generation)
            case do.Deliver(event):
                self.deliver(event)
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
        self.carry_out(self._machine.timer(self._now_s()))

    def deliver(self, event: Message | Lost) -> None:
        """Record a message or a loss, as the application gets it."""
        log, at_s = self._name_of(event.log), self._now_s()
        if isinstance(event, Lost):
            self.record.heard.append(Heard(at_s, "lost", log, event.top, event.code))
            return
        self.record.heard.append(Heard(at_s, "entry", log, event.id, str(event.data).rstrip("x")))
        if event.id and self._rng.random() < self._abrupt:
            self.carry_out(self._machine.reconnect(self._now_s()))
        elif event.log == MAILBOX and event.id:
            self.carry_out(self._machine.handled(event.id, self._now_s()))

    def _name_of(self, log: Log) -> str:
        if isinstance(log, str):
            return log
        return told.EVERYBODY if log == TO_ALL else mailbox_of(self.name)

    def _note_room(self, room: str, *, is_member: bool) -> None:
        position = json.loads(self._machine.cursor or '{"at":{}}')["at"].get(room)
        positions = {room: position} if is_member else {}
        what = "in" if is_member else "out"
        self.record.heard.append(Heard(self._now_s(), what, room, positions=positions))

    def take(self, generation: int, data: str | bytes) -> bool:
        """Take a frame of the server. Return whether it is the first frame of the connection in use."""
        frame = frames.read(data)
        actions = self._machine.frame(generation, data, self._now_s())
        is_hi = isinstance(frame, frames.Hi) and self._session() == frame.session
        if isinstance(frame, frames.Hi) and is_hi:
            self._note_hi(generation, frame)
        elif isinstance(frame, frames.Positions):
            self._note_positions(frame)
        self.carry_out(actions)
        return is_hi

    def _note_positions(self, told: frames.Positions) -> None:
        """Note the begin of rooms that were entered while Redis was away, unless the frame is of a former socket."""
        now = json.loads(self._machine.cursor or '{"at":{}}')["at"]
        positions = {room: position for room, position in told.rooms.items() if now.get(room) == position}
        self.record.heard.append(Heard(self._now_s(), "in", positions=positions))

    def _session(self) -> str:
        return str(json.loads(self._machine.cursor or '{"s":""}')["s"])

    def _note_hi(self, generation: int, hi: frames.Hi) -> None:
        positions = dict(hi.at.rooms)
        for log, position in ((TO_ALL, hi.at.everybody), (MAILBOX, hi.at.mailbox)):
            if position is not None:
                positions[self._name_of(log)] = position
        had_cursor = generation in self._with_cursor
        heard = Heard(self._now_s(), "hi", resumed=hi.outcome, had_cursor=had_cursor, positions=positions)
        heard.lost = len(hi.lost)
        self.record.heard.append(heard)

    def opened(self, generation: int, subprotocol: str | None) -> None:
        """Note that a socket is open, with the subprotocol that the server has selected."""
        self.carry_out(self._machine.opened(generation, subprotocol, self._now_s()))

    def closed(self, generation: int, code: int, reason: str) -> None:
        """Note that a socket is closed."""
        self.carry_out(self._machine.closed(generation, code, reason, self._now_s()))
