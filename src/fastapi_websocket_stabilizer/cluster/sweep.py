"""Removal of what a dead node left behind, by one survivor at a time."""

import asyncio
from collections.abc import Awaitable, Callable

from ..models import PresenceEvent
from ..names import NodeId
from ..ports import Membership
from .context import Context
from .presence import Announcer, client_left, is_gone, room_left

Read = Callable[[NodeId, str, int], Awaitable[tuple[list[Membership], str]]]

LINES = 500
"""Index lines undone between two looks at the event loop."""


class Sweeper:
    """Undoes dead nodes' indexes.

    Order, line by line: compare-and-delete, run the leave hook, only then drop the line. A sweeper that dies
    half-way is followed by another, which finds the lines it had not finished.
    """

    def __init__(self, context: Context, announce: Announcer) -> None:
        self._backend, self._counters, self._announce = context.backend, context.counters, announce
        self._log, self._ttl_ms = context.log, int(context.config.lease_ttl_s * 1000)

    async def sweep(self, node: NodeId) -> None:
        """Sweep one node, unless it lives or another survivor is at it."""
        if await self._backend.nodes.fence(node, self._ttl_ms):
            await self._undo_all(node)

    async def sweep_former(self, node: NodeId) -> None:
        """Sweep a node_id that was ours, unless a survivor is at it.

        A Redis that was emptied may know its lease no more, and yet have what we wrote under it afterwards.
        """
        if await self._backend.nodes.abandon(node, self._ttl_ms):
            await self._undo_all(node)

    async def _undo_all(self, node: NodeId) -> None:
        nodes = self._backend.nodes
        # Rooms first: whoever is out of presence is in no room any more.
        swept = await self._sweep_lines(node, nodes.memberships) + await self._sweep_lines(
            node, nodes.connections
        )
        await nodes.retire(node)
        self._counters.nodes_swept += 1
        self._counters.entries_swept += swept
        self._log.warning("swept a dead node", extra={"dead_node_id": node, "entries": swept})

    async def _sweep_lines(self, node: NodeId, read: Read) -> int:
        cursor, swept = "", 0
        while True:
            lines, cursor = await read(node, cursor, LINES)
            await asyncio.gather(*map(self._undo, lines))
            await self._backend.nodes.forget(node, lines)
            await self._backend.nodes.extend_fence(node, self._ttl_ms)
            swept += len(lines)
            if not cursor:
                return swept

    async def _undo(self, line: Membership) -> None:
        event: PresenceEvent | None = None
        if line.room is not None:
            await self._backend.rooms.leave(line.room, line.connection_id)
            event = room_left(line.client_id, line.connection_id, line.room, line.stay)
        elif await self._was_last(line):
            event = client_left(line.client_id, line.connection_id)
        if event is not None:
            await self._announce(event)

    async def _was_last(self, line: Membership) -> bool:
        presence = self._backend.presence
        is_last = await presence.release(line.client_id, line.connection_id)
        return is_last or await is_gone(presence, line.client_id)
