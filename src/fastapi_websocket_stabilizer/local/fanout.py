"""One ordered worker that writes messages to this node's sockets and never waits for a socket.

Queued broadcasts form one batch. Each message is framed once. Consecutive messages for the same sockets are joined,
and each socket is written to once per batch. There is no timer: batches form while the worker is busy. Messages for
single clients are coalesced by their sockets.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable

from ..runtime.gc_pauses import gc_paused
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters, Histogram
from ..runtime.tracing import FanOutSpan
from .batches import (
    Broadcast,
    DirectMessages,
    FramesBySocket,
    Group,
    counted,
    messages_of,
    missed_since,
    tell,
)
from .connection import Connection
from .shards import Shard, Shards

QUEUE_LIMIT_BYTES = 64 * 1024 * 1024
"""Bytes that were read from the bus and not fanned out yet. Above this, the bus is not read."""
BATCH_BYTES = 64 * 1024
"""Largest number of bytes in one batch. A longer message is a batch of its own."""
SLICE_WRITES = 256
"""Number of writes after which other work of the event loop runs: about 3 ms. Each 4 KiB count as one more."""


class FanOut:
    """Processes work in order. Without a running worker, ``submit`` processes it at once."""

    def __init__(self, shards: Shards, counters: Counters, durations: Histogram | None) -> None:
        self._shards, self._counters, self._durations = shards, counters, durations
        self._queue: deque[Broadcast | DirectMessages] = deque()
        self._wanted = asyncio.Event()
        self._room_for_more = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.queued_bytes: int = 0
        self._is_busy = False
        self._writes_left = SLICE_WRITES

    def submit(self, work: Broadcast | DirectMessages) -> None:
        """Process ``work`` after everything submitted before it."""
        if self._loop is None or self._loop is not running_loop():
            self._do_at_once(work)
            return
        self._queue.append(work)
        self.queued_bytes += work.size
        self._wanted.set()
        if self.queued_bytes > QUEUE_LIMIT_BYTES:
            self._room_for_more.clear()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was submitted has been processed."""
        return not self._queue and not self._is_busy

    def pause(self) -> Awaitable[object] | None:
        """Return an awaitable that ends when more may be read from the bus, or None if it may be now."""
        if self._loop is None or self._room_for_more.is_set():
            return None
        self._counters.bus_paused += 1
        return self._room_for_more.wait()

    async def run(self, before_each: Callable[[], "asyncio.Future[None] | None"]) -> None:
        """Process work until cancelled. ``before_each`` may return a future to wait for before the next batch."""
        self._loop = running_loop()
        self._wanted, self._room_for_more = asyncio.Event(), asyncio.Event()
        self._room_for_more.set()
        try:
            while True:
                while self._queue:
                    while (gate := before_each()) is not None:
                        await asyncio.wait([gate])
                    await self._do(self._next())
                self._wanted.clear()
                await self._wanted.wait()
                self._writes_left = SLICE_WRITES
        except asyncio.CancelledError:
            self._loop = None
            while self._queue:
                self._finish(self._queue.popleft())
            raise

    def _next(self) -> DirectMessages | list[Group]:
        """Return the next batch: direct messages, or a broadcast and those queued directly behind it."""
        first = self._queue.popleft()
        if isinstance(first, DirectMessages):
            return first
        groups, size = [Group(first)], first.size
        while (
            self._queue
            and isinstance(work := self._queue[0], Broadcast)
            and (size + work.size <= BATCH_BYTES or work.outside)
        ):
            # Parts of one message are in one batch, which reads the rooms of a socket once. Otherwise a socket that
            # changes rooms between two parts could get the message twice, or not at all.
            self._queue.popleft()
            size += work.size
            if work.has_targets_of(groups[-1].broadcasts[0]):
                groups[-1].add(work)
            else:
                groups.append(Group(work))
        return groups

    async def _do(self, work: DirectMessages | list[Group]) -> None:
        began_s, self._is_busy = time.perf_counter(), True
        span = _span(work)
        try:
            with gc_paused():
                await (self._deliver(work) if isinstance(work, DirectMessages) else self._broadcast(work))
        finally:
            if self._durations is not None:
                self._durations.add(time.perf_counter() - began_s)
            self._is_busy = False
            for done in [work] if isinstance(work, DirectMessages) else work:
                self._finish(done)
            if span is not None:
                span.end(**counted(work))

    async def _broadcast(self, groups: list[Group]) -> None:
        for shard in self._shards.shards:
            if shard.held:
                self._counters.messages_dropped += sum(group.missed(shard) for group in groups)
            await (self._write(groups[0], shard) if len(groups) == 1 else self._join(groups, shard))
        if any(group.stopped for group in groups):
            self._counters.messages_dropped += missed_since(groups)

    async def _deliver(self, direct: DirectMessages) -> None:
        for size in direct.push(self._shards):
            self._writes_left -= 1 + size // 4096
            if self._writes_left <= 0:
                await self._spend(0)

    async def _write(self, group: Group, shard: Shard) -> None:
        """Write one group to the sockets of a shard. Membership is read when it is written."""
        targets, cost = group.targets(shard), 1 + group.size // 4096
        width = max(1, SLICE_WRITES // cost)
        for start in range(0, len(targets), width):
            part = targets[start : start + width]
            if start:
                rooms = group.broadcasts[0].rooms
                part = tuple(c for c in part if group.is_for(c) and not shard.holds(c, rooms))
            group.write(part)
            await self._spend(len(part) * cost)

    async def _join(self, groups: list[Group], shard: Shard) -> None:
        """Write several groups to the sockets of a shard, each socket once."""
        cost = 1 + sum(group.size for group in groups) // 4096
        width = max(1, SLICE_WRITES // cost)
        if len(groups) * len(shard.connections) <= width:
            await self._spend(_join(groups, shard, None) * cost)
            return
        targets = tuple(dict.fromkeys(c for group in groups for c in group.targets(shard)))
        for start in range(0, len(targets), width):
            await self._spend(_join(groups, shard, frozenset(targets[start : start + width])) * cost)

    async def _spend(self, writes: int) -> None:
        """Let other work of the event loop run if enough was written."""
        self._writes_left -= writes
        if self._writes_left <= 0:
            await asyncio.sleep(0)
            self._writes_left = SLICE_WRITES

    def _do_at_once(self, work: Broadcast | DirectMessages) -> None:
        began_s, span = time.perf_counter(), _span(work)
        # Parts of one message come one after the other, and share their outcome.
        before = {} if span is None else counted(work)
        if isinstance(work, DirectMessages):
            list(work.push(self._shards))
            tell(work)
        else:
            group = Group(work)
            for shard in self._shards.shards:
                self._counters.messages_dropped += group.missed(shard)
                group.write(group.targets(shard))
            group.finish(self._counters)
        if self._durations is not None:
            self._durations.add(time.perf_counter() - began_s)
        if span is not None:
            after = counted(work)
            new = {name: after[name] - before[name] for name in ("sockets", "failed")}
            span.end(messages=after["messages"], **new)

    def _finish(self, done: Broadcast | DirectMessages | Group) -> None:
        self.queued_bytes -= done.size
        if isinstance(done, Group):
            done.finish(self._counters)
        else:
            tell(done)
        if self.queued_bytes <= QUEUE_LIMIT_BYTES:
            self._room_for_more.set()


def _span(work: Broadcast | DirectMessages | list[Group]) -> FanOutSpan | None:
    """Begin the span of a batch, if a message of it comes from a sampled span."""
    contexts = [message.trace for message in messages_of(work) if message.trace]
    return FanOutSpan.begin(contexts) if contexts else None


def _join(groups: list[Group], shard: Shard, part: frozenset[Connection] | None) -> int:
    """Write several groups to the sockets in ``part``, or to all. Return the number of sockets."""
    outgoing: FramesBySocket = defaultdict(list)
    for group in groups:
        targets = group.targets(shard)
        group.write(targets if part is None else filter(part.__contains__, targets), outgoing)
    for connection, frames in outgoing.items():
        connection.writer.write(frames[0] if len(frames) == 1 else b"".join(frames))
    return len(outgoing)
