"""Units of work of the fan-out: messages, their target sockets, and the results."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..runtime.loops import running_loop
from ..runtime.metrics import Counters
from ..wire.messages import Encoded
from .connection import Connection
from .lifecycle import Ended, Limits
from .sends import DROPPED, TAKEN, Confirmation, settled
from .shards import MAIL, Connections, Shard, Shards

log: logging.Logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """Result of one message on this node.

    Attributes:
        total: Target sockets, including excluded ones.
        excluded: Target sockets that the message was not for.
        succeeded: Sockets that accepted the message, or whose outbox did.
        errors: Client and error of each failed send.
        pending: Client and confirmation of each send on a mock socket, or on another event loop.
    """

    total: int = 0
    excluded: int = 0
    succeeded: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    pending: list[tuple[str, Confirmation]] = field(default_factory=list)

    def add(self, connection: Connection, message: Encoded, loop: asyncio.AbstractEventLoop) -> None:
        """Push one message to one socket and count the result."""
        writer = connection.writer
        sent = writer.push(message) if connection.loop is loop else writer.hand_over(message)
        if sent is TAKEN:
            self.succeeded += 1
        elif sent.pending is not None:
            self.pending.append((connection.client_id, sent.pending))
        elif writer.ended is Ended.GONE:
            self.total -= 1  # the peer had gone before this message
        elif sent.error is not None:
            self.errors.append((connection.client_id, sent.error))


@dataclass(slots=True, eq=False)
class Broadcast:
    """One message for all sockets of this node, or for the members of rooms.

    Attributes:
        rooms: Rooms whose members are the targets, each socket once. Empty: all sockets.
        exclude: Excluded clients.
        spared: Excluded connections.
        outside: Rooms whose members are no targets, because an earlier part of the same message is for them.
        done: Called with the outcome after the last socket was written to.
        later: Clients that later messages were sent to. Their plain sockets are excluded.
        copied: Connections that were sent another copy of this message. They are no targets. Those that are written
            to are added.
    """

    message: Encoded
    rooms: tuple[str, ...] = ()
    exclude: frozenset[str] = frozenset()
    done: Callable[[Outcome], None] | None = None
    spared: frozenset[Connection] = frozenset()
    outcome: Outcome = field(default_factory=Outcome)
    outside: tuple[str, ...] = ()
    copied: set[Connection] | None = None
    later: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        return self.message.size

    def has_targets_of(self, other: "Broadcast") -> bool:
        """Whether both are for the same sockets, apart from exclusions."""
        return self.rooms == other.rooms and self.outside == other.outside and self.copied is other.copied

    def exclude_later(self, clients: Iterable[str], *, is_stored: bool) -> None:
        """Exclude clients that later messages were sent to, to keep the order. Clients of logs miss no entry."""
        if is_stored:
            self.later |= frozenset(clients)
        else:
            self.exclude |= frozenset(clients)

    def excludes(self, connection: Connection) -> bool:
        client_id = connection.client_id
        if client_id in self.exclude or connection in self.spared:
            return True
        return client_id in self.later and connection.session is None

    def partly_excluded(self) -> set[str]:
        """Return the clients with at least one excluded connection."""
        return {*self.exclude, *self.later, *(connection.client_id for connection in self.spared)}


@dataclass(slots=True, eq=False)
class DirectMessages:
    """Messages for clients, or for one of their connections.

    Attributes:
        messages: Each message with its target clients.
        connection: The only target, if given. Its id may change before the send.
        done: Called with the outcome after the last socket was written to.
        is_stored: Whether the messages are entries of mailboxes. Connections that wait for theirs are no targets.
        later: Clients that later messages were sent to. Their plain sockets are no targets.
    """

    messages: Sequence[tuple[Encoded, Sequence[str]]]
    connection: Connection | None = None
    done: Callable[[Outcome], None] | None = None
    outcome: Outcome = field(default_factory=Outcome)
    is_stored: bool = False
    later: frozenset[str] = frozenset()

    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum([message.size for message, _ in self.messages])

    def push(self, shards: Shards) -> Iterator[int]:
        """Push message by message to the sockets that are registered at that moment. Yield the size of each."""
        loop = running_loop()
        now_s = loop.time()
        for message, client_ids in self.messages:
            for client_id in client_ids:
                connections = shards.of_client(client_id)
                if self.is_stored:
                    connections = self._fed(shards.of(client_id), connections)
                for connection in connections:
                    if self.connection is None or self.connection is connection:
                        connection.used_at_s = now_s
                        self.outcome.total += 1
                        self.outcome.add(connection, message, loop)
                        if self.is_stored:
                            connection.falls_behind(message)
                        yield message.size

    def exclude_later(self, clients: Iterable[str], *, is_stored: bool) -> None:
        """Exclude plain sockets of clients that later messages were sent to, to keep the order."""
        self.later |= frozenset(clients)

    def _fed(self, shard: Shard, connections: Iterable[Connection]) -> list[Connection]:
        """Return those that do not wait for their mailbox."""
        return [
            each
            for each in connections
            if not shard.holds(each, (MAIL,))
            and (each.session is not None or each.client_id not in self.later)
        ]


def tell(work: Broadcast | DirectMessages) -> None:
    """Pass the outcome to the caller. An error of the caller is logged."""
    if work.done is not None:
        try:
            work.done(work.outcome)
        except Exception:  # an error of one caller must not stop the delivery to others
            log.exception("fan-out: a result could not be delivered to its caller")


def messages_of(work: "Broadcast | DirectMessages | list[Group]") -> list[Encoded]:
    """Return the messages of a batch."""
    if isinstance(work, DirectMessages):
        return [message for message, _ in work.messages]
    if isinstance(work, Broadcast):
        return [work.message]
    return [broadcast.message for group in work for broadcast in group.broadcasts]


def counted(work: "Broadcast | DirectMessages | list[Group]") -> dict[str, int]:
    """Return the numbers of messages, of sends to sockets, and of failed ones in a batch that is finished."""
    if isinstance(work, list):
        parts: list[Broadcast | DirectMessages] = [each for group in work for each in group.broadcasts]
    else:
        parts = [work]
    # Parts of one message share their outcome.
    outcomes = {id(part.outcome): part.outcome for part in parts}.values()
    return {
        "messages": len(work.messages) if isinstance(work, DirectMessages) else len(outcomes),
        "sockets": sum(outcome.total - outcome.excluded for outcome in outcomes),
        "failed": sum(len(outcome.errors) for outcome in outcomes),
    }


class _Frames(dict[int, bytes]):
    """The joined frames of several messages, by the window bits of the target sockets."""

    def __init__(self, broadcasts: list[Broadcast]) -> None:
        self._broadcasts = broadcasts

    def __missing__(self, window_bits: int) -> bytes:
        joined = self[window_bits] = b"".join(
            [broadcast.message.frame(window_bits) for broadcast in self._broadcasts]
        )
        return joined


FramesBySocket: TypeAlias = defaultdict[Connection, list[bytes]]
"""Frames for each socket, written together."""


class Group:
    """Consecutive broadcasts for the same sockets, written together."""

    __slots__ = (
        "_bytes",
        "_excluded",
        "_parts",
        "_reached",
        "broadcasts",
        "dropped",
        "frames",
        "size",
        "stopped",
    )

    def __init__(self, broadcast: Broadcast) -> None:
        self.broadcasts: list[Broadcast] = [broadcast]
        self.size: int = broadcast.message.size
        self.frames: _Frames = _Frames(self.broadcasts)
        self._excluded: set[str] = (
            broadcast.partly_excluded()
        )  # clients with a socket that does not get all of it
        self.stopped: tuple[Connection, ...] = ()  # members of a log that are let out of it within this group
        self.dropped: int = 0  # volatile messages that they miss of this group
        self._reached = 0  # sockets that got all of it
        self._parts = self._bytes = 0  # messages, and their bytes, of native sockets that got a part of it

    def add(self, broadcast: Broadcast) -> None:
        self.broadcasts.append(broadcast)
        self.size += broadcast.message.size
        self._excluded |= broadcast.partly_excluded()

    def targets(self, shard: Shard) -> tuple[Connection, ...]:
        # A copy, because a failed send removes its connection from the tables.
        return tuple(_targets(self.broadcasts[0], shard))

    def is_for(self, connection: Connection) -> bool:
        """Whether a connection is still a target after the event loop has run other work."""
        rooms, outside = self.broadcasts[0].rooms, self.broadcasts[0].outside
        if connection.writer.ended is not None or (rooms and connection.rooms.isdisjoint(rooms)):
            return False
        return not outside or connection.rooms.isdisjoint(outside)

    def missed(self, shard: Shard) -> int:
        """Return how many volatile messages are not sent to members of logs that are behind, over all of these."""
        volatile = sum(not broadcast.message.address.id for broadcast in self.broadcasts)
        return volatile and volatile * shard.behind(self.broadcasts[0].rooms)

    def write(self, targets: Iterable[Connection], outgoing: "FramesBySocket | None" = None) -> None:
        """Write to each target: one write on the fast path, otherwise message by message.

        With ``outgoing``, frames for native sockets are only collected there.
        """
        if (copied := self.broadcasts[0].copied) is not None:
            targets = [each for each in targets if each not in copied and not self._is_put_off(each)]
            copied.update(targets)
        loop = running_loop()
        now_s, excluded, frames, reached = loop.time(), self._excluded, self.frames, 0
        for connection in targets:
            writer = connection.writer
            native = writer.fast_path
            if native is None or connection.loop is not loop:
                self._push(connection, loop, now_s)
                continue
            if connection.client_id in excluded:
                self._write_part(connection, outgoing, now_s)
                continue
            connection.used_at_s = now_s
            try:
                data = frames[writer.window_bits]
                if outgoing is None:
                    native.write_now(data)
                else:
                    outgoing[connection].append(data)
            except Exception as error:  # noqa: BLE001 - its socket, or its frame that cannot be made, has failed
                self._failed(connection, self.broadcasts, error)
            else:
                reached += 1
        self._reached += reached

    @staticmethod
    def _failed(connection: Connection, broadcasts: Iterable[Broadcast], error: Exception) -> None:
        """End a connection whose write failed. If its peer had already gone, it does not count as a target."""
        error_text = connection.writer.failed(error).error or ""
        if connection.ended is not Ended.GONE:
            for broadcast in broadcasts:
                broadcast.outcome.total += 1
                broadcast.outcome.errors.append((connection.client_id, error_text))

    def _push(self, connection: Connection, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        for broadcast in self.broadcasts:
            broadcast.outcome.total += 1
            if broadcast.excludes(connection):
                broadcast.outcome.excluded += 1
            else:
                connection.used_at_s = now_s
                broadcast.outcome.add(connection, broadcast.message, loop)
                if connection.falls_behind(broadcast.message):
                    self.stopped += (connection,)
                    rest = self.broadcasts[self.broadcasts.index(broadcast) + 1 :]
                    self.dropped += _volatile_for(connection, rest)
                    return

    def _is_put_off(self, connection: Connection) -> bool:
        is_put_off = _puts_off(connection, self.broadcasts[0].message)
        if is_put_off:
            self.stopped += (connection,)
        return is_put_off

    def _write_part(self, connection: Connection, outgoing: "FramesBySocket | None", now_s: float) -> None:
        broadcasts = []
        for broadcast in self.broadcasts:
            if broadcast.excludes(connection):
                broadcast.outcome.total += 1
                broadcast.outcome.excluded += 1
            else:
                broadcasts.append(broadcast)
        native = connection.writer.fast_path
        if not broadcasts or native is None:
            return
        connection.used_at_s = now_s
        try:
            window_bits = connection.writer.window_bits
            data = b"".join([broadcast.message.frame(window_bits) for broadcast in broadcasts])
            if outgoing is None:
                native.write_now(data)
            else:
                outgoing[connection].append(data)
        except Exception as error:  # noqa: BLE001 - as in write()
            self._failed(connection, broadcasts, error)
            return
        self._parts += len(broadcasts)
        for broadcast in broadcasts:
            broadcast.outcome.total += 1
            broadcast.outcome.succeeded += 1
            self._bytes += broadcast.message.size

    def finish(self, counters: Counters) -> None:
        """Pass the outcomes to the callers, and count the messages that were written to native sockets."""
        for broadcast in self.broadcasts:
            broadcast.outcome.total += self._reached
            broadcast.outcome.succeeded += self._reached
            tell(broadcast)
        messages = self._reached * len(self.broadcasts) + self._parts
        counters.sent(messages, self._reached * self.size + self._bytes)


def _puts_off(connection: Connection, copy: Encoded) -> bool:
    """Whether a copy of a message to several rooms stays in its log, because those before it do in another one.

    Otherwise the copy in the other log would come so late that the client has forgotten this one.
    """
    return (
        connection.session is not None
        and copy.address.previous > 0
        and connection.loop is running_loop()
        and connection.session.following.is_behind
        and connection.session.following.stop(copy.address.log, copy.address.previous)
    )


def missed_since(groups: Iterable[Group]) -> int:
    """Return how many volatile messages of a batch are not sent to members that it has let out of their logs."""
    missed, stopped = 0, defaultdict[tuple[str, ...], list[Connection]](list)
    for group in groups:
        rooms = group.broadcasts[0].rooms
        missed += group.dropped
        missed += sum(_volatile_for(each, group.broadcasts) for each in stopped.get(rooms, ()))
        stopped[rooms] += group.stopped
    return missed


def _volatile_for(connection: Connection, broadcasts: Iterable[Broadcast]) -> int:
    return sum(not each.message.address.id and not each.excludes(connection) for each in broadcasts)


def _targets(broadcast: Broadcast, shard: Shard) -> Iterable[Connection]:
    if not broadcast.rooms:
        return shard.everybody()
    if len(broadcast.rooms) == 1:
        members = shard.rooms.get(broadcast.rooms[0], {}).values()
        if broadcast.outside:
            return [member for member in members if member.rooms.isdisjoint(broadcast.outside)]
        return members
    union: Connections = {}
    for room in broadcast.rooms:
        union.update(shard.rooms.get(room, {}))
    return union.values()


def took(shards: Shards, client_id: str, outcome: Outcome) -> bool:
    """Whether a socket of the client accepted the message. A socket that failed is no longer registered."""
    dropped = sum(c == client_id and error == DROPPED for c, error in outcome.errors)
    return len(shards.of_client(client_id)) > dropped


async def settle(outcome: Outcome, limits: Limits) -> None:
    """Wait for pending sends and count their results."""
    if not outcome.pending:
        return
    pending, outcome.pending = outcome.pending, []
    outcomes = await asyncio.gather(*(settled(confirmation, limits) for _, confirmation in pending))
    for (client_id, _), error in zip(pending, outcomes, strict=True):
        if error is None:
            outcome.succeeded += 1
        else:
            outcome.errors.append((client_id, error))


async def written(connection: Connection, timeout_s: float) -> str | None:
    """Wait until everything queued for a socket was written. Return the error if it was not in time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await connection.writer.drained()
    except TimeoutError:
        return f"not written within {timeout_s:g} s"
