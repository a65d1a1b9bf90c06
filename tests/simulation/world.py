"""Real managers on a simulated network, operations and faults on them, and the invariants that must hold."""

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    Connection,
    ConnectionNotFoundError,
    PresenceEvent,
    WebSocketStabilizerError,
)
from fastapi_websocket_stabilizer.backends.log_ports import LogName
from fastapi_websocket_stabilizer.backends.memory_logs import Log
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry import state
from fastapi_websocket_stabilizer.registry.registration import Succession
from tests.chaos import logs
from tests.chaos.history import Bounds, Fault, History, Stored, message
from tests.simulation.follower import Follower
from tests.simulation.loop import START_S, VirtualLoop
from tests.simulation.network import SimHub
from tests.simulation.node import KEPT, TIMEOUT_S, Node, Socket
from tests.simulation.schedule import BEAT_S, LASTS_S, LEASE_S, LOGS, Schedule, Step

Call = Callable[..., Coroutine[Any, Any, Any]]
HITTING = {"freeze", "crash", "cut", "swallow"}
SETTLED_S = LEASE_S + 2 * BEAT_S + 4 * TIMEOUT_S
"""Seconds until the registry has settled after the last fault: a lease, two beats, the commands of a sweep."""
ABRUPT = 0.05
"""Share of messages whose handler connects again while it handles them."""
SLOW_CLOSE_S = 10.0
"""Seconds until some peers answer a close."""
DRAIN_SLACK_S = 0.01
CALL_LIMIT_S = 6 * TIMEOUT_S + 2 * LEASE_S
"""Longest call in seconds: some commands one after another, behind a beat that notices the loss of the lease."""


