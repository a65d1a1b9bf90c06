"""One log with members on this node, its names, and the form of its entries for delivery."""

from collections.abc import Hashable
from dataclasses import replace

from ..backends.log_ports import LogBounds, LogEntry, LogKind, LogName, LogStore
from ..backends.ports import Listening
from ..exceptions import LOSSES
from ..wire.channels import ALL, Channel
from ..wire.envelopes import Envelope
from .feed import Cursor, Feed


def name_of(room: str) -> LogName:
    """Return the log of a room, or with "" that of everybody."""
    return LogName(LogKind.ROOM, room) if room else LogName(LogKind.ALL)


def channel_of(room: str) -> Channel:
    """Return the channel of a room, or with "" that of everybody."""
    return Channel("room", room) if room else ALL


def to_deliver(message: Envelope | LogEntry) -> Envelope:
    """Return the envelope to deliver, with its place in the log if it is stored."""
    if isinstance(message, Envelope):
        return message
    if message.envelope.entry is not None:
        return message.envelope
    return replace(message.envelope, entry=(message.id, 0))


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
        self.name: LogName = name_of(channel.room)
        self.bounds: LogBounds = bounds
        self.feed: Feed[Hashable] = Feed(is_lasting=is_lasting)
        self.listening: Listening | None = None
        self.active_at_s: float = 0.0
        self.bytes: int = 0  # of the feed, as counted for all logs
        self.dropped: int = 0
        self.is_paused: bool = False  # a read has no answer, and is repeated later


async def before_last(log: Log, store: LogStore, count: int) -> Cursor | None:
    """Return the position before the newest ``count`` entries; None if it cannot be known now."""
    known = log.feed.before_last(count)
    if known is not None:
        return Cursor(known)
    try:
        read = await store.read(log.name, count + 1)
    except LOSSES:
        return None
    if read.is_whole and len(read.entries) <= count:
        meta = read.meta
        return Cursor(0 if meta is None else max(meta.base, meta.hole, meta.reset), read.at_us)
    return Cursor(read.entries[0].id) if read.entries else None
