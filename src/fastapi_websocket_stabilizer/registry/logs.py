"""One log with members on this node, its names, and the form of its entries for delivery."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from ..backends.log_ports import (
    Heard,
    LogBounds,
    LogEntry,
    LogKind,
    LogName,
    LogRead,
    Verdict,
)
from ..backends.ports import Listening
from ..exceptions import BackendUnavailableError
from ..local.shards import MAIL
from ..runtime.metrics import Counters
from ..runtime.tasks import Tasks
from ..wire.channels import ALL, Channel, box_of
from ..wire.client_frames import EVERYBODY, MAILBOX
from ..wire.envelopes import Envelope
from .feed import Action, Deliver, Feed, Joined, Lost
from .state import NodeState

PLAIN: Final = "plain"
"""The member that stands for all sockets without a cursor. It keeps a feed from being COLD."""
LOST: Final = {
    "trimmed": "history_lost_trimmed",
    "unknown": "history_lost_unknown",
    "reset": "history_lost_reset",
    "hole": "history_lost_hole",
}
"""The counter of each reason of a loss."""

LOGS_PER_TURN = 500
"""Logs that a beat looks at in one turn of the event loop. With mailboxes there is one for each client."""

ForClient = str | Literal[0, 1]
"""A log as frames name it: a room, ``MAILBOX`` or ``EVERYBODY``."""


def name_of(channel: Channel) -> LogName:
    """Return the log whose entries are published to a channel."""
    if channel.client:
        return LogName(LogKind.BOX, channel.client)
    return LogName(LogKind.ROOM, channel.room) if channel.room else LogName(LogKind.ALL)


def channel_of(log: LogName) -> Channel:
    """Return the channel of a log."""
    match log.kind:
        case LogKind.ALL:
            return ALL
        case LogKind.ROOM:
            return Channel("room", log.name)
    return box_of(log.name)


def channel_to(client_id: str, log: ForClient) -> Channel:
    """Return the channel of a log that frames to a client name."""
    if isinstance(log, str):
        return Channel("room", log)
    return box_of(client_id) if log == MAILBOX else ALL


def targets_of(channel: Channel) -> tuple[str, ...]:
    """Return the targets of a broadcast to a channel."""
    name = channel.room or channel.client
    return (name,) if name else ()


def for_client(channel: Channel) -> ForClient:
    """Return a log as frames name it."""
    return MAILBOX if channel.client else channel.room or EVERYBODY


def held_in(channel: Channel) -> str:
    """Return a log as the tables of sockets name it; see ``Shards.hold``."""
    return MAIL if channel.client else channel.room


def to_deliver(message: Envelope | LogEntry) -> Envelope:
    """Return the envelope to deliver, with its place in the log if it is stored."""
    if isinstance(message, Envelope):
        return message
    if message.envelope.entry is not None:
        return message.envelope
    return replace(message.envelope, entry=(message.id, 0))


class Held(NamedTuple):
    """The content of all logs on a node.

    Attributes:
        logs: Logs with members on this node.
        bytes: Bytes of recent and of waiting messages.
        waiting_bytes: Bytes of messages that wait for a read.
        waiting: Members that wait for the answer of a log, each once for each log.
    """

    logs: int
    bytes: int
    waiting_bytes: int
    waiting: int


class Log:
    """One log with members on this node."""

    __slots__ = (
        "active_at_s",
        "bounds",
        "bytes",
        "channel",
        "dropped",
        "feed",
        "is_paused",
        "listening",
        "name",
    )

    def __init__(self, channel: Channel, bounds: LogBounds, *, is_lasting: bool) -> None:
        self.channel: Channel = channel
        self.name: LogName = name_of(channel)
        self.bounds: LogBounds = bounds
        self.feed: Feed[Hashable] = Feed(is_lasting=is_lasting)
        self.listening: Listening | None = None
        self.active_at_s: float = 0.0
        self.bytes: int = 0  # of the feed, as counted for all logs
        self.dropped: int = 0
        self.is_paused: bool = False  # a read has no answer, and is repeated later

    @property
    def is_held(self) -> bool:
        """Whether members may lack something. A mailbox that waits for its first connection has none."""
        feed = self.feed
        return not feed.is_flowing and not (feed.last is None and feed.is_idle)


def begin_in_turns(logs: Sequence[Log], act: Callable[[Log], None], tasks: Tasks) -> None:
    """Act on ``LOGS_PER_TURN`` logs now, and on the others in later turns of the event loop."""
    for log in logs[:LOGS_PER_TURN]:
        act(log)
    if len(logs) > LOGS_PER_TURN:
        tasks.spawn(_in_turns(logs, act), "look-at-logs")


async def _in_turns(logs: Sequence[Log], act: Callable[[Log], None]) -> None:
    for number in range(LOGS_PER_TURN, len(logs)):
        if number % LOGS_PER_TURN == 0:
            await asyncio.sleep(0)
        act(logs[number])


async def read_compared(state: NodeState, log: Log, heard: Heard, last: int | None) -> LogRead:
    """Read a log after a failover: first compare it with what this node has received, and mend it or mark the loss.

    Raises:
        BackendUnavailableError: Redis did not answer, or another server did.
    """
    logs = state.backend.logs
    run_id = logs.run_id_of(log.name)
    notice = state.outgoing.lost(targets_of(log.channel), "hole")
    tail = tuple(replace(each, envelope=replace(each.envelope, entry=None)) for each in heard.tail)
    verdict = await logs.verify(log.name, replace(heard, tail=tail), log.bounds, notice)
    state.counters.history_holes += verdict is Verdict.LOST
    state.counters.history_restored += verdict is Verdict.RESTORED
    found = await logs.read(log.name, last)
    if found.run_id != run_id:
        raise BackendUnavailableError("Redis changed its server while a log was compared")
    return found


# Counters


def count_lost(counters: Counters, code: str) -> None:
    """Count members that lost continuity."""
    name = LOST.get(code, "history_lost_unknown")
    setattr(counters, name, getattr(counters, name) + 1)


def count_return(counters: Counters, actions: Sequence[Action]) -> None:
    """Count a client that returned to a log, by whether the memory of this node has answered it."""
    is_hit = any(isinstance(action, Joined) for action in actions)
    counters.history_ring_hits += is_hit
    counters.history_ring_misses += not is_hit


def count_answers(counters: Counters, actions: Sequence[Action], *, is_repair: bool) -> None:
    """Count what a read has brought to members. A repair brings entries and no loss."""
    answered = [each for each in actions if isinstance(each, Joined) and each.member is not PLAIN]
    counters.history_reads_shared += max(0, len(answered) - 1)
    if is_repair and not any(isinstance(each, Lost) for each in actions):
        counters.history_repairs += any(isinstance(each, Deliver) for each in actions)
