"""One ordered worker that brings messages to this node's sockets and never waits for one of them.

Broadcasts that the bus delivers in one read are one batch: each message is framed once, consecutive messages for
the same sockets are joined, and a socket is written to once per batch. Nothing waits for more to come; batches
form by themselves while the worker is busy. Messages for clients are gathered by their sockets.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable

from ..runtime.gc_pauses import gc_paused
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters, Stopwatch
from .connection import Connection
from .jobs import Job, Mail, Outgoing, Run, tell
from .shards import Shard, Shards

QUEUE_LIMIT_BYTES = 64 * 1024 * 1024
"""Bytes read from the bus and not yet fanned out; above it the bus is not read."""
BATCH_BYTES = 64 * 1024
"""Bytes joined into one write; a longer message is a batch by itself."""
SLICE_WRITES = 256
"""Writes after which the event loop is given back: about 3 ms. Each 4 KiB count as one more."""


class FanOut:
    """Does jobs in order. Without a running worker a job is done at once, inside the call."""

    def __init__(self, shards: Shards, counters: Counters, stopwatch: Stopwatch | None) -> None:
        self._shards, self._counters, self._stopwatch = shards, counters, stopwatch
        self._jobs: deque[Job | Mail] = deque()
        self._wanted = asyncio.Event()
        self._room_for_more = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.queued_bytes: int = 0
        self._writes_left = SLICE_WRITES

    def submit(self, job: Job | Mail) -> None:
        """Do a job after all that were submitted before it."""
        if self._loop is None or self._loop is not running_loop():
            self._do_at_once(job)
            return
        self._jobs.append(job)
        self.queued_bytes += job.size
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
                    await self._do(self._next())
                self._wanted.clear()
                await self._wanted.wait()
                self._writes_left = SLICE_WRITES
        except asyncio.CancelledError:
            self._loop = None
            while self._jobs:
                self._finish(self._jobs.popleft())
            raise

    def _next(self) -> Mail | list[Run]:
        """Return what is to be done together: mail, or a broadcast and those that are queued right behind it."""
        first = self._jobs.popleft()
        if isinstance(first, Mail):
            return first
        runs, size = [Run(first)], first.size
        while self._jobs and size + (job := self._jobs[0]).size <= BATCH_BYTES and isinstance(job, Job):
            self._jobs.popleft()
            size += job.size
            if job.rooms == runs[-1].jobs[0].rooms:
                runs[-1].add(job)
            else:
                runs.append(Run(job))
        return runs

    async def _do(self, work: Mail | list[Run]) -> None:
        began_s = time.perf_counter()
        try:
            with gc_paused():
                await (self._deliver(work) if isinstance(work, Mail) else self._broadcast(work))
        finally:
            if self._stopwatch is not None:
                self._stopwatch.add(time.perf_counter() - began_s)
            for done in [work] if isinstance(work, Mail) else work:
                self._finish(done)

    async def _broadcast(self, runs: list[Run]) -> None:
        for shard in self._shards.shards:
            await (self._write(runs[0], shard) if len(runs) == 1 else self._join(runs, shard))

    async def _deliver(self, mail: Mail) -> None:
        for size in mail.push(self._shards):
            self._writes_left -= 1 + size // 4096
            if self._writes_left <= 0:
                await self._spend(0)

    async def _write(self, run: Run, shard: Shard) -> None:
        """Write one run to the sockets of a shard; membership is read at the moment of the write."""
        targets, cost = run.targets(shard), 1 + run.size // 4096
        width = max(1, SLICE_WRITES // cost)
        for start in range(0, len(targets), width):
            part = targets[start : start + width]
            if start:
                part = tuple(filter(run.is_for, part))
            run.write(part)
            await self._spend(len(part) * cost)

    async def _join(self, runs: list[Run], shard: Shard) -> None:
        """Write several runs to the sockets of a shard, each socket once."""
        cost = 1 + sum(run.size for run in runs) // 4096
        width = max(1, SLICE_WRITES // cost)
        if len(runs) * len(shard.connections) <= width:
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

    def _do_at_once(self, job: Job | Mail) -> None:
        began_s = time.perf_counter()
        if isinstance(job, Mail):
            list(job.push(self._shards))
            tell(job)
        else:
            run = Run(job)
            for shard in self._shards.shards:
                run.write(run.targets(shard))
            self._counters.messages_sent += run.finish()
        if self._stopwatch is not None:
            self._stopwatch.add(time.perf_counter() - began_s)

    def _finish(self, done: Job | Mail | Run) -> None:
        self.queued_bytes -= done.size
        if isinstance(done, Run):
            self._counters.messages_sent += done.finish()
        else:
            tell(done)
        if self.queued_bytes <= QUEUE_LIMIT_BYTES:
            self._room_for_more.set()


def _join(runs: list[Run], shard: Shard, part: frozenset[Connection] | None) -> int:
    """Write several runs to some of their sockets, or to all; return how many sockets that were."""
    outgoing: Outgoing = defaultdict(list)
    for run in runs:
        targets = run.targets(shard)
        run.write(targets if part is None else filter(part.__contains__, targets), outgoing)
    for connection, frames in outgoing.items():
        connection.write(frames[0] if len(frames) == 1 else b"".join(frames))
    return len(outgoing)
