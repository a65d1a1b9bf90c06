"""A world around the machine: a server with logs and sessions, sockets that break, and an application.

``World`` takes one step after another. ``Violation`` is raised by the step that breaks a promise:

- Of every log the application receives a contiguous run of its entries, in order and each once, or it learns first
  that the log lost continuity.
- Each call has one outcome.
- The server receives nothing that the protocol forbids.
"""

import json
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clients.python.tests.server import LOGS, ROOMS, Peer, Server, Violation, Wire, cursor_of

from fastapi_websocket_stabilizer_client import actions as do
from fastapi_websocket_stabilizer_client.errors import ClosedError, LimitError, NotConnectedError
from fastapi_websocket_stabilizer_client.machine import Machine
from fastapi_websocket_stabilizer_client.messages import Log, Lost, Message, Status
from fastapi_websocket_stabilizer_client.options import Options

NEXT = {
    Status.IDLE: {Status.CONNECTING},
    Status.CONNECTING: {Status.CATCHING_UP, Status.WAITING, Status.OFFLINE, Status.CLOSED},
    Status.CATCHING_UP: {Status.LIVE, Status.CONNECTING, Status.WAITING, Status.OFFLINE, Status.CLOSED},
    Status.LIVE: {Status.CATCHING_UP, Status.CONNECTING, Status.WAITING, Status.OFFLINE, Status.CLOSED},
    Status.WAITING: {Status.CONNECTING, Status.OFFLINE, Status.CLOSED},
    Status.OFFLINE: {Status.CONNECTING, Status.CLOSED},
    Status.CLOSED: {Status.CONNECTING},
}


OFTEN = 6
"""How often a step is offered that is asked for, beside its usual place."""
LONGEST_REST_S = 600.0
"""Time in which everything must come to rest when nothing fails any more."""


