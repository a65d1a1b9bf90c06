"""The drain of a node: closes its connections one by one within a given time, so that clients reconnect elsewhere."""

import asyncio
import random
from contextlib import suppress

from .. import close_codes
from ..exceptions import LOSSES
from ..local.connection import Connection
from ..models import CloseCause, ShutdownReport
from ..runtime.loops import running_loop
from ..runtime.seconds import positive_seconds
from ..runtime.tracing import task
from ..wire.client_frames import wait_reason
from .connections import Connections
from .directory import Directory
from .lease import Lease
from .pace import Pace
from .state import NodeState

LOOK_AROUND_S = 1.0
"""Seconds between two checks, before a process ends, whether another node accepts clients."""
LOOK_AGAIN_S = 0.05
"""Seconds between two checks whether a socket was accepted or the drain was shortened."""


class Drain:
    """Rejects new clients, and closes the present ones at a pace that the other nodes can handle."""

    def __init__(
        self, state: NodeState, connections: Connections, directory: Directory, lease: Lease
    ) -> None:
        self._state, self._connections = state, connections
        self._directory, self._lease = directory, lease
        self._task: asyncio.Task[None] | None = None
        self._pace = Pace(0.0, 0.0, 0)
        self._ends_at_s = self._last_close_at_s = 0.0
        self._order: list[Connection] = []
        self._closing: dict[asyncio.Task[None], Connection] = {}
        self._slow: set[asyncio.Task[None]] = set()  # with queued messages to write first
        self._told: set[Connection] = set()  # to open their next socket, while they have not left
        self._closed = self._failed = 0
        self._counts_at_s = 0.0
        self._outcome = (0, 0)

    async def run(self, over_s: float) -> ShutdownReport:
        """Close every connection within ``over_s`` seconds. A drain that is running is joined, and shortened.

        If the caller is cancelled, the drain continues.

        Raises:
            ConfigurationError: ``over_s`` is not a positive number.
        """
        over_s = positive_seconds("over", over_s)
        began_s = running_loop().time()
        self._state.is_draining = True
        if self._task is None or self._task.done():
            self._closed = self._failed = 0
            self._told.clear()
            self._end_within(over_s)
            self._pace = Pace(began_s, self._last_close_at_s, len(self._state.shards))
            self._task = self._state.tasks.spawn(self._drain(), "drain")
            self._state.tasks.spawn(self._has_refuge(), "say-draining")
        else:
            self._hurry(over_s)
        await asyncio.wait([self._task])
        return ShutdownReport(*self._outcome, running_loop().time() - began_s)

    async def before_exit(self) -> None:
        """Drain over ``drain_over_s`` seconds while another node accepts the clients, else return at once."""
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
                self._hurry(self._state.config.close_timeout_s)  # no node is left for which a slow pace helps

    async def _has_refuge(self) -> bool:
        """Whether another node accepts clients. The query also renews the lease, which publishes the drain."""
        try:
            async with asyncio.timeout(LOOK_AROUND_S):  # a silent Redis must not use up the window
                nodes = await self._directory.nodes()
        except (*LOSSES, TimeoutError):  # use the last beat
            return any(not self._state.is_own(node) for node in self._lease.known_live())
        return any(not node.draining and not self._state.is_own(node.node_id) for node in nodes)

    def _hurry(self, over_s: float) -> None:
        now_s = running_loop().time()
        if now_s + over_s < self._ends_at_s:
            self._end_within(over_s)
            self._pace.hurry(now_s, self._last_close_at_s, len(self._state.shards))

    def _end_within(self, over_s: float) -> None:
        self._ends_at_s = running_loop().time() + over_s
        # The last close must begin early enough to be complete, or given up, by the end.
        self._last_close_at_s = self._ends_at_s - min(self._state.config.close_timeout_s, over_s / 4)

    async def _drain(self) -> None:
        with task("drain"):
            await self._close_all()

    async def _close_all(self) -> None:
        shards, log = self._state.shards, self._state.log
        log.info("draining", extra={"connections": len(shards)})
        try:
            await self._tell_sessions()
            while running_loop().time() < self._pace.ends_at_s and (left := self._count_left()):
                await self._close_next(left)
            while running_loop().time() < self._pace.ends_at_s and len(shards):
                await asyncio.sleep(self._soon_s())  # those that were told close their sockets
                self._count_left()
            await self._close_the_rest()
            while self._closing and running_loop().time() < self._ends_at_s:
                await asyncio.wait(tuple(self._closing), timeout=self._soon_s())
        finally:
            self._outcome = (self._closed, self._failed + len(self._closing))
            for connection in self._closing.values():
                with suppress(RuntimeError):  # a loop that is closed, and its sockets with it
                    connection.loop.call_soon_threadsafe(connection.abort)
            log.info("drained", extra=dict(zip(("closed", "failed"), self._outcome, strict=True)))

    def _count_left(self) -> int:
        """Return how many connections are neither closed nor told to leave. Count those that have left since."""
        now_s = running_loop().time()
        if self._told and (now_s >= self._counts_at_s or len(self._told) >= len(self._state.shards)):
            self._counts_at_s = now_s + LOOK_AGAIN_S
            gone = {connection for connection in self._told if connection.ended is not None}
            self._told -= gone
            self._closed += len(gone)
            self._state.counters.connections_drained += len(gone)
        return max(0, len(self._state.shards) - len(self._told))

    async def _tell_sessions(self) -> None:
        """Tell clients of ``stabilizer.v1`` to open their next socket. Each closes this one when it has it.

        They are told one after the other in the first part of the window, at most its half. So the last one has time
        to move.
        """
        shards = self._state.shards
        sessions = [connection for connection in shards if connection.session is not None]
        if not sessions:
            return
        began_s = running_loop().time()
        share = min(len(sessions) / len(shards), 0.5)
        self._pace = Pace(began_s, began_s + share * (self._last_close_at_s - began_s), len(sessions))
        random.shuffle(sessions)
        while sessions:
            now_s = running_loop().time()
            await asyncio.sleep(max(0.0, self._pace.next_at_s(now_s, len(sessions)) - now_s))
            self._tell(sessions.pop())
        self._pace = Pace(running_loop().time(), self._last_close_at_s, len(shards))

    def _tell(self, connection: Connection) -> None:
        if connection.session is not None and connection.is_open:
            self._told.add(connection)
            connection.session.go(self._pace.reconnect_in_ms())

    async def _close_next(self, left: int) -> None:
        """Wait until the next close is due, and until fewer than the maximum are in progress. Then begin it."""
        now_s = running_loop().time()
        due_s = self._pace.next_at_s(now_s, left)
        await asyncio.sleep(max(0.0, due_s - now_s))
        if len(self._closing) - len(self._slow) >= self._state.config.max_concurrent_cleanup:
            await asyncio.wait(self._closing, timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        elif (connection := self._pick()) is None:
            return
        elif connection.session is None:
            self._close(connection)
        else:
            self._tell(connection)  # it has got its first frame since

    def _pick(self) -> Connection | None:
        """Return a random connection, because adjacent entries may share a network path. Slow ones come first.

        None at the end of a round. A socket that is not accepted yet is rejected soon, or is in the next round.
        """
        while self._order:
            connection = self._order.pop()
            if connection.is_open:
                return connection
        self._order = [connection for connection in self._state.shards if connection not in self._told]
        random.shuffle(self._order)
        self._order.sort(key=lambda connection: connection.writer.is_writing)
        return None

    async def _close_the_rest(self) -> None:
        """Close all remaining connections at once, and those in the handshake as soon as they are accepted."""
        while True:
            for connection in tuple(self._state.shards):
                if connection.is_open:
                    self._close(connection)
            if not len(self._state.shards) or running_loop().time() >= self._ends_at_s:
                return
            await asyncio.sleep(self._soon_s())

    def _soon_s(self) -> float:
        """Return the seconds until the next check, which is not after the end."""
        return max(0.0, min(LOOK_AGAIN_S, self._ends_at_s - running_loop().time()))

    def _close(self, connection: Connection) -> None:
        task = self._state.tasks.spawn(self._send_away(connection), "drain-close")
        self._closing[task] = connection
        task.add_done_callback(self._closing.pop)
        if connection.writer.is_writing:  # it may take the whole window, and must not delay others
            self._slow.add(task)
            task.add_done_callback(self._slow.discard)

    async def _send_away(self, connection: Connection) -> None:
        self._told.discard(connection)
        if connection.ended is not None:
            return
        patience_s = self._ends_at_s - running_loop().time()
        reason, code = wait_reason(self._pace.reconnect_in_ms()), close_codes.SERVICE_RESTART
        if await self._connections.close(connection, CloseCause.DRAINED, code, reason, patience_s):
            self._closed += 1
            self._state.counters.connections_drained += 1
        else:
            self._failed += 1
