"""Reads of a log in parts, for members that were too slow: each takes about as much as its outbox holds."""

import asyncio
from collections.abc import Callable, Sequence

from ..backends.log_ports import LogEntry
from ..exceptions import LOSSES
from ..local.connection import Connection
from .continuity import Continued, resumed
from .feed import Action, Cursor
from .logs import Log
from .members import Members
from .state import NodeState

PART_BYTES = 128 * 1024
"""Bytes of a log that are read at a time for a slow member: about what it is sent until it is behind again."""


Act = Callable[[Log, Sequence[Action]], None]
"""Function that carries out the actions of a feed."""


def go_on(
    state: NodeState,
    members: Members,
    reading: asyncio.Semaphore,
    log: Log,
    connection: Connection,
    act: Act,
) -> None:
    """Feed a slow member again. ``reading`` bounds the reads of the node.

    A read of everything for each part would read a log of 16 MiB a hundred times.
    """
    position = log.feed.far_behind(connection)
    if position is None or not state.is_distributed:
        act(log, log.feed.drained(connection))
    else:
        state.tasks.spawn(_read_on(state, members, reading, log, connection, position, act), "read-on")


async def _read_on(
    state: NodeState,
    members: Members,
    reading: asyncio.Semaphore,
    log: Log,
    connection: Connection,
    position: Cursor,
    act: Act,
) -> None:
    """Send a slow member its log in parts, until it is too slow again, or only its feed can tell the rest."""
    feed = log.feed
    while feed.lagging(connection) is position:
        entries: Sequence[LogEntry] = ()
        if feed.far_behind(connection) is not None:
            entries = await _part(state, reading, log, position)
            if feed.lagging(connection) is not position:
                return  # it has left, and may even be back
        if not entries:
            if actions := feed.drained(connection):  # none if the log was forgotten here
                act(log, actions)
            return
        if members.part(connection, log.channel, entries):
            position = Cursor(entries[-1].id, entries[-1].id)
            feed.lag(connection, position)


async def _part(
    state: NodeState, reading: asyncio.Semaphore, log: Log, position: Cursor
) -> Sequence[LogEntry]:
    """Return entries of a log behind a position; none if only the feed can tell what is there."""
    state.counters.history_parts += 1
    try:
        async with reading:
            found = await state.backend.logs.after(log.name, position.id, PART_BYTES)
    except LOSSES:
        return ()
    last, listening = log.feed.last, log.listening
    if last is None or not log.feed.is_flowing or listening is None or found.run_id != listening.run_id:
        return ()  # it may have other entries than this node has delivered
    outcome = resumed(position.id, position.t_us, found)
    if not isinstance(outcome, Continued) or not outcome.is_known:
        return ()
    return [entry for entry in outcome.entries if entry.id <= last]
