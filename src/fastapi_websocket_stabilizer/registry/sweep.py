"""Removal of the entries of a dead node, by one node at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..backends.ports import IndexEntry
from ..exceptions import LOSSES
from ..names import NodeId
from ..runtime.tracing import task
from .places import remove
from .presence import Reports, joined, left
from .state import NodeState

Read = Callable[[NodeId, str, int], Awaitable[tuple[list[IndexEntry], str]]]

LINES = 500
"""Index lines in one read, which are removed together."""


class Sweeper:
    """Removes the entries of dead nodes by their indexes.

    The order for each line: compare and delete, run the hooks, then remove the note of the event and the line. If
    a sweeper dies, the next one finds the remaining lines and notes.
    """

    def __init__(self, state: NodeState, reports: Reports) -> None:
        self._state, self._reports = state, reports
        self._backend, self._counters = state.backend, state.counters
        self._log, self._ttl_ms = state.log, int(state.config.lease_ttl_s * 1000)

    async def sweep(self, node: NodeId) -> None:
        """Sweep a node, unless it is live or is being swept by another node."""
        if await self._backend.nodes.fence(node, self._ttl_ms):
            await self._undo_all(node)
            self._counters.nodes_swept += 1

    async def sweep_former(self, node: NodeId) -> None:
        """Sweep a former node_id of this process, unless another node is sweeping it.

        A Redis that lost its content may have lost the lease, but have entries that were written afterwards.
        """
        if await self._backend.nodes.abandon(node, self._ttl_ms):
            await self._undo_all(node)

    async def _undo_all(self, node: NodeId) -> None:
        nodes = self._backend.nodes
        fence = self._state.tasks.spawn(self._hold(node), f"fence-{node}")
        try:
            with task("sweep"):
                # Rooms first, so that no room shows a client that is not in presence.
                swept = await self._sweep_lines(node, nodes.memberships)
                swept += await self._sweep_lines(node, nodes.connections)
        finally:
            fence.cancel()
        await nodes.retire(node)
        self._counters.entries_swept += swept
        self._log.warning("swept a dead node", extra={"dead_node_id": node, "entries": swept})

    async def _hold(self, node: NodeId) -> None:
        """Extend the fence until cancelled, so that no other node starts the same sweep during slow hooks."""
        while True:
            await asyncio.sleep(self._state.config.renew_interval_s)
            with suppress(*LOSSES):
                await self._backend.nodes.extend_fence(node, self._ttl_ms)

    async def _sweep_lines(self, node: NodeId, read: Read) -> int:
        cursor, swept = "", 0
        while True:
            lines, cursor = await read(node, cursor, LINES)
            await asyncio.gather(*map(self._undo, lines))
            await self._backend.nodes.forget(node, lines)
            swept += len(lines)
            if not cursor:
                return swept

    async def _undo(self, line: IndexEntry) -> None:
        removed = await remove(self._state, line)
        if line.sid:
            return
        if removed.joined:  # the node died before the confirmation, and perhaps before the report
            await self._reports.report(joined(line))
        if removed.left:
            await self._reports.report(left(line, line.visit or removed.left))  # a stay has kept its name
        await self._reports.confirm(line, "joined", "left")