class Picks:
    """Decisions of a schedule, from a list of integers. After its end the first choice is taken."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = iter(numbers)

    def below(self, bound: int) -> int:
        return next(self._numbers, 0) % bound

    def one_in(self, bound: int) -> bool:
        """Decide for a thing that happens seldom; not after the end of the list."""
        return self.below(bound) == bound - 1


def positions_of(cursor: dict[str, Any] | None) -> dict[Log, int]:
    """Return the positions of a cursor by log."""
    if cursor is None:
        return {}
    named: dict[Log, int] = dict(cursor["at"])
    return named | {log: cursor[key] for key, log in (("all", 1), ("box", 0)) if key in cursor}


@dataclass
class Application:
    """What the application received, and what it may receive next."""

    server: Server
    expected: dict[Log, int] = field(default_factory=dict)
    """The number of entries of a log up to the last one that it received."""
    last: dict[Log, int] = field(default_factory=dict)
    """The id of that entry, or that up to which entries were lost."""
    keys: set[str] = field(default_factory=set)
    members: dict[str, set[str]] = field(default_factory=dict)

    def start_logs(self, cursor: str | None, actions: Sequence[do.Action] = ()) -> None:
        """Note where logs begin of which nothing was received yet."""
        known = positions_of(json.loads(cursor) if cursor else None)
        for action in actions:
            if isinstance(action, do.Deliver) and isinstance(action.event, Message):
                known.pop(action.event.log, None)  # of a log that begins among held frames, its first entry
                if action.event.id and action.event.log not in self.expected:
                    self.expected[action.event.log] = (
                        self.server.logs[action.event.log].behind[action.event.id] - 1
                    )
        for log, position in known.items():
            self.expected.setdefault(log, self.server.logs[log].behind[position])

    def receive(self, event: Message | Lost) -> None:
        log = self.server.logs[event.log]
        if isinstance(event, Lost):
            self.expected[event.log] = log.behind[event.top]
            self.last[event.log] = event.top
        elif event.id:
            data = int.from_bytes(event.data, "big") if isinstance(event.data, bytes) else event.data
            number = log.behind[event.id] - 1
            item = log.items[number]
            skipped = self._skip(event.log)
            if item.data != data or skipped != number:
                raise Violation(f"{event} is entry {number} of its log, and {skipped} is the next one")
            if item.key:
                self.keys.add(item.key)
            self.expected[event.log], self.last[event.log] = number + 1, event.id

    def _skip(self, log: Log) -> int:
        """Return the number of the next entry that the application has to receive."""
        items, number = self.server.logs[log].items, self.expected[log]
        while number < len(items) and (not items[number].is_for_client or items[number].key in self.keys):
            number += 1
        return number

    def check_cursor(self, cursor: dict[str, Any] | None) -> None:
        """Check that a cursor has what the application received, and the entries that were not meant for it."""
        for log, position in positions_of(cursor).items():
            number, last = self.server.logs[log].behind[position], self.last.get(log, position)
            is_same = position == last or number != self.server.logs[log].behind[last]
            if not (is_same and self.expected[log] <= number <= self._skip(log)):
                raise Violation(f"{cursor} is not what the application has: {self.expected}")

    def check_complete(self, log: Log) -> None:
        if (number := self._skip(log)) != len(self.server.logs[log].items):
            raise Violation(f"the application has {number} entries of {log!r} and misses the others")


class World:
    """The machine with all around it."""

    def __init__(self, picks: Picks, make: type[Machine] = Machine, often: Sequence[str] = ()) -> None:
        self.picks = picks
        self.often = [getattr(self, name) for name in often] * OFTEN
        self.now_s = 0.0
        self.server = Server(evicts=picks.below(2) == 0)
        self.application = Application(self.server)
        self.machine = make(lambda: picks.below(8) / 8, Options(has_auth=picks.below(2) == 1, max_held=6))
        self.wires: dict[int, Wire] = {}
        self.authorizing: list[int] = []
        self.asked: dict[tuple[int, int], int] = {}
        self.unasked: dict[tuple[int, int], int] = {}
        """Requests that the server does not wait for, whose handlers have not ended yet."""
        self.status = Status.IDLE
        self.confirmed: dict[Hashable, int] = {}
        self.joining: set[Hashable] = set()
        self.wanted: set[str] = set()
        self.open_calls: set[Hashable] = set()
        self.last_call = self.last_question = 0
        self.is_calm = False
        self._queue: deque[do.Action] = deque()
        self._is_busy = False

    def run(self, steps: int = 60) -> None:
        self.carry_out(self.machine.start(self.now_s))
        for _ in range(steps):
            self.step()
        self.settle()

    def carry_out(self, actions: list[do.Action]) -> None:
        """Carry out actions. Handlers of the application may call the machine in between."""
        self.application.start_logs(self.machine.cursor, actions)
        self._queue.extend(actions)
        if self._is_busy:
            return
        self._is_busy = True
        while self._queue:
            self._one(self._queue.popleft())
        self._is_busy = False

    def _one(self, action: do.Action) -> None:
        match action:
            case do.Authorize() | do.Dial() | do.Send() | do.Close() | do.Abandon():
                self._use_socket(action)
            case do.StatusChanged(change):
                if change.old is not self.status or change.new not in NEXT[change.old]:
                    raise Violation(f"{change} after {self.status}")
                self.status = change.new
            case _:
                self._tell(action)

    def _use_socket(self, action: do.Action) -> None:
        match action:
            case do.Authorize(generation):
                self.authorizing.append(generation)
            case do.Dial(generation, items):
                if len(", ".join(items)) > 4096:
                    raise Violation("the header is too long")
                self.wires[generation] = Wire(generation, items)
                self.application.check_cursor(cursor_of(items))
            case do.Send(generation, frame):
                self._send(self.wires[generation], frame)
            case do.Close(generation) | do.Abandon(generation):
                if generation in self.wires:
                    self.wires[generation].is_over = True
                    self.wires[generation].to_server.append(None)

    def _send(self, wire: Wire, frame: str | bytes) -> None:
        if isinstance(frame, str) and frame.startswith('{"resume"'):
            self.application.check_cursor(json.loads(frame)["resume"])
        if not wire.is_over:
            wire.to_server.append(frame)

    def _tell(self, action: do.Action) -> None:
        match action:
            case do.Deliver(event):
                self.application.receive(event)
                self._handle(event)
            case do.Settle(key, _, error):
                if key not in self.open_calls:
                    raise Violation(f"call {key} has a second outcome: {error}")
                self.open_calls.remove(key)
                self._settled(key, error)
            case do.Asked(generation, request):
                self.asked[generation, request.number] = request.data
            case do.Unasked(generation, number):
                self.unasked[generation, number] = self.asked.pop((generation, number))
            case do.RoomChanged(room, False):
                self.wanted.discard(room)
                self.application.expected.pop(room, None)
                self.application.last.pop(room, None)
                self.application.start_logs(self.machine.cursor)
            case do.PresenceChanged(room, members):
                self.application.members[room] = set(members)

    def _settled(self, key: Hashable, error: Exception | None) -> None:
        if error is None and key in self.confirmed and not self.server.handled[self.confirmed[key]]:
            raise Violation(f"message {key} is confirmed, and was not handled")
        if key in self.joining and error is None:
            self.wanted.add("b")

    def _handle(self, event: Message | Lost) -> None:
        """Be a handler: do something while messages are dispatched."""
        if self.is_calm:
            return
        choice = self.picks.below(24)
        if isinstance(event, Message) and event.log == 0 and event.id:
            self.carry_out(self.machine.handled(event.id, self.now_s))
        if choice == 23:
            self.carry_out(self.machine.reconnect(self.now_s))
        elif choice == 22:
            self.carry_out(self.machine.close(self.now_s))
            self.carry_out(self.machine.start(self.now_s))
        elif choice in (20, 21):
            self.call()

    # Steps.

    def step(self) -> None:
        kinds = [
            *[self.move] * 14, *[self.publish] * 6, *[self.call] * 3, *[self.advance] * 3,
            *[self.publish_several] * 4, *[self.confirm] * 2, *[self.cancel] * 2,
            *[self.drain] * 2, *[self.presence] * 3, *[self.watch] * 2, *[self.break_] * 2,
            self.whisper, self.exclude, self.half_open, self.tell_twice, self.trim, self.fail_over, self.redis,
            self.close_by_server, self.network, self.restart, self.ask, self.expire, self.tell_time, self.garbage,
            *self.often,
        ]  # fmt: skip
        kinds[self.picks.below(len(kinds))]()
        if self.server.is_redis_away and self.picks.one_in(8):
            self.server.redis(is_away=False)

    def move(self) -> None:
        """Move something on its way to its end, or let something finish."""
        moves = list(self._moves())
        if moves:
            moves[self.picks.below(len(moves))]()

    def _moves(self) -> Iterator[Callable[[], None]]:
        for generation in list(self.authorizing):
            yield lambda generation=generation: self._authorize(generation)  # type: ignore[misc]  # default argument
        for wire in list(self.wires.values()):
            if not wire.is_accepted and not wire.is_over:
                yield lambda wire=wire: self._accept(wire)  # type: ignore[misc]  # default argument
            if wire.to_client:
                yield lambda wire=wire: self._to_client(wire)  # type: ignore[misc]  # default argument
            if wire.to_server:
                yield lambda wire=wire: self._to_server(wire)  # type: ignore[misc]  # default argument
        for generation, number in [*self.asked, *self.unasked]:
            yield lambda g=generation, n=number: self._answer(g, n)  # type: ignore[misc]  # default argument

    def _authorize(self, generation: int) -> None:
        self.authorizing.remove(generation)
        if not self.is_calm and self.picks.one_in(8):
            self.carry_out(self.machine.unauthorized(generation, "no token", self.now_s))
        else:
            self.carry_out(self.machine.authorized(generation, "token", self.now_s))

    def _accept(self, wire: Wire) -> None:
        if not self.is_calm and self.picks.one_in(6):
            wire.is_over = True
            self.carry_out(self.machine.closed(wire.generation, 1006, "", self.now_s))
            return
        wire.is_accepted = True
        wire.peer = Peer(self.server, wire)
        self.carry_out(self.machine.opened(wire.generation, "stabilizer.v1", self.now_s))

    def _to_client(self, wire: Wire) -> None:
        item = wire.to_client.popleft()
        if isinstance(item, tuple):
            wire.is_over = True
            code, reason = item
            self.carry_out(self.machine.closed(wire.generation, code, reason, self.now_s))
        else:
            self.carry_out(self.machine.frame(wire.generation, item, self.now_s))

    def _to_server(self, wire: Wire) -> None:
        item = wire.to_server.popleft()
        if wire.peer is None or wire.peer.is_gone:
            return
        if item is None:
            wire.peer.leave()
        else:
            wire.peer.take(item)

    def _answer(self, generation: int, number: int) -> None:
        requests = self.asked if (generation, number) in self.asked else self.unasked
        question = requests.pop((generation, number))
        self.carry_out(self.machine.answer(generation, number, question, None, self.now_s))

    def publish(self) -> None:
        self.server.publish((LOGS[self.picks.below(4)],))

    def publish_several(self) -> None:
        self.server.publish(ROOMS)

    def exclude(self) -> None:
        self.server.publish((LOGS[self.picks.below(4)],), is_for_client=False)

    def whisper(self) -> None:
        self.server.whisper(LOGS[self.picks.below(4)])

    def trim(self) -> None:
        self.server.trim(LOGS[self.picks.below(4)])

    def fail_over(self) -> None:
        self.server.fail_over(LOGS[self.picks.below(4)])

    def redis(self) -> None:
        self.server.redis(is_away=not self.server.is_redis_away)

    def expire(self) -> None:
        self.server.expire_sessions()

    def drain(self) -> None:
        for peer in self.server.peers:
            peer.send({"go": {"in": 800}})

    def _some_wire(self) -> Wire | None:
        wires = [wire for wire in self.wires.values() if wire.is_accepted and not wire.is_over]
        return wires[self.picks.below(len(wires))] if wires else None

    def break_(self) -> None:
        """Cut a socket between two frames, with a close event."""
        if (wire := self._some_wire()) is not None:
            self._cut(wire)
            wire.to_client.append((1006, ""))

    def half_open(self) -> None:
        """Cut a socket, and tell nothing."""
        if (wire := self._some_wire()) is not None:
            self._cut(wire)

    def _cut(self, wire: Wire) -> None:
        kept = self.picks.below(len(wire.to_client) + 1)
        wire.to_client = deque(list(wire.to_client)[:kept])
        wire.to_server.clear()
        if wire.peer is not None:
            wire.peer.leave()

    def tell_twice(self) -> None:
        """Repeat the close event of a socket that ended."""
        over = [wire for wire in self.wires.values() if wire.is_over]
        if over:
            wire = over[self.picks.below(len(over))]
            self.carry_out(self.machine.closed(wire.generation, 1006, "", self.now_s))

    def close_by_server(self) -> None:
        wire = self._some_wire()
        if wire is not None and wire.peer is not None:
            codes = ((1012, '{"reconnect_in_ms":250}'), (4008, ""), (1011, ""), (1000, ""))
            wire.peer.close(*codes[self.picks.below(len(codes))])

    def garbage(self) -> None:
        wire = self._some_wire()
        if wire is not None and wire.peer is not None and self.picks.one_in(3):
            wire.to_client.append("[1,")

    def tell_time(self) -> None:
        for peer in self.server.peers:
            peer.send({"t": self.server.last_id})

    def network(self) -> None:
        if self.picks.below(2):
            self.carry_out(self.machine.offline(self.now_s))
        else:
            self.carry_out(self.machine.online(self.now_s))

    def restart(self) -> None:
        self.carry_out(self.machine.close(self.now_s))
        self.carry_out(self.machine.start(self.now_s))

    def ask(self) -> None:
        for peer in self.server.peers[:1]:
            self.last_question += 1
            peer.asked[self.last_question] = self.last_question
            peer.send({"q": self.last_question, "m": "ask", "d": self.last_question})

    def presence(self) -> None:
        client = "bcd"[self.picks.below(3)]
        is_told, is_joined = not self.picks.one_in(2), self.picks.one_in(3)
        self.server.change_presence(ROOMS[self.picks.below(2)], client, is_told=is_told, is_joined=is_joined)

    def watch(self) -> None:
        self.carry_out(self.machine.watch("a", self.now_s))

    def advance(self) -> None:
        """Let time pass to the next timer, or a little."""
        at_s = self.machine.timer_at
        if at_s is not None and self.picks.below(2):
            self.now_s = max(self.now_s, at_s)
        else:
            self.now_s += self.picks.below(8)
        self._run_timer()

    def _run_timer(self) -> None:
        actions = self.machine.timer(self.now_s)
        at_s = self.machine.timer_at
        if at_s is not None and at_s < self.now_s:
            raise Violation(f"a timer for {at_s} is left at {self.now_s}")
        self.carry_out(actions)

    def call(self) -> None:
        """Be the application: call something."""
        self.last_call += 1
        key, room = self.last_call, ROOMS[self.picks.below(2)]
        kinds: tuple[Callable[[], list[do.Action]], ...] = (
            lambda: self.machine.request(key, "echo", key, self.now_s + 10, self.now_s),
            lambda: self.machine.request(key, "never", key, self.now_s + 10, self.now_s),
            lambda: self.machine.join(key, "b", self.now_s + 10, self.now_s),
            lambda: self.machine.leave(key, "b", self.now_s + 10, self.now_s),
            lambda: self.machine.watch(room, self.now_s),
            lambda: self.machine.unwatch(room, self.now_s),
            lambda: self.machine.send(key, self.now_s),
        )
        choice = self.picks.below(len(kinds))
        if choice < 4:
            self.open_calls.add(key)
        if choice == 2:
            self.joining.add(key)
        if choice == 3:
            self.joining.clear()
            self.wanted.clear()
        if choice == 5:
            self.application.members.pop(room, None)
        self._call(key, kinds[choice])

    def confirm(self) -> None:
        self.last_call += 1
        key = self.last_call
        self.open_calls.add(key)
        self.confirmed[key] = key
        self._call(key, lambda: self.machine.confirm(key, key, self.now_s + 30, self.now_s))

    def _call(self, key: int, call: Callable[[], list[do.Action]]) -> None:
        try:
            actions = call()
        except (ClosedError, LimitError, NotConnectedError):
            self.open_calls.discard(key)
        else:
            self.carry_out(actions)

    def cancel(self) -> None:
        if not self.open_calls:
            return
        key = sorted(self.open_calls, key=str)[self.picks.below(len(self.open_calls))]
        if not any(isinstance(action, do.Settle) and action.key == key for action in self._queue):
            self.open_calls.remove(key)  # otherwise its outcome is on its way, and still comes
        self.carry_out(self.machine.cancel(key, self.now_s))

    # The end of a schedule.

    def settle(self) -> None:
        """Let everything come to rest without faults, and check what must hold then."""
        self.is_calm = True
        ends_s = self.now_s + LONGEST_REST_S
        self.server.redis(is_away=False)
        self.carry_out(self.machine.online(self.now_s))
        for _ in range(300):
            self._calm_moves()
            if self._is_at_rest():
                break
            at_s = self.machine.timer_at
            if at_s is None or at_s > ends_s:
                raise Violation(f"waits for nothing: {self.machine.status}")
            self.now_s = max(self.now_s, at_s)
            self._run_timer()
        else:
            raise Violation(f"never comes to rest: {self.machine.status}")
        self._check_end()

    def _calm_moves(self) -> None:
        count = 0
        while (move := next(self._moves(), None)) is not None:
            move()
            count += 1
            if count > 10_000:
                raise Violation("frames go on without end")

    def _is_at_rest(self) -> bool:
        sockets = [wire for wire in self.wires.values() if wire.is_accepted and not wire.is_over]
        is_alive = len(sockets) == 1 and sockets[0].peer in self.server.peers
        return self.status is Status.LIVE and is_alive and not self.open_calls

    def _check_end(self) -> None:
        (peer,) = self.server.peers
        if not self.wanted <= peer.rooms:
            raise Violation(f"the application joined {self.wanted}, and the connection is in {peer.rooms}")
        if max(self.server.asked.values(), default=0) > 1:
            raise Violation("a request was sent twice")
        self.now_s += 10
        for room in ROOMS:  # a change after a missed one shows the gap
            self.server.change_presence(room, "e", is_told=True)
        self._calm_moves()
        for log in peer.logs():
            self.application.check_complete(log)
        if self.server.answers[-1] or max(self.server.answers.values(), default=1) > 1:
            raise Violation("a request of the server has two answers")
        for room in peer.watched:
            if self.application.members.get(room) != self.server.presence[room][1]:
                raise Violation(f"the members of {room} are {self.application.members.get(room)}")
