"""One log with members on this node, its names, and the form of its entries for delivery."""

from collections.abc import Hashable
from dataclasses import replace

from ..backends.log_ports import LogBounds, LogEntry, LogKind, LogName
from ..backends.ports import Listening
from ..wire.channels import ALL, Channel
from ..wire.envelopes import Envelope
from .feed import Feed


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
