"""Sends this node's clients to other nodes: one after the other, within a given time whatever they do."""

import asyncio
import random
from contextlib import suppress

from .. import close_codes
from ..exceptions import LOSSES, ConfigurationError
from ..local.connection import Connection
from ..local.lifecycle import Ended
from ..models import ShutdownReport
from ..runtime.loops import running_loop
from .connections import Connections, come_back
from .directory import Directory
from .lease import Lease
from .pace import Pace
from .state import NodeState

LOOK_AROUND_S = 1.0
"""Seconds between two looks, before a process ends, whether another node still takes its clients."""
LOOK_AGAIN_S = 0.05
"""Seconds between two looks at what others decide: that a socket is accepted, that a drain is hurried."""


class Drain:
    """One node's way out: newcomers are refused, and those who are here closed at a pace others can take."""

    def __init__(
        self, state: NodeState, connections: Connections, directory: Directory, lease: Lease
    ) -> None:
        self._state, self._connections = state, connections
        self._directory, self._lease = directory, lease
        self._task: asyncio.Task[None] | None = None
        self._pace = Pace(0.0, 0.0, 0)
        self._ends_at_s = 0.0
        self._order: list[Connection] = []
        self._closing: dict[asyncio.Task[None], Connection] = {}
        self._slow: set[asyncio.Task[None]] = set()  # those that have something to write first
        self._closed = self._failed = 0
        self._outcome = (0, 0)

    async def run(self, over_s: float) -> ShutdownReport:
        """Close every connection within ``over_s`` seconds. A drain that is under way is joined, and hurried.

        A caller who is cancelled stops waiting; the drain goes on.

        Raises:
            ConfigurationError: ``over_s`` is no positive number.
        """
        if not 0 < over_s < float("inf"):
            raise ConfigurationError(f"over must be a positive number of seconds, got {over_s!r}")
        began_s = running_loop().time()
        self._state.is_draining = True
        if self._task is None or self._task.done():
            self._closed = self._failed = 0
            self._ends_at_s = began_s + over_s
            self._pace = Pace(began_s, self._last_close_at_s(over_s), len(self._state.shards))
            self._task = self._state.tasks.spawn(self._drain(), "drain")
            self._state.tasks.spawn(self._has_refuge(), "say-draining")
        else:
            self._hurry(over_s)
        await asyncio.wait([self._task])
        return ShutdownReport(*self._outcome, running_loop().time() - began_s)

    async def before_exit(self) -> None:
        """Drain over ``drain_over_s`` seconds, as long as another node takes the clients; else return at once."""
        over_s = self._state.config.drain_over_s
        ends_at_s = running_loop().time() + over_s
        self._state.is_draining = True
        if not len(self._state.shards) or not await self._has_refuge():
            return
        left_s = max(ends_at_s - running_loop().time(), 0.1)
        draining = self._state.tasks.spawn(self.run(left_s), "drain-before-exit")
        while not draining.done():
            await asyncio.wait([draining], timeout=LOOK_AROUND_S)
            if not draining.done() and not await self._has_refuge():
                self._hurry(self._state.config.close_timeout_s)  # nobody to go to: why take it slowly

    async def _has_refuge(self) -> bool:
        """Whether another node takes clients. The question tells the others that this one does not."""
        try:
            async with asyncio.timeout(LOOK_AROUND_S):  # a Redis that is silent must not use up the window
                nodes = await self._directory.nodes()
        except (*LOSSES, TimeoutError):  # who was there at the last beat?
            return any(not self._state.is_own(node) for node in self._lease.known_live())
        return any(not node.draining and not self._state.is_own(node.node_id) for node in nodes)

    def _hurry(self, over_s: float) -> None:
        now_s = running_loop().time()
        if now_s + over_s < self._ends_at_s:
            self._ends_at_s = now_s + over_s
            self._pace.hurry(now_s, self._last_close_at_s(over_s), len(self._state.shards))

    def _last_close_at_s(self, over_s: float) -> float:
        """When the last close begins, so that it is over, or given up, by the end."""
        return self._ends_at_s - min(self._state.config.close_timeout_s, over_s / 4)

    async def _drain(self) -> None:
        shards, log = self._state.shards, self._state.log
        log.info("draining", extra={"connections": len(shards)})
        try:
            while len(shards) and running_loop().time() < self._pace.ends_at_s:
                await self._close_next()
            await self._close_the_rest()
            while self._closing and running_loop().time() < self._ends_at_s:
                await asyncio.wait(tuple(self._closing), timeout=self._soon_s())
        finally:
            self._outcome = (self._closed, self._failed + len(self._closing))
            for connection in self._closing.values():
                with suppress(RuntimeError):  # a loop that is closed, and its sockets with it
                    connection.loop.call_soon_threadsafe(connection.abort)
            log.info("drained", extra=dict(zip(("closed", "failed"), self._outcome, strict=True)))

    async def _close_next(self) -> None:
        """Wait for the next connection's time, and for a free place among those being closed; begin its close."""
        now_s = running_loop().time()
        due_s = self._pace.next_at_s(now_s, len(self._state.shards))
        await asyncio.sleep(max(0.0, due_s - now_s))
        if len(self._closing) - len(self._slow) >= self._state.config.max_concurrent_cleanup:
            await asyncio.wait(self._closing, timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        elif (connection := self._pick()) is not None:
            self._close(connection)

    def _pick(self) -> Connection | None:
        """Return one by chance: neighbours in a table may be neighbours in the world. The slow ones come first.

        None when all were; one that is not accepted yet is soon refused, or comes round again.
        """
        while self._order:
            connection = self._order.pop()
            if connection.ended is None and connection.is_open:
                return connection
        self._order = list(self._state.shards)
        random.shuffle(self._order)
        self._order.sort(key=lambda connection: connection.is_writing)
        return None

    async def _close_the_rest(self) -> None:
        """Time is nearly up: who is left goes now, all together, and those who are not accepted yet then."""
        while True:
            for connection in tuple(self._state.shards):
                if connection.is_open:
                    self._close(connection)
            if not len(self._state.shards) or running_loop().time() >= self._ends_at_s:
                return
            await asyncio.sleep(self._soon_s())

    def _soon_s(self) -> float:
        """Seconds until the next look; none goes beyond the end."""
        return max(0.0, min(LOOK_AGAIN_S, self._ends_at_s - running_loop().time()))

    def _close(self, connection: Connection) -> None:
        task = self._state.tasks.spawn(self._send_away(connection), "drain-close")
        self._closing[task] = connection
        task.add_done_callback(self._closing.pop)
        if connection.is_writing:  # it may take the whole window, and is not to hold up others
            self._slow.add(task)
            task.add_done_callback(self._slow.discard)

    async def _send_away(self, connection: Connection) -> None:
        if connection.ended is not None:
            return
        connection.patience_s = self._ends_at_s - running_loop().time()
        reason = come_back(self._pace.reconnect_in_ms())
        if await self._connections.close(connection, Ended.SHUTDOWN, close_codes.SERVICE_RESTART, reason):
            self._closed += 1
            self._state.counters.connections_drained += 1
        else:
            self._failed += 1
