"""One ordered worker that brings messages to this node's sockets and never waits for one of them.

What the bus delivers in one read is one batch: each message is framed once, consecutive messages for the same
sockets are joined, and a socket is written to once per batch. Nothing waits for more to come; batches form by
themselves while the worker is busy.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from ..loops import running_loop
from ..metrics import Counters, Stopwatch
from ..names import ConnectionId
from ..wire import Encoded
from .backlog import Outcome
from .collector import no_garbage_collection
from .connection import Connection
from .shards import Connections, Shard, Shards

log: logging.Logger = logging.getLogger(__name__)

QUEUE_LIMIT_BYTES = 64 * 1024 * 1024
"""Bytes read from the bus and not yet fanned out; above it the bus is not read."""
BATCH_BYTES = 64 * 1024
"""Bytes joined into one write; a longer message is a batch by itself."""
SLICE_WRITES = 256
"""Writes after which the event loop is given back: about 3 ms. Each 4 KiB count as one more."""


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


@dataclass(slots=True, eq=False)
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
    tally: Tally = field(default_factory=Tally)

    def is_for_same_as(self, other: "Job") -> bool:
        """Whether both go to the same sockets, but for those that are excluded."""
        return self.clients is None and other.clients is None and self.rooms == other.rooms


class _Frames(dict[int, bytes]):
    """The frames of several messages in one piece, by the window bits of the sockets that they go to."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs

    def __missing__(self, window_bits: int) -> bytes:
        joined = self[window_bits] = b"".join([job.message.frame(window_bits) for job in self._jobs])
        return joined


