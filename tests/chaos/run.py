"""One chaos run: it executes a schedule, waits until the registry has settled, and returns the history."""

import asyncio
import random
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from fastapi_websocket_stabilizer.testing import RedisServer, TcpProxy, eventually
from fastapi_websocket_stabilizer_client.machine import Machine
from tests.chaos.checker import is_settled
from tests.chaos.crowd import Client, connect_in_haste
from tests.chaos.follower import OF_CLIENTS, Follower
from tests.chaos.history import (
    EVERYBODY,
    Fault,
    Final,
    History,
    Membership,
    Seen,
    Socket,
    Stored,
    mailbox_of,
)
from tests.chaos.replicas import Replica, all_up, environment_of, read_events
from tests.chaos.schedule import HASTY, KEPT, LOGGED, LOGS, ROOMS, Schedule, Step

LEASE_S, BEAT_S, TIMEOUT_S = 2.0, 0.5, 1.0
CALL_LIMIT_S = 4 * TIMEOUT_S + LEASE_S
"""Longest call: four commands one after another within ``redis_timeout_s``, and the beat that a thawed node needs."""
SWEPT_S = LEASE_S + 2 * BEAT_S
"""Seconds from a death to the sweep. Before that, the registry has not settled even if it looks complete."""
SETTLED_S = SWEPT_S + 2 * TIMEOUT_S + 3.0
LOOK_EVERY_S = 0.7
PROBES_S = 3.0
LASTING = {
    "secret",
    "epoch",
    "token",
    "log",
    "top",
    "once",
    "since",
    "policy",
    "sessions",
    "box",
    "boxtop",
    "boxmark",
}
"""Kinds of keys that expire by themselves, or that the next node needs."""
HASTY_S = 0.02
"""Longest time limit of a hasty client in seconds, about the duration of a registration."""


