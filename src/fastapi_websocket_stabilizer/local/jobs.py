"""What the fan-out worker is given, and what it makes of it: messages and the sockets that they go to."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..runtime.loops import running_loop
from ..wire.messages import Encoded
from .backlog import DROPPED, Outcome, settled
from .connection import Connection
from .owner import Ended, Limits
from .shards import Connections, Shard, Shards

log: logging.Logger = logging.getLogger(__name__)


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
        elif connection.ended is Ended.GONE:
            self.total -= 1  # it had left before this message
        elif sent.error is not None:
            self.errors.append((connection.client_id, sent.error))
        else:
            self.succeeded += 1


@dataclass(slots=True, eq=False)
class Job:
    """One message for all of this node's sockets, or for those in rooms.

    Attributes:
        rooms: Only members of these rooms, each socket once; empty means everybody.
        exclude: Clients that it does not go to.
        spared: Connections that it does not go to.
        done: Called with the tally when the last socket was written to.
    """

    message: Encoded
    rooms: tuple[str, ...] = ()
    exclude: frozenset[str] = frozenset()
    done: Callable[[Tally], None] | None = None
    spared: frozenset[Connection] = frozenset()
    tally: Tally = field(default_factory=Tally)

    @property
    def size(self) -> int:
        return self.message.size

    def excludes(self, connection: Connection) -> bool:
        return connection.client_id in self.exclude or connection in self.spared

    def partly_excluded(self) -> set[str]:
        """Return the clients with a connection that the message does not go to."""
        return {*self.exclude, *(connection.client_id for connection in self.spared)}


@dataclass(slots=True, eq=False)
class Mail:
    """Messages for clients, or for one of their connections.

    Attributes:
        letters: Each message with the clients that it goes to.
        connection: Only this connection, whatever its id is by then.
        done: Called with the tally when the last socket was written to.
    """

    letters: Sequence[tuple[Encoded, Sequence[str]]]
    connection: Connection | None = None
    done: Callable[[Tally], None] | None = None
    tally: Tally = field(default_factory=Tally)

    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum([message.size for message, _ in self.letters])

    def push(self, shards: Shards) -> Iterator[int]:
        """Push message by message to the sockets that are registered at this moment; yield the size of each."""
        loop = running_loop()
        now_s = loop.time()
        for message, client_ids in self.letters:
            for client_id in client_ids:
                for connection in shards.of_client(client_id):
                    if self.connection is None or self.connection is connection:
                        connection.used_at_s = now_s
                        self.tally.total += 1
                        self.tally.add(connection, message, loop)
                        yield message.size


def tell(job: Job | Mail) -> None:
    """Tell whoever waits what became of it."""
    if job.done is not None:
        try:
            job.done(job.tally)
        except Exception:  # one caller's trouble is not the others'
            log.exception("fan-out: nobody could be told")


class _Frames(dict[int, bytes]):
    """The frames of several messages in one piece, by the window bits of the sockets that they go to."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs

    def __missing__(self, window_bits: int) -> bytes:
        joined = self[window_bits] = b"".join([job.message.frame(window_bits) for job in self._jobs])
        return joined


Outgoing: TypeAlias = defaultdict[Connection, list[bytes]]
"""Frames that are written to each socket together."""