class Run:
    """Consecutive jobs for the same sockets, joined."""

    __slots__ = ("_excluded", "_reached", "_written", "frames", "jobs", "size")

    def __init__(self, job: Job) -> None:
        self.jobs: list[Job] = [job]
        self.size: int = job.message.size
        self.frames: _Frames = _Frames(self.jobs)
        self._excluded: set[str] = set(job.exclude)  # who does not get all of it
        self._reached = 0  # sockets that got all of it
        self._written = 0  # messages, on all lines

    def add(self, job: Job) -> None:
        self.jobs.append(job)
        self.size += job.message.size
        self._excluded |= job.exclude

    def targets(self, shard: Shard) -> tuple[Connection, ...]:
        # A copy: a send that fails takes its connection out of the tables.
        return tuple(_targets(self.jobs[0], shard))

    def most(self, shard: Shard) -> int:
        """At least as many as there are targets, counted cheaply."""
        clients = self.jobs[0].clients
        return len(shard.connections) if clients is None else len(clients)

    def is_for(self, connection: Connection) -> bool:
        """Whether a target is still one, after the event loop was given back."""
        rooms = self.jobs[0].rooms
        return connection.ended is None and (not rooms or not connection.rooms.isdisjoint(rooms))

    def write(self, targets: Iterable[Connection], write: Callable[[Connection, bytes], bool]) -> None:
        """Write to each target: all at once where it has an open line, else message by message."""
        loop = running_loop()
        now_s, excluded, frames, reached = loop.time(), self._excluded, self.frames, 0
        for connection in targets:
            if connection.open_line is None or connection.loop is not loop:
                self._push(connection, loop, now_s)
            elif connection.client_id in excluded:
                self._write_part(connection, write, now_s)
            else:
                connection.used_at_s = now_s
                if write(connection, frames[connection.window_bits]):
                    reached += 1
                else:
                    self._failed(connection)
        self._reached += reached
        self._written += reached * len(self.jobs)

    def _failed(self, connection: Connection) -> None:
        for job in self.jobs:
            job.tally.total += 1
            job.tally.errors.append((connection.client_id, connection.error))

    def _push(self, connection: Connection, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        for job in self.jobs:
            job.tally.total += 1
            if connection.client_id in job.exclude:
                job.tally.excluded += 1
            else:
                connection.used_at_s = now_s
                job.tally.add(connection, job.message, loop)

    def _write_part(
        self, connection: Connection, write: Callable[[Connection, bytes], bool], now_s: float
    ) -> None:
        frames = []
        for job in self.jobs:
            job.tally.total += 1
            if connection.client_id in job.exclude:
                job.tally.excluded += 1
            else:
                job.tally.succeeded += 1
                frames.append(job.message.frame(connection.window_bits))
        if frames:
            connection.used_at_s = now_s
            self._written += len(frames)
            write(connection, b"".join(frames))

    def finish(self) -> int:
        """Tell whoever waits; return how many messages went to lines."""
        for job in self.jobs:
            job.tally.total += self._reached
            job.tally.succeeded += self._reached
            if job.done is not None:
                try:
                    job.done(job.tally)
                except Exception:  # one caller's trouble is not the others'
                    log.exception("fan-out: nobody could be told")
        return self._written


class FanOut:
    """Does jobs in order. Without a running worker a job is done at once, inside the call."""

    def __init__(self, shards: Shards, counters: Counters, stopwatch: Stopwatch | None) -> None:
        self._shards, self._counters, self._stopwatch = shards, counters, stopwatch
        self._jobs: deque[Job] = deque()
        self._wanted = asyncio.Event()
        self._room_for_more = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.queued_bytes: int = 0
        self._writes_left = SLICE_WRITES

    def submit(self, job: Job) -> None:
        """Do a job after all that were submitted before it."""
        if self._loop is None or self._loop is not running_loop():
            self._do_at_once(Run(job))
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
        """Work until cancelled. ``before_each`` may name something to wait for before the next batch."""
        self._loop = running_loop()
        self._wanted, self._room_for_more = asyncio.Event(), asyncio.Event()
        self._room_for_more.set()
        try:
            while True:
                while self._jobs:
                    while (gate := before_each()) is not None:
                        await asyncio.wait([gate])
                    await self._do(self._next_batch())
                self._wanted.clear()
                await self._wanted.wait()
                self._writes_left = SLICE_WRITES
        except asyncio.CancelledError:
            self._loop = None
            while self._jobs:
                self._finish([Run(self._jobs.popleft())])
            raise

    def _next_batch(self) -> list[Run]:
        runs = [Run(self._jobs.popleft())]
        size = runs[0].size
        while self._jobs and size + self._jobs[0].message.size <= BATCH_BYTES:
            job = self._jobs.popleft()
            size += job.message.size
            if job.is_for_same_as(runs[-1].jobs[0]):
                runs[-1].add(job)
            else:
                runs.append(Run(job))
        return runs

    async def _do(self, runs: list[Run]) -> None:
        began_s = time.perf_counter()
        try:
            with no_garbage_collection():
                for shard, of_shard in self._by_shard(runs).items():
                    await (
                        self._write(of_shard[0], shard) if len(of_shard) == 1 else self._join(of_shard, shard)
                    )
        finally:
            if self._stopwatch is not None:
                self._stopwatch.add(time.perf_counter() - began_s)
            self._finish(runs)

    def _by_shard(self, runs: list[Run]) -> dict[Shard, list[Run]]:
        if len(runs) == 1:
            return dict.fromkeys(self._shards_of(runs[0]), runs)
        by_shard: dict[Shard, list[Run]] = {}
        for run in runs:
            for shard in self._shards_of(run):
                by_shard.setdefault(shard, []).append(run)
        return by_shard

    def _shards_of(self, run: Run) -> Iterable[Shard]:
        clients = run.jobs[0].clients
        if clients is None:
            return self._shards.shards
        if len(clients) == 1:
            return (self._shards.of(clients[0]),)
        return dict.fromkeys(self._shards.of(client_id) for client_id in clients)

    async def _write(self, run: Run, shard: Shard) -> None:
        """Write one run to the sockets of a shard; membership is read at the moment of the write."""
        targets, cost = run.targets(shard), 1 + run.size // 4096
        width = max(1, SLICE_WRITES // cost)
        for start in range(0, len(targets), width):
            part = targets[start : start + width]
            if start:
                part = tuple(filter(run.is_for, part))
            run.write(part, Connection.write)
            await self._spend(len(part) * cost)

    async def _join(self, runs: list[Run], shard: Shard) -> None:
        """Write several runs to the sockets of a shard, each socket once."""
        cost = 1 + sum(run.size for run in runs) // 4096
        width = max(1, SLICE_WRITES // cost)
        if sum(run.most(shard) for run in runs) <= width:
            await self._spend(_join(runs, shard, None) * cost)
            return
        targets = tuple(dict.fromkeys(c for run in runs for c in run.targets(shard)))
        for start in range(0, len(targets), width):
            await self._spend(_join(runs, shard, frozenset(targets[start : start + width])) * cost)

    async def _spend(self, writes: int) -> None:
        """Give the event loop back when enough was written."""
        self._writes_left -= writes
        if self._writes_left <= 0:
            await asyncio.sleep(0)
            self._writes_left = SLICE_WRITES

    def _do_at_once(self, run: Run) -> None:
        began_s = time.perf_counter()
        for shard in self._shards_of(run):
            run.write(run.targets(shard), Connection.write)
        if self._stopwatch is not None:
            self._stopwatch.add(time.perf_counter() - began_s)
        self._counters.messages_sent += run.finish()

    def _finish(self, runs: list[Run]) -> None:
        for run in runs:
            self.queued_bytes -= run.size
            self._counters.messages_sent += run.finish()
        if self.queued_bytes <= QUEUE_LIMIT_BYTES:
            self._room_for_more.set()


def _join(runs: list[Run], shard: Shard, part: frozenset[Connection] | None) -> int:
    """Write several runs to some of their sockets, or to all; return how many sockets that were."""
    outgoing: dict[Connection, list[bytes]] = {}

    def gather(connection: Connection, frames: bytes) -> bool:
        outgoing.setdefault(connection, []).append(frames)
        return True

    for run in runs:
        targets = run.targets(shard)
        run.write(targets if part is None else filter(part.__contains__, targets), gather)
    for connection, frames in outgoing.items():
        connection.write(frames[0] if len(frames) == 1 else b"".join(frames))
    return len(outgoing)


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