class World:
    """One simulation."""

    def __init__(self, loop: VirtualLoop, schedule: Schedule) -> None:
        self.loop, self.schedule = loop, schedule
        self.rng = random.Random(schedule.seed)
        random.seed(schedule.seed)  # the library draws its pauses and paces from it
        state.new_node_id = lambda: NodeId(f"{self.rng.getrandbits(64):016x}")
        self.hub = SimHub(loop)
        self.events: list[tuple[str, PresenceEvent]] = []
        self.sockets: list[Socket] = []
        self.violations: list[str] = []
        self.names = Counter[str]()
        self.seats: list[Node] = []
        self.crashed: list[Node] = []
        self._calls: dict[asyncio.Task[Any], Node] = {}
        self._freezes: list[tuple[str, float, float]] = []
        self.hits = Counter[str]()
        """Number of times that each node was frozen, killed or cut off."""
        self._told_s: dict[str, float] = {}
        """Time of the last report of each event."""
        self._sids: dict[str, str] = {}
        """The last session of each client."""
        self._revoked: dict[tuple[str, str], bool] = {}
        """Whether each client was removed from a room, and no call has added it since."""
        self._steps_back_s: list[float] = []
        """Times at which Redis' clock was stepped back."""
        self._lapses_s: list[float] = []
        """Times at which Redis' clock was stepped forward by so much that each lease lapsed."""
        self._losses_s: list[float] = []
        """Times at which Redis lost its content."""
        self._absences: list[tuple[str, float, float]] = []
        """Name, begin and end of each time that a node was frozen or cut off."""
        self.told = History(LEASE_S, BEAT_S, CALL_LIMIT_S, start_us=int(START_S * 1_000_000))
        """What followers and senders know of logs."""
        self.told.bounds = {log: Bounds(KEPT["k"].messages, KEPT["k"].seconds) for log in LOGS}
        self.followers: dict[str, Follower] = {}

    def _seat(self, number: int) -> Node:
        self.names[str(number)] += 1
        name = f"n{number}.{self.names[str(number)]}"
        kept = KEPT if self.schedule.followers else None
        return Node(name, self.hub, self.rng, self._note, self.schedule.policy, kept)

    def _note(self, name: str, event: PresenceEvent) -> None:
        self.events.append((name, event))
        self._told_s[event.event_id] = self.loop.now_s

    async def run(self) -> list[str]:
        """Execute the schedule, and return the violations."""
        self.seats = [self._seat(number) for number in range(self.schedule.nodes)]
        for node in self.seats:
            await node.do(self._started(node))
        if self.schedule.followers:
            await self._begin_to_follow()
        start_s = self.loop.now_s
        for step in self.schedule.steps:
            await asyncio.sleep(max(0.0, start_s + step.at_s - self.loop.now_s))
            node = self.seats[step.node]
            if step.kind in HITTING:
                self.hits[node.name] += 1
                self._absences.append((node.name, self.loop.now_s, self.loop.now_s + step.lasts_s))
            getattr(self, f"_{step.kind}")(step, node)
        await asyncio.sleep(max(0.0, start_s + LASTS_S - self.loop.now_s))
        await self._settle()
        await self._check()
        self._check_ends()
        await self._end()
        return self.violations

    def _check_ends(self) -> None:
        """Check that each connection that was opened is open, or has one end with one cause."""
        for node in self.seats:
            statistics = node.manager.statistics()
            counters, open_now = statistics.counters, statistics.connections
            opened, closed = counters["connections_opened"], counters["connections_closed"]
            if not opened - open_now == closed == sum(statistics.closed.values()):
                self.violations.append(
                    f"ends: {node.name} has opened {opened}, closed {closed}, and holds {open_now}: "
                    f"{statistics.closed}"
                )

    async def _begin_to_follow(self) -> None:
        # To a client that comes before, a quiet log cannot prove that it had nothing: see ``registry/continuity``.
        await asyncio.sleep(2 * BEAT_S)
        for number in range(self.schedule.followers):
            about = f"f{number}", [*LOGS], self.told, self._since_start_s, self._choose, self.sockets, ABRUPT
            follower = self.followers[f"f{number}"] = Follower(*about)
            follower.come()

    def _since_start_s(self) -> float:
        return self.loop.now_s - START_S

    def _choose(self) -> Node:
        return self.rng.choice(self.seats)

    # Operations

    @property
    def has_forgotten(self) -> bool:
        """Whether Redis lost its content."""
        return bool(self._losses_s)

    def _spawn(self, node: Node, call: Call, *arguments: Any) -> None:
        self._calls[node.do(self._timed(node, call, *arguments))] = node

    async def _timed(self, node: Node, call: Call, *arguments: Any) -> None:
        name, began_s, frozen_s = call.__name__, self.loop.now_s, self._frozen_s(node)
        try:
            await call(*arguments)
        except WebSocketStabilizerError:
            pass
        except Exception as error:  # noqa: BLE001 - any other error is a violation
            self.violations.append(f"unnamed error: {name} raised {error!r}")
        took_s = self.loop.now_s - began_s - (self._frozen_s(node) - frozen_s)
        if took_s > CALL_LIMIT_S and not node.has_crashed:
            self.violations.append(f"call hangs: {name} took {took_s:.2f} s")

    def _frozen_s(self, node: Node) -> float:
        return sum(end - start for name, start, end in self._freezes if name == node.name)

    def _connect(self, step: Step, node: Node) -> None:
        socket = Socket(step.client, node, partial(self._sent_away, step))
        socket.closes_after_s = self.rng.choice((0.0, 0.0, SLOW_CLOSE_S))
        self.sockets.append(socket)
        self._spawn(node, self._connected, socket, node)

    async def _connected(self, socket: Socket, node: Node, session: Succession | None = None) -> None:
        socket.began_s = self.loop.now_s
        websocket: Any = socket
        try:
            if session is None:
                socket.connection = await node.manager.connect(socket.client, websocket)
            else:
                node.manager.registry.check_usable()
                connections = node.manager.registry.connections
                socket.connection = await connections.connect(socket.client, websocket, None, session=session)
        except BaseException:
            socket.closed_with = socket.closed_with or (1013, "refused")
            raise
        socket.claimed_s = self.loop.now_s

    def _resume(self, step: Step, node: Node) -> None:
        socket = Socket(step.client, node, partial(self._sent_away, step))
        self.sockets.append(socket)
        self._spawn(node, self._resumed, socket, node)

    async def _resumed(self, socket: Socket, node: Node) -> None:
        """Continue the last session of a client, of which it has got the first frame."""
        self.names["sid"] += 1
        sid, registry = f"s{self.names['sid']}", node.manager.registry
        await self._connected(socket, node, Succession(sid, self._sids.get(socket.client, "")))
        connection = socket.connection
        assert connection is not None
        with suppress(BackendUnavailableError):
            await registry.rooms.restore(connection, _never)
        if connection.ended is None:
            self._sids[socket.client] = sid
            await registry.successions.succeed(connection)

    def _cancel(self, step: Step, node: Node) -> None:
        """Connect with a time limit. If the connect is not cancelled by it, close the connection."""
        socket = Socket(step.client, node, lambda _: None)
        self.sockets.append(socket)
        self._spawn(node, self._connected_in_time, socket, node, step.lasts_s)

    async def _connected_in_time(self, socket: Socket, node: Node, within_s: float) -> None:
        socket.hung_up = True
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._connected(socket, node)
        if socket.connection is not None:
            await socket.connection.close()

    def _close(self, step: Step, node: Node) -> None:
        for socket in reversed(self.sockets):
            if socket.client == step.client and socket.node is node and socket.connection is not None:
                socket.hung_up = True
                self._spawn(node, socket.connection.close)
                return

    def _join(self, step: Step, node: Node) -> None:
        self._revoked.pop((step.client, step.room), None)
        self._spawn(node, node.manager.join, step.client, step.room)

    def _leave(self, step: Step, node: Node) -> None:
        self._spawn(node, self._revoke, step, node)

    async def _revoke(self, step: Step, node: Node) -> None:
        place = step.client, step.room
        self._revoked[place] = False
        try:
            await node.manager.leave(*place)
        except ConnectionNotFoundError:
            pass  # a node that was swept may still have the client
        except BackendUnavailableError:
            if self.hits[node.name]:
                return  # it did not reach Redis; else the node of the client has not answered
        if place in self._revoked and not self.has_forgotten:
            self._revoked[place] = True

    def _message(self, node: Node) -> str:
        node.number += 1
        return f"{node.name}:{node.number}"

    async def _sends(self, node: Node, kind: str, step: Step) -> None:
        message = self._message(node)  # numbered in the order of the calls
        if kind == "direct":
            await node.manager.send_to_client(step.client, message)
        else:
            await node.manager.broadcast(message, room=step.room if kind == "room" else None)

    def _direct(self, step: Step, node: Node) -> None:
        self._spawn(node, self._sends, node, "direct", step)

    def _broadcast(self, step: Step, node: Node) -> None:
        self._spawn(node, self._sends, node, "all", step)

    def _room(self, step: Step, node: Node) -> None:
        self._spawn(node, self._sends, node, "room", step)

    # Logs

    def _keep(self, step: Step, node: Node) -> None:
        self._spawn(node, self._stores, node, step.room, step.client if step.lasts_s < 0.5 else "")

    def _keep_both(self, step: Step, node: Node) -> None:
        self._spawn(node, self._stores, node, " ".join(LOGS), "")

    async def _stores(self, node: Node, rooms: str, excluded: str) -> None:
        node.number += 1
        text = message("kept", rooms, node.name, node.number, excluded)
        result = await node.manager.broadcast(text, room=rooms.split(), exclude_client=excluded or None)
        self.told.stored.append(
            Stored(text, {log: id_ for log, id_ in result.ids.items() if log is not None})
        )

    def _go_away(self, step: Step, node: Node) -> None:
        follower = self.followers[step.client]
        follower.go()
        self.loop.call_later(step.lasts_s, follower.come)

    def _restart_stale(self, step: Step, node: Node) -> None:
        """Restart Redis with logs from before ``lasts_s``, as a failover to a replica that is behind."""
        fault = self._lose("restart stale")
        logs = deepcopy(self.hub.logged.logs)
        self.loop.call_later(step.lasts_s, self._be_stale, fault, logs)

    def _be_stale(self, fault: Fault, logs: dict[LogName, Log]) -> None:
        fault.ended_s = self._since_start_s()
        if any(other.kind != fault.kind and other.began_s >= fault.began_s for other in self.told.faults):
            return  # Redis has nothing older than its last loss
        self.hub.logged.logs = logs
        self.hub.servers += 1
        for each in self.seats:
            each.manager.link.break_connections()

    def _lose(self, kind: str) -> Fault:
        """Record that Redis loses content."""
        fault = Fault(kind, "redis", self._since_start_s(), self._since_start_s())
        self.told.faults.append(fault)
        return fault

    # Faults

    def _freeze(self, step: Step, node: Node) -> None:
        if node.is_frozen:
            return
        node.is_frozen = True
        self.loop.freeze(node.name)
        self._freezes.append((node.name, self.loop.now_s, self.loop.now_s + step.lasts_s))
        self.loop.call_later(step.lasts_s, self._thaw, node)

    def _thaw(self, node: Node) -> None:
        if node.is_frozen and not node.has_crashed:
            node.is_frozen = False
            self.loop.thaw(node.name)

    def _crash(self, step: Step, node: Node) -> None:
        node.has_crashed = True
        self.crashed.append(node)
        self.loop.freeze(node.name)
        node.manager.link.is_dead = True
        self.hub.listeners.pop(node.manager.link.node, None)
        for follower in self.followers.values():
            follower.lose(node)
        self.seats[step.node] = self._seat(step.node)
        self._spawn(self.seats[step.node], self._started, self.seats[step.node])

    async def _started(self, node: Node) -> None:
        """Start a node, and retry after failures as a supervisor does."""
        while True:
            try:
                await node.manager.start()
                node.has_started = True
                return
            except BackendUnavailableError:
                await asyncio.sleep(BEAT_S)

    def _cut(self, step: Step, node: Node) -> None:
        node.manager.link.cut()
        self.loop.call_later(step.lasts_s, node.manager.link.mend)

    def _swallow(self, step: Step, node: Node) -> None:
        node.manager.link.swallow()
        self.loop.call_later(step.lasts_s, node.manager.link.mend)

    def _break(self, step: Step, node: Node) -> None:
        node.manager.link.break_connections()

    def _lose_bus(self, step: Step, node: Node) -> None:
        node.manager.link.lose_bus()

    def _flush(self, step: Step, node: Node) -> None:
        self._losses_s.append(self.loop.now_s)
        self._lose("flush")
        self.hub.empty()

    def _restart_empty(self, step: Step, node: Node) -> None:
        self._losses_s.append(self.loop.now_s)
        self._lose("restart empty")
        self.hub.restart_empty()
        for each in self.seats:
            each.manager.link.break_connections()

    def _step_clock(self, step: Step, node: Node) -> None:
        if self.followers:
            return  # the ids of messages would not show when they were stored
        if not step.node:
            self._steps_back_s.append(self.loop.now_s)
        elif step.lasts_s >= LEASE_S - BEAT_S:
            self._lapses_s.append(self.loop.now_s)
        self.hub.ahead_s += step.lasts_s * (1 if step.node else -1)

    # A rolling restart

    def _drain(self, step: Step, node: Node) -> None:
        self._roll_over(step, node, self._drained)

    def _stop(self, step: Step, node: Node) -> None:
        self._roll_over(step, node)

    def _roll_over(self, step: Step, node: Node, *before: Call) -> None:
        if node.has_started and not node.is_draining:
            node.is_draining = True
            self._calls[node.do(self._rolled_over(step, node, *before))] = node

    async def _rolled_over(self, step: Step, node: Node, *before: Call) -> None:
        """Run ``before``, then stop the node and start a new one in its place."""
        for call in before:
            await call(step, node)
        await node.manager.graceful_shutdown(1.0)
        self.seats[step.node] = self._seat(step.node)
        self._spawn(self.seats[step.node], self._started, self.seats[step.node])

    async def _drained(self, step: Step, node: Node) -> None:
        over_s, began_s, frozen_s = step.lasts_s / 2, self.loop.now_s, self._frozen_s(node)
        await node.manager.drain(over_s)
        took_s = self.loop.now_s - began_s - (self._frozen_s(node) - frozen_s)
        if took_s > over_s + DRAIN_SLACK_S:
            self._violated("drained in time", f"{node.name} took {took_s:.2f} of {over_s:.2f} s")
        if left := [s.client for s in self.sockets if s.node is node and s.is_open]:
            self._violated("drained in time", f"{left} are still connected to {node.name}")

    def _sent_away(self, step: Step, in_s: float) -> None:
        """Reconnect a client that a drain closed, to another node if there is one."""
        others = [node for node in self.seats if not node.is_draining and not node.has_crashed]
        node = self.rng.choice(others or self.seats)
        self.loop.call_later(in_s, self._connect, step, node, context=contextvars.Context())

    # Invariants

    async def _settle(self) -> None:
        for node in self.seats:
            self._thaw(node)
            node.manager.link.mend()
        for follower in self.followers.values():
            follower.come()
        for _ in range(2):
            for follower in self.followers.values():
                follower.hurry()
            await asyncio.sleep(SETTLED_S / 2)

    async def _check(self) -> None:
        live = [node for node in self.seats if not node.has_crashed]
        late = [t for t, node in self._calls.items() if not t.done() and not node.has_crashed]
        self.violations += [f"call hangs: {task!r}" for task in late]
        self._check_sockets()
        self._check_messages()
        self._check_revoked()
        self._check_shown()
        self._check_logs()
        for node in live:
            await node.do(self._check_listing(node))
        self._check_events()

    def _open_sockets(self, client: str) -> list[Socket]:
        return [socket for socket in self.sockets if socket.client == client and socket.is_open]

    def _check_sockets(self) -> None:
        for client in {socket.client for socket in self.sockets}:
            found = self._open_sockets(client)
            if len(found) > 1:
                self._violated("one socket", f"{client} has {len(found)} open sockets")
            self._check_last_claim(client)

    def _check_last_claim(self, client: str) -> None:
        """The socket of the last claim holds the client, unless another claim overlapped with it."""
        claims = [s for s in self.sockets if s.client == client and s.began_s is not None]
        last = max(claims, key=lambda s: s.began_s or 0.0, default=None)
        if last is None or last.claimed_s is None or last.hung_up or last.is_open:
            return
        if last.node.has_crashed or last.node.is_draining or self._has_waited_for_a_step(last):
            return
        others = [s for s in claims if s is not last]
        if all(s.claimed_s is not None and s.claimed_s < (last.began_s or 0.0) for s in others):
            self._violated("last claim", f"{client}'s last socket was closed with {last.closed_with}")

    def _check_revoked(self) -> None:
        for (client, room), is_revoked in self._revoked.items():
            back = [s for s in self._open_sockets(client) if s.connection and room in s.connection.rooms]
            if is_revoked and back and not self.has_forgotten:
                self._violated("revoked", f"{client} is in {room} again")

    def _has_waited_for_a_step(self, socket: Socket) -> bool:
        """Whether Redis' clock was stepped back while a socket waited for Redis, which the design permits."""
        return any(
            name == socket.node.name and began_s <= (socket.began_s or 0.0) <= stepped_s <= ended_s + BEAT_S
            for name, began_s, ended_s in self._absences
            for stepped_s in self._steps_back_s
        )

    def _check_shown(self) -> None:
        """A room that clients may watch shows those that are in it."""
        shown = self.hub.shown.get("r0")
        sockets = [s for s in self.sockets if s.is_open and s.connection and "r0" in s.connection.rooms]
        truth = {socket.client for socket in sockets}
        found = set() if shown is None else set(shown.metadata)
        if found != truth:
            self._violated("shown", f"r0 shows {sorted(found)}, in it are {sorted(truth)}")

    def _check_messages(self) -> None:
        for socket in self.sockets:
            if len(set(socket.received)) != len(socket.received):
                self._violated("at most once", f"{socket.client} got {socket.received}")
            by_sender: dict[str, list[int]] = {}
            for received in socket.received:
                sender, _, number = received.rpartition(":")
                by_sender.setdefault(sender, []).append(int(number))
            if any(numbers != sorted(numbers) for numbers in by_sender.values()):
                self._violated("order", f"{socket.client} got {socket.received}")

    def _check_logs(self) -> None:
        for follower in self.followers.values():
            follower.record.is_live = follower.is_live
            if not follower.is_live:
                self._violated("live", f"{follower.name} is not connected")
        stored = [item for each in self.told.stored for item in each.ids.items()]
        self.told.unheard = [[log, id_] for log, id_ in stored if (log, id_) not in self.hub.heard]
        for name, check in logs.CHECKS.items() if self.followers else ():
            self.violations += [f"{name}: {what}" for what in check(self.told)]

    async def _check_listing(self, node: Node) -> None:
        listed = sorted([(e.client_id, e.connection_id) async for e in node.manager.clients()])
        wanted = sorted(
            (s.client, s.connection.connection_id) for s in self.sockets if s.is_open and s.connection
        )
        if missing := [each for each in wanted if each not in listed]:
            self._violated("listed again", f"{node.name} does not list {missing}, but {listed}")
        if ghosts := [each for each in listed if each not in wanted]:
            self._violated("no ghost", f"{node.name} lists {ghosts}")
        for room in ("r0", "r1"):
            members = sorted(m.connection_id for m in await node.manager.room_members(room))
            truth = sorted(
                s.connection.connection_id
                for s in self.sockets
                if s.is_open and s.connection and room in s.connection.rooms
            )
            if members != truth:
                self._violated("rooms", f"{node.name} lists {members} in {room}, in it are {truth}")

    def _check_events(self) -> None:
        counts = Counter(event.event_id for _, event in self.events)
        twice = {event_id for event_id, count in counts.items() if count > 1}
        # A second report is allowed only if a reporter was dead, frozen or cut off before it confirmed the first one,
        # or if Redis has just lost its content.
        twice -= {event.event_id for name, event in self.events if self.hits[name]}
        twice -= {event_id for event_id in twice if self._has_just_forgotten(self._told_s[event_id])}
        if twice:
            self._violated("reported once", f"reported more than once: {sorted(twice)}")
        self._check_visits()
        self._check_stays()

    def _has_just_forgotten(self, at_s: float) -> bool:
        return any(lost_s <= at_s <= lost_s + SETTLED_S for lost_s in self._losses_s)

    def _check_visits(self) -> None:
        """Each reported visit has ended, except that of a client with an open socket."""
        for client in {socket.client for socket in self.sockets}:
            joined, left = self._told("joined", client), self._told("left", client)
            is_there = bool(self._open_sockets(client))
            if left - joined or len(joined - left) != is_there:
                self._imbalanced(client, f"{client}, {is_there=}, joined as {joined}, left as {left}")

    def _told(self, kind: str, client: str) -> set[str]:
        events = {
            event.event_id for _, event in self.events if (event.kind, event.client_id) == (kind, client)
        }
        return {event_id.partition(":")[0] for event_id in events}

    def _check_stays(self) -> None:
        """As many stays in a room have ended as have begun, except those of open sockets."""
        distinct = {(e.event_id, e.kind, e.client_id, e.room) for _, e in self.events if e.room is not None}
        told = Counter((client, room, kind) for _, kind, client, room in distinct)
        for client, room in {(client, room) for client, room, _ in told}:
            joined, left = told[client, room, "room_joined"], told[client, room, "room_left"]
            there = [s for s in self._open_sockets(client) if s.connection and room in s.connection.rooms]
            if joined - left != len(there):
                is_there = bool(there)
                self._imbalanced(
                    client, f"{client}, {is_there=}, joined {room} {joined} times, left it {left}"
                )

    def _imbalanced(self, client: str, what: str) -> None:
        """Record a violation, unless no node can know the visits of the client.

        That is the case if Redis lost its content, and a node of the client died or was without its lease then.
        """
        nodes = {socket.node for socket in self.sockets if socket.client == client}
        unknowable = self.has_forgotten and any(n.has_crashed or self._was_away_too_long(n) for n in nodes)
        if not unknowable:
            self._violated("joins and leaves", what)

    def _was_away_too_long(self, node: Node) -> bool:
        """Whether Redis lost its content while the lease of a node had lapsed, and the node had no new one."""
        has_lapsed = any(
            lapsed_s <= lost_s <= lapsed_s + 2 * BEAT_S
            for lapsed_s in self._lapses_s
            for lost_s in self._losses_s
        )
        return has_lapsed or any(
            began_s + LEASE_S - BEAT_S <= lost_s <= ended_s + BEAT_S
            for name, began_s, ended_s in self._absences
            for lost_s in self._losses_s
            if name == node.name
        )

    def _violated(self, invariant: str, what: str) -> None:
        self.violations.append(f"{invariant}: {what}")

    async def _end(self) -> None:
        for follower in self.followers.values():
            follower.close()
        for node in self.seats:
            await node.do(node.manager.graceful_shutdown(1.0))
        self._check_leftovers()
        self._check_events()
        await self._clear_away()

    def _check_leftovers(self) -> None:
        hub = self.hub
        tables = {"clients": hub.clients, "rooms": hub.rooms, "leases": hub.leases, "fences": hub.fences}
        tables |= {"shown": hub.shown, "index": hub.index, "infos": hub.infos, "events": hub.unreported}
        held = {
            client: [h for h in found.values() if h.ends_us is None] for client, found in hub.sessions.items()
        }
        tables["held sessions"] = {client: sessions for client, sessions in held.items() if sessions}
        # A node that lost its lease may write keys before it notices. If it dies before it has removed them, no node
        # does, which the design permits.
        unknowable = {
            node_id
            for node in self.crashed
            if self.has_forgotten or self.hits[node.name] > 1
            for node_id in node.manager.registry.state.own_ids
        }
        for name, table in tables.items():
            if table and not any(node_id in repr(table) for node_id in unknowable):
                self._violated("leaves nothing", f"after the last shutdown Redis has {name} {table}")

    async def _clear_away(self) -> None:
        """Cancel the tasks of crashed nodes. This is not part of the simulation."""
        for node in self.crashed:
            node.manager.registry._services.is_stopping = True  # otherwise cancelled services count as failed
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        for node in self.crashed:
            self.loop.thaw(node.name)
        if tasks:
            await asyncio.wait(tasks)


async def _never(connection: Connection, room: str) -> bool:
    return False


def simulate(loop: VirtualLoop, schedule: Schedule) -> list[str]:
    """Return the violations of a schedule."""
    loop.reset()
    return loop.run_until_complete(World(loop, schedule).run())