class Run:
    """The processes, clients and history of one run."""

    def __init__(self, schedule: Schedule, directory: Path, sown: str, settled_s: float) -> None:
        self.schedule, self._directory, self._sown = schedule, directory, sown
        self._settled_s = settled_s
        self.history = History(LEASE_S, BEAT_S, CALL_LIMIT_S)
        self._loop = asyncio.get_running_loop()
        self._start_s = self._loop.time()
        self._namespace = f"chaos-{secrets.token_hex(4)}"
        self._tasks: set[asyncio.Task[None]] = set()
        self._redis_is_up = True
        self._rng = random.Random(schedule.seed)
        self.followers: list[Follower] = []

    def now_s(self) -> float:
        return self._loop.time() - self._start_s

    async def run(self) -> History:
        async with AsyncExitStack() as stack:
            self.server = await asyncio.to_thread(stack.enter_context, RedisServer())
            proxies = [
                await stack.enter_async_context(TcpProxy("127.0.0.1", self.server.port))
                for _ in range(self.schedule.replicas)
            ]
            sown = "" if self._sown in OF_CLIENTS else self._sown
            told = environment_of(self._directory, self._namespace, self.history, TIMEOUT_S, sown)
            self.replicas = [Replica(n, p, self.history, self.now_s, told) for n, p in enumerate(proxies)]
            for replica in self.replicas:
                stack.push_async_callback(replica.close)
                stack.callback(replica.stop)
            await all_up(self.replicas)
            await self._live_through()
        return self.history

    async def _live_through(self) -> None:
        names = [f"client-{number}" for number in range(self.schedule.clients)]
        self.clients = [Client(name, self.replicas, self.history, self.now_s) for name in names]
        for number, client in enumerate(self.clients):
            client.come(self.replicas[number % len(self.replicas)])
            await asyncio.sleep(0.002)
        # To a client that comes before, a quiet log cannot prove that it had nothing: see ``registry/continuity``.
        await asyncio.sleep(2 * BEAT_S)
        self._begin_to_follow()
        looking = asyncio.create_task(self._look())
        await self._carry_out()
        looking.cancel()
        await self._settle()
        await self._probe()
        await self._end()

    def _begin_to_follow(self) -> None:
        history, machine = self.history, OF_CLIENTS.get(self._sown, Machine)
        with self.server.client() as client:
            seconds, us = client.time()
        history.start_us = seconds * 1_000_000 + us - int(self.now_s() * 1_000_000)
        mailboxes = [mailbox_of(name_of(number)) for number in range(self.schedule.followers)]
        for log in (*LOGGED, EVERYBODY, *mailboxes):
            history.bounds[log] = next(
                (b for prefix, b in LOGS.items() if log.startswith(prefix)), LOGS[KEPT]
            )
        for number in range(self.schedule.followers):
            rooms = [LOGGED[number % len(LOGGED)], LOGGED[(number + 1) % len(LOGGED)]]
            about = name_of(number), rooms, self.replicas, history, self.now_s
            follower = Follower(*about, machine, self.schedule.abrupt)
            self.followers.append(follower)
            follower.come()

    async def _carry_out(self) -> None:
        began_s = self.now_s()
        self._ends_s = began_s + self.schedule.lasts_s
        for step in self.schedule.steps:
            await asyncio.sleep(max(0.0, began_s + step.at_s - self.now_s()))
            self._spawn(step)
        await asyncio.sleep(max(0.0, began_s + self.schedule.lasts_s - self.now_s()))
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _spawn(self, step: Step) -> None:
        action = getattr(self, "_" + step.kind.replace(" ", "_"))
        task = asyncio.create_task(action(step, self.replicas[step.replica], self.clients[step.client]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        """Record the presence that each replica lists, every ``LOOK_EVERY_S``."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for replica in self.replicas:
                task = asyncio.create_task(self._look_at(replica))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _look_at(self, replica: Replica) -> None:
        name, asked_s = replica.name, self.now_s()
        said = await replica.call("snapshot")
        if said is not None:
            clients = [(client, node) for client, node in said["clients"]]
            self.history.seen.append(Seen(name, asked_s, clients, said["nodes"]))

    # Actions of clients and applications

    async def _move(self, step: Step, replica: Replica, client: Client) -> None:
        client.come(replica)

    async def _hasty(self, step: Step, replica: Replica, client: Client) -> None:
        """Connect a client with a short time limit, which often ends before the client is registered."""
        within_s = self._rng.uniform(0, HASTY_S)
        socket = Socket(f"hasty-{step.client % HASTY}", replica.name, self.now_s())
        self.history.sockets.append(socket)
        await connect_in_haste(replica, socket, within_s)
        socket.closed_s = self.now_s()

    async def _hang_up(self, step: Step, replica: Replica, client: Client) -> None:
        client.hang_up()

    async def _join(self, step: Step, replica: Replica, client: Client) -> None:
        await replica.call("join", client_id=client.name, room=step.room)

    async def _leave(self, step: Step, replica: Replica, client: Client) -> None:
        await replica.call("leave", client_id=client.name, room=step.room)

    async def _direct(self, step: Step, replica: Replica, client: Client) -> None:
        await replica.call("say", kind="direct", target=client.name, size=step.size)

    async def _all(self, step: Step, replica: Replica, client: Client) -> None:
        await replica.call("say", kind="all", target="", size=0)

    async def _room(self, step: Step, replica: Replica, client: Client) -> None:
        await replica.call("say", kind="room", target=step.room, size=0)

    async def _go_away(self, step: Step, replica: Replica, client: Client) -> None:
        """Let a follower be away. It comes back early if the schedule ends before."""
        follower = self.followers[step.follower]
        follower.go()
        until_s = min(self.now_s() + step.lasts_s, self._ends_s)
        await asyncio.sleep(max(0.0, until_s - self.now_s()))
        follower.come()

    async def _doze(self, step: Step, replica: Replica, client: Client) -> None:
        """Let a follower stop reading."""
        follower = self.followers[step.follower]
        follower.read(is_reading=False)
        await self._lasting("slow reader", follower.name, step)
        follower.read(is_reading=True)

    async def _admit(self, step: Step, replica: Replica, client: Client) -> None:
        await self._change(step, replica, is_member=True)

    async def _revoke(self, step: Step, replica: Replica, client: Client) -> None:
        await self._change(step, replica, is_member=False)

    async def _change(self, step: Step, replica: Replica, *, is_member: bool) -> None:
        follower, began_s = self.followers[step.follower], self.now_s()
        if step.room not in follower.rooms:  # each connection enters those by itself
            call = "join" if is_member else "leave"
            done = await replica.call(call, client_id=follower.name, room=step.room)
            if done or is_member:
                change = Membership(follower.name, step.room, is_member, began_s, self.now_s())
                self.history.memberships.append(change)

    async def _keep(self, step: Step, replica: Replica, client: Client) -> None:
        excluded = name_of(step.follower) if step.client % 8 == 0 else ""
        await self._store(replica, "kept", step.room, excluded, step.size)

    async def _keep_both(self, step: Step, replica: Replica, client: Client) -> None:
        await self._store(replica, "both", " ".join(LOGGED[:2]))

    async def _keep_box(self, step: Step, replica: Replica, client: Client) -> None:
        await self._store(replica, "box", name_of(step.follower))

    async def _keep_for_all(self, step: Step, replica: Replica, client: Client) -> None:
        await self._store(replica, "everybody", "")

    async def _store(
        self, replica: Replica, kind: str, target: str, excluded: str = "", size: int = 0
    ) -> str | None:
        answer = await replica.call("store", kind=kind, target=target, excluded=excluded, size=size)
        if answer is None:
            return None
        self.history.stored.append(Stored(*answer))
        return str(answer[0])

    # Faults

    async def _lasting(self, kind: str, target: str, step: Step) -> None:
        fault = Fault(kind, target, self.now_s(), self.now_s() + step.lasts_s)
        self.history.faults.append(fault)
        await asyncio.sleep(step.lasts_s)
        fault.ended_s = self.now_s()

    async def _kill(self, step: Step, replica: Replica, client: Client) -> None:
        if replica.process.is_running and not replica.is_frozen and not replica.is_rolling:
            replica.kill()
            replica.start()
            await all_up([replica])

    async def _roll(self, step: Step, replica: Replica, client: Client) -> None:
        if replica.process.is_running and not replica.is_frozen and not replica.is_rolling:
            await replica.roll()
            await all_up([replica])

    async def _freeze(self, step: Step, replica: Replica, client: Client) -> None:
        process = replica.process
        if not process.is_running or replica.is_frozen:
            return
        replica.is_frozen = True
        process.freeze()
        await self._lasting("freeze", replica.name, step)
        process.thaw()
        replica.is_frozen = False

    async def _cut(self, step: Step, replica: Replica, client: Client) -> None:
        replica.proxy.cut()
        await self._lasting("cut", replica.name, step)
        replica.proxy.resume()

    async def _blackhole(self, step: Step, replica: Replica, client: Client) -> None:
        replica.proxy.blackhole()
        await self._lasting("blackhole", replica.name, step)
        replica.proxy.cut()
        replica.proxy.resume()

    async def _throttle(self, step: Step, replica: Replica, client: Client) -> None:
        replica.proxy.throttle(20_000)
        await self._lasting("throttle", replica.name, step)
        replica.proxy.resume()

    async def _restart_empty(self, step: Step, replica: Replica, client: Client) -> None:
        if self._redis_is_up:
            self._redis_is_up, fault = False, Fault("restart empty", "redis", self.now_s(), self.now_s())
            self.history.faults.append(fault)
            await asyncio.to_thread(self.server.restart_empty)
            fault.ended_s = self.now_s()
            self._redis_is_up = True

    async def _restart_stale(self, step: Step, replica: Replica, client: Client) -> None:
        """Restart Redis with the content from before ``lasts_s``, as a failover to a replica that is behind."""
        if not self._redis_is_up:
            return
        self._redis_is_up, fault = False, Fault("restart stale", "redis", self.now_s(), self.now_s())
        self.history.faults.append(fault)
        with self.server.client() as server:
            await asyncio.to_thread(server.save)
            snapshot = Path(str(server.config_get("dir")["dir"]), "dump.rdb")
        await asyncio.sleep(step.lasts_s)
        await asyncio.to_thread(self.server.restart_empty)  # reads the snapshot
        await asyncio.to_thread(snapshot.unlink)
        fault.ended_s = self.now_s()
        self._redis_is_up = True

    async def _flush(self, step: Step, replica: Replica, client: Client) -> None:
        await self._tell_redis("flush", self.server.flush)

    async def _kill_pubsub(self, step: Step, replica: Replica, client: Client) -> None:
        await self._tell_redis("kill pubsub", self.server.kill_pubsub)

    async def _tell_redis(self, kind: str, command: Callable[[], None]) -> None:
        """Send a command to Redis that is a fault, unless Redis is frozen or restarting."""
        if self._redis_is_up:
            with suppress(redis.RedisError):  # frozen or killed during the command
                began_s = self.now_s()
                await asyncio.to_thread(command)
                self.history.faults.append(Fault(kind, "redis", began_s, self.now_s()))

    async def _freeze_redis(self, step: Step, replica: Replica, client: Client) -> None:
        if self._redis_is_up:
            self._redis_is_up, process = False, self.server.process
            process.freeze()
            await self._lasting("freeze", "redis", step)
            process.thaw()
            self._redis_is_up = True

    async def _slow_reader(self, step: Step, replica: Replica, client: Client) -> None:
        client.read(is_reading=False)
        await self._lasting("slow reader", client.name, step)
        client.read(is_reading=True)

    # End of the run

    async def _settle(self) -> None:
        """Wait until the replicas have reached a correct final state, at most ``settled_s``."""
        self._mend()
        await all_up(self.replicas)
        deadline_s = self.now_s() + self._settled_s
        await asyncio.sleep(SWEPT_S)
        while True:
            self.history.finals = [final for r in self.replicas if (final := await self._ask(r)) is not None]
            is_complete = len(self.history.finals) == len(self.replicas)
            is_complete &= all(follower.is_live for follower in self.followers)
            if self.now_s() >= deadline_s or (is_complete and is_settled(self.history, self.history.finals)):
                return
            await asyncio.sleep(0.2)

    def _mend(self) -> None:
        for replica in self.replicas:
            replica.proxy.resume()
        for client in self.clients:
            client.read(is_reading=True)
        for follower in self.followers:
            follower.read(is_reading=True)
            follower.hurry()

    async def _ask(self, replica: Replica) -> Final | None:
        seen, rooms = await replica.call("snapshot"), await replica.call("rooms")
        if seen is None or rooms is None:
            return None
        listing = [(client, node) for client, node in seen["clients"]]
        self.history.seen.append(Seen(replica.name, self.now_s(), listing, seen["nodes"]))
        clients = [client for client, _ in listing]
        return Final(replica.name, await replica.is_ready(), clients, rooms["rooms"], rooms["local"])

    async def _probe(self) -> None:
        """Send messages to all, to each room and to each client, from every replica."""
        for replica in self.replicas:
            said = [("all", "")] + [("room", room) for room in ROOMS]
            said += [("direct", client.name) for client in self.clients[replica.number :: len(self.replicas)]]
            for kind, target in said:
                text = await replica.call("say", kind=kind, target=target, size=0)
                if text is not None:
                    self.history.probes.append(text)
            for log in (*LOGGED, ""):
                kept = await self._store(replica, "kept" if log else "everybody", log)
                self.history.probes += [kept] if kept is not None else []
        with suppress(AssertionError):  # the checker reports missing messages
            await eventually(self._is_last_probe_there, PROBES_S)

    def _is_last_probe_there(self) -> bool:
        last = self.history.probes[-1]
        return any(last in socket.got for socket in self.history.sockets if socket.is_open)

    async def _end(self) -> None:
        await asyncio.sleep(0.3)  # for messages in flight to other sockets
        ended_s = self.now_s()
        was_open = [socket for socket in self.history.sockets if socket.is_open]
        for client in self.clients:
            client.is_wanted = False
        await asyncio.gather(*(follower.stop() for follower in self.followers))
        await asyncio.gather(*(asyncio.to_thread(replica.process.stop) for replica in self.replicas))
        await asyncio.gather(*(client.stop() for client in self.clients))
        for socket in was_open:  # their close at the end of the run is no part of the history
            socket.closed_s, socket.code, socket.reason = None, 0, ""
        self.history.calls = [call for call in self.history.calls if call.began_s < ended_s]
        read_events(self._directory, self.history, self._start_s)
        with self.server.client() as client:
            keys = [str(key) for key in client.scan_iter(f"{self._namespace}:*")]
        self.history.leftovers = [k for k in keys if k.partition("}:")[2].partition(":")[0] not in LASTING]


def name_of(follower: int) -> str:
    return f"follower-{follower}"


async def chaos(schedule: Schedule, *, sown: str = "", settled_s: float = SETTLED_S) -> History:
    """Execute a schedule on real processes, and return the history. ``sown`` is a fault of ``tests.chaos.seeded``."""
    with TemporaryDirectory(prefix="chaos-") as directory:
        return await Run(schedule, Path(directory), sown, settled_s).run()