class Run:
    """Consecutive jobs for the same sockets, joined."""

    __slots__ = ("_excluded", "_reached", "_written", "frames", "jobs", "size")

    def __init__(self, job: Job) -> None:
        self.jobs: list[Job] = [job]
        self.size: int = job.message.size
        self.frames: _Frames = _Frames(self.jobs)
        self._excluded: set[str] = job.partly_excluded()  # clients with a socket that does not get all of it
        self._reached = 0  # sockets that got all of it
        self._written = 0  # messages, on all lines

    def add(self, job: Job) -> None:
        self.jobs.append(job)
        self.size += job.message.size
        self._excluded |= job.partly_excluded()

    def targets(self, shard: Shard) -> tuple[Connection, ...]:
        # A copy: a send that fails takes its connection out of the tables.
        return tuple(_targets(self.jobs[0], shard))

    def is_for(self, connection: Connection) -> bool:
        """Whether a target is still one, after the event loop was given back."""
        rooms = self.jobs[0].rooms
        return connection.ended is None and (not rooms or not connection.rooms.isdisjoint(rooms))

    def write(self, targets: Iterable[Connection], outgoing: "Outgoing | None" = None) -> None:
        """Write to each target: all at once where it has an open line, else message by message.

        With ``outgoing`` the frames for lines are only collected there.
        """
        loop = running_loop()
        now_s, excluded, frames, reached = loop.time(), self._excluded, self.frames, 0
        for connection in targets:
            line = connection.open_line
            if line is None or connection.loop is not loop:
                self._push(connection, loop, now_s)
                continue
            if connection.client_id in excluded:
                self._write_part(connection, outgoing, now_s)
                continue
            connection.used_at_s = now_s
            try:
                data = frames[connection.window_bits]
                if outgoing is None:
                    line.write_now(data)
                else:
                    outgoing[connection].append(data)
            except Exception as error:  # noqa: BLE001 - its socket, or its frame that cannot be made, has failed
                self._failed(connection, self.jobs, error)
            else:
                reached += 1
        self._reached += reached
        self._written += reached * len(self.jobs)

    @staticmethod
    def _failed(connection: Connection, jobs: Iterable[Job], error: Exception) -> None:
        """End a connection that did not take messages; one that had left before them was no target."""
        connection.failed(error)
        if connection.ended is not Ended.GONE:
            for job in jobs:
                job.tally.total += 1
                job.tally.errors.append((connection.client_id, connection.error))

    def _push(self, connection: Connection, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        for job in self.jobs:
            job.tally.total += 1
            if job.excludes(connection):
                job.tally.excluded += 1
            else:
                connection.used_at_s = now_s
                job.tally.add(connection, job.message, loop)

    def _write_part(self, connection: Connection, outgoing: "Outgoing | None", now_s: float) -> None:
        jobs = []
        for job in self.jobs:
            if job.excludes(connection):
                job.tally.total += 1
                job.tally.excluded += 1
            else:
                jobs.append(job)
        if not jobs or connection.open_line is None:
            return
        connection.used_at_s = now_s
        try:
            data = b"".join([job.message.frame(connection.window_bits) for job in jobs])
            if outgoing is None:
                connection.open_line.write_now(data)
            else:
                outgoing[connection].append(data)
        except Exception as error:  # noqa: BLE001 - as in write()
            self._failed(connection, jobs, error)
            return
        self._written += len(jobs)
        for job in jobs:
            job.tally.total += 1
            job.tally.succeeded += 1

    def finish(self) -> int:
        """Tell whoever waits; return how many messages went to lines."""
        for job in self.jobs:
            job.tally.total += self._reached
            job.tally.succeeded += self._reached
            tell(job)
        return self._written


def _targets(job: Job, shard: Shard) -> Iterable[Connection]:
    if not job.rooms:
        return shard.connections.values()
    if len(job.rooms) == 1:
        return shard.rooms.get(job.rooms[0], {}).values()
    union: Connections = {}
    for room in job.rooms:
        union.update(shard.rooms.get(room, {}))
    return union.values()


def took(shards: Shards, client_id: str, tally: Tally) -> bool:
    """Whether a socket of the client took the message: one that failed is not registered any more."""
    dropped = sum(c == client_id and error == DROPPED for c, error in tally.errors)
    return len(shards.of_client(client_id)) > dropped


async def settle(tally: Tally, limits: Limits) -> None:
    """Wait for what is pending, and count it."""
    if not tally.pending:
        return
    pending, tally.pending = tally.pending, []
    outcomes = await asyncio.gather(*(settled(outcome, limits) for _, outcome in pending))
    for (client_id, _), error in zip(pending, outcomes, strict=True):
        if error is None:
            tally.succeeded += 1
        else:
            tally.errors.append((client_id, error))


async def written(connection: Connection, timeout_s: float) -> str | None:
    """Wait until everything queued for a socket was written; return the error if it was not."""
    try:
        async with asyncio.timeout(timeout_s):
            return await connection.drained()
    except TimeoutError:
        return f"not written within {timeout_s:g} s"
