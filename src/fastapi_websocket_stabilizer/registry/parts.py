"""Reads of logs in parts, for members that were too slow: each takes about as much as its outbox holds.

All logs that a connection was let out of go on together, merged by id. So the copies of a message to several rooms
are next to one another, and the client drops the second one.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import NamedTuple

from ..backends.log_ports import LogEntry
from ..exceptions import LOSSES
from ..local.connection import Connection
from ..local.sends import first_step
from ..wire.channels import Channel
from .continuity import Continued, entry_id, resumed
from .feed import Action, Cursor
from .logs import ForClient, Log, for_client
from .members import Members
from .state import NodeState

PART_BYTES = 128 * 1024
"""Bytes of logs that are read at a time for a slow member: about what it is sent until it is behind again."""
LOOK_S = 0.1
"""Seconds between two looks at a log that is repaired."""

Act = Callable[[Log, Sequence[Action]], None]
"""Function that carries out the actions of a feed."""


class Part(NamedTuple):
    """Entries that were read behind a position; none if only the feed can tell what is there."""

    position: Cursor
    entries: Sequence[LogEntry]


class Missed(NamedTuple):
    """Entries that a member lacks of a log: all of them up to the id ``end``, or all that there are if it is None."""

    log: Log
    entries: Sequence[LogEntry]
    end: int | None


class CatchUp:
    """Feeds slow members again, each with all the logs that it was let out of."""

    def __init__(
        self,
        state: NodeState,
        members: Members,
        log_of: Callable[[Channel], Log | None],
        reading: Callable[[], asyncio.Semaphore],
        act: Act,
    ) -> None:
        self._state, self._members, self._log_of, self._act = state, members, log_of, act
        self._reading = reading  # bounds the reads of the node
        self._going_on: set[Connection] = set()

    def go_on(self, connection: Connection) -> None:
        """Feed a member again, until it is too slow once more.

        A read of everything for each part would read a log of 16 MiB a hundred times.
        """
        if connection in self._going_on or not self._members.behind(connection):
            return
        self._going_on.add(connection)
        going_on = self._go_on(connection)
        if self._state.is_distributed:
            self._state.tasks.spawn(going_on, "read-on")
        else:  # memory answers at once, on any event loop
            first_step(going_on)

    async def _go_on(self, connection: Connection) -> None:
        try:
            await self._wait_for_repairs(connection)
            parts: dict[Channel, Part] = {}
            while logs := self._stopped(connection):
                await self._read_parts(connection, logs, parts)
                if not self._give(connection, parts):
                    return
        finally:
            self._going_on.discard(connection)

    def _stopped(self, connection: Connection) -> list[Log]:
        logs = map(self._log_of, self._members.behind(connection))
        return [log for log in logs if log is not None and log.feed.lagging(connection) is not None]

    async def _wait_for_repairs(self, connection: Connection) -> None:
        """Wait until nothing may be missing in several logs, as long as Redis has to answer."""
        left_s = self._state.config.redis_timeout_s if self._state.is_distributed else 0.0
        while left_s > 0 and not self._state.is_away:
            logs = self._stopped(connection)
            if len(logs) <= 1 or all(log.feed.is_flowing for log in logs):
                return
            await asyncio.sleep(LOOK_S)
            left_s -= LOOK_S

    # Reads

    async def _read_parts(
        self, connection: Connection, logs: Sequence[Log], parts: dict[Channel, Part]
    ) -> None:
        """Read those logs of which the ring and ``parts`` have nothing more."""
        limit = PART_BYTES // len(logs)
        for log in logs:
            position = log.feed.far_behind(connection)
            found = parts.get(log.channel)
            if position is not None and (found is None or found.position is not position):
                parts[log.channel] = Part(position, await self._part(log, position, limit))

    async def _part(self, log: Log, position: Cursor, limit: int) -> Sequence[LogEntry]:
        """Return entries of a log behind a position; none if only the feed can tell what is there."""
        self._state.counters.history_parts += 1
        try:
            async with self._reading():
                found = await self._state.backend.logs.after(log.name, position.id, limit)
        except LOSSES:
            return ()
        last, listening = log.feed.last, log.listening
        if last is None or not log.feed.is_flowing or listening is None or found.run_id != listening.run_id:
            return ()  # it may have other entries than this node has delivered
        outcome = resumed(position.id, position.t_us, found)
        if not isinstance(outcome, Continued) or not outcome.is_known:
            return ()
        return [entry for entry in outcome.entries if entry.id <= last]

    # What members are given. Nothing here waits, so no log moves in the meantime.

    def _give(self, connection: Connection, parts: dict[Channel, Part]) -> bool:
        """Send a member what is known of its logs, merged up to the first gap. Return False if it is too slow.

        Without a gap, its logs feed it again. So does one at once of which only its feed can tell the rest.
        """
        found, alone = self._found(connection, parts)
        for log in alone:
            self._let_in(connection, log)
        ends = [each.end for each in found if each.end is not None]
        end = min(ends, default=None)
        given = [each._replace(entries=_up_to(end, each.entries)) for each in found]
        rows = merge(*(_rows(each) for each in given), key=lambda row: row[1].id)
        if not self._members.part(connection, list(rows)):
            return False
        for each, now in zip(found, given, strict=True):
            _move(connection, each, now.entries, parts)
        if end is None:
            for each in found:
                self._let_in(connection, each.log)
        return True

    def _found(self, connection: Connection, parts: dict[Channel, Part]) -> tuple[list[Missed], list[Log]]:
        """Return what the member lacks of its logs, and the logs of which only their feed can tell."""
        found, alone = list[Missed](), list[Log]()
        for log in self._stopped(connection):
            position, part = log.feed.lagging(connection), parts.get(log.channel)
            if (missed := log.feed.missed(connection)) is not None:
                found.append(Missed(log, missed, None))
            elif position is None or log.feed.far_behind(connection) is None:
                alone.append(log)
            elif part is None or part.position is not position:
                found.append(Missed(log, (), position.id))  # it was stopped just now, and is read next
            elif part.entries:
                found.append(Missed(log, part.entries, part.entries[-1].id))
            else:
                alone.append(log)
        return found, alone

    def _let_in(self, connection: Connection, log: Log) -> None:
        if log.feed.lagging(connection) is None:
            return  # its socket has just failed
        self._members.go_on(connection, log.channel)
        self._act(log, log.feed.drained(connection))


def _up_to(end: int | None, entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    return entries if end is None else entries[: bisect_right(entries, end, key=entry_id)]


def _rows(missed: Missed) -> Iterator[tuple[ForClient, LogEntry]]:
    named = for_client(missed.log.channel)
    return ((named, entry) for entry in missed.entries)


def _move(
    connection: Connection, missed: Missed, given: Sequence[LogEntry], parts: dict[Channel, Part]
) -> None:
    """Note that a member was sent the first entries of what it lacks, and keep the others that were read."""
    if not given or missed.log.feed.lagging(connection) is None:
        return  # in the second case its socket has just failed
    position = Cursor(given[-1].id, given[-1].id)
    missed.log.feed.lag(connection, position)
    rest = missed.entries[len(given) :]
    if missed.end is not None and rest:
        parts[missed.log.channel] = Part(position, rest)
