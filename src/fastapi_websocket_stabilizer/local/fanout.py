"""One ordered worker that brings messages to this node's sockets and never waits for one of them."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from ..metrics import Counters, Stopwatch
from ..names import ConnectionId
from ..wire import Encoded
from .connection import Connection, Outcome
from .shards import Connections, Shard, Shards

QUEUE_LIMIT_BYTES = 64 * 1024 * 1024
"""Bytes read from the bus and not yet fanned out; above it the bus is not read."""
SLICE_S = 0.005
"""The event loop is given back between two shards when a fan-out has run for this long."""


@dataclass(slots=True)
class Tally:
    """What a fan-out did on this node.

    Attributes:
        pending: Sends to wait for, each with its client: mock sockets and sockets of other event loops.
    """

    total: int = 0
    excluded: int = 0
    succeeded: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    pending: list[tuple[str, Outcome]] = field(default_factory=list)

    def add(self, connection: Connection, message: Encoded, loop: asyncio.AbstractEventLoop) -> None:
        """Push one message to one socket and count what became of it."""
        sent = connection.push(message) if connection.loop is loop else connection.hand_over(message)
        if sent.pending is not None:
            self.pending.append((connection.client_id, sent.pending))
        elif sent.error is not None:
            self.errors.append((connection.client_id, sent.error))
        else:
            self.succeeded += 1


@dataclass(slots=True)
class Job:
    """One message for some of this node's sockets.

    Attributes:
        clients: Only these clients; None means ``rooms`` decide.
        connection_id: Only this connection of theirs.
        rooms: Only members of these rooms, each socket once; empty means everybody.
        done: Called with the tally when the last socket was written to.
    """

    message: Encoded
    clients: tuple[str, ...] | None = None
    connection_id: str | None = None
    rooms: tuple[str, ...] = ()
    exclude: frozenset[str] = frozenset()
    done: Callable[[Tally], None] | None = None


class FanOut:
    """Does jobs in order. Without a running worker a job is done at once, inside the call."""

    def __init__(self, shards: Shards, counters: Counters, stopwatch: Stopwatch | None) -> None:
        self._shards, self._counters, self._stopwatch = shards, counters, stopwatch
        self._jobs: deque[Job] = deque()
        self._wanted = asyncio.Event()
        self._room_for_more = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.queued_bytes: int = 0
        self._slice_ends_s = 0.0

    def submit(self, job: Job) -> None:
        """Do a job after all that were submitted before it."""
        if self._loop is None or self._loop is not asyncio.get_running_loop():
            self._finish(job, self._run_at_once(job))
            return
        self._jobs.append(job)
        self.queued_bytes += job.message.size
        self._wanted.set()
        if self.queued_bytes > QUEUE_LIMIT_BYTES:
            self._room_for_more.clear()

    def pause(self) -> Awaitable[object] | None:
        """What to wait for before more is read from the bus; usually None."""
        if self._loop is None or self._room_for_more.is_set():
            return None
        self._counters.bus_paused += 1
        return self._room_for_more.wait()

    async def run(self, before_each: Callable[[], "asyncio.Future[None] | None"]) -> None:
        """Work until cancelled. ``before_each`` may name something to wait for before the next job."""
        self._loop = asyncio.get_running_loop()
        self._wanted, self._room_for_more = asyncio.Event(), asyncio.Event()
        self._room_for_more.set()
        try:
            while True:
                while self._jobs:
                    while (gate := before_each()) is not None:
                        await asyncio.wait([gate])
                    await self._run_next()
                self._wanted.clear()
                await self._wanted.wait()
                self._slice_ends_s = time.perf_counter() + SLICE_S
        finally:
            self._loop = None
            while self._jobs:
                self._finish(self._jobs[0], Tally())
                self._dequeue()

    async def _run_next(self) -> None:
        job, tally, began_s = self._jobs[0], Tally(), time.perf_counter()
        for shard in self._shards_of(job):
            _write(job, shard, tally)
            if time.perf_counter() > self._slice_ends_s:
                await asyncio.sleep(0)
                self._slice_ends_s = time.perf_counter() + SLICE_S
        if self._stopwatch is not None:
            self._stopwatch.add(time.perf_counter() - began_s)
        self._dequeue()
        self._finish(job, tally)

    def _dequeue(self) -> None:
        self.queued_bytes -= self._jobs.popleft().message.size
        if self.queued_bytes <= QUEUE_LIMIT_BYTES:
            self._room_for_more.set()

    def _run_at_once(self, job: Job) -> Tally:
        tally, began_s = Tally(), time.perf_counter()
        for shard in self._shards_of(job):
            _write(job, shard, tally)
        if self._stopwatch is not None:
            self._stopwatch.add(time.perf_counter() - began_s)
        return tally

    def _shards_of(self, job: Job) -> Iterable[Shard]:
        if job.clients is None:
            return self._shards.shards
        return dict.fromkeys(self._shards.of(client_id) for client_id in job.clients)

    @staticmethod
    def _finish(job: Job, tally: Tally) -> None:
        if job.done is not None:
            job.done(tally)


def _write(job: Job, shard: Shard, tally: Tally) -> None:
    # A copy: a send that fails takes its connection out of the tables.
    targets = tuple(_targets(job, shard))
    tally.total += len(targets)
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    for connection in targets:
        if connection.client_id in job.exclude:
            tally.excluded += 1
        else:
            connection.used_at_s = now_s
            tally.add(connection, job.message, loop)


def _targets(job: Job, shard: Shard) -> Iterable[Connection]:
    if job.connection_id is not None:
        found = shard.connections.get(ConnectionId(job.connection_id))
        return () if found is None else (found,)
    if job.clients is not None:
        return [c for client_id in job.clients for c in shard.clients.get(client_id, {}).values()]
    if not job.rooms:
        return shard.connections.values()
    if len(job.rooms) == 1:
        return shard.rooms.get(job.rooms[0], {}).values()
    union: Connections = {}
    for room in job.rooms:
        union.update(shard.rooms.get(room, {}))
    return union.values()
