"""The phases of a connection, and the objects that its writer reports to."""

import asyncio
from enum import Enum
from typing import Protocol

from ..names import ConnectionId
from ..runtime.metrics import Counters
from .lifecycle import Ended, Limits
from .sends import SendLimiter


class Phase(Enum):
    """State of a connection. It decides how the next message is treated."""

    CONNECTING = "connecting"
    """The socket is not accepted: messages wait in the outbox."""
    DIRECT = "direct"
    """Nothing waits: the message is written at once."""
    QUEUED = "queued"
    """A task writes, or waits for the limiter: messages wait in the outbox."""
    ENDED_EARLY = "ended before accept"
    """Messages are refused. The accept will be answered with an HTTP error, unless it comes before that."""
    ENDED = "ended"
    """Messages are refused. Queued messages are still written, unless the end is hopeless."""
    CLOSING = "closing"
    """The close has begun and has a deadline."""
    CLOSED = "closed"
    """The close is over. Messages that were not written are dropped."""
    RELEASED = "released"
    """The socket was given back open."""


# Members of an enum cost 100 ns each time that they are read from the class (Python 3.11).
CONNECTING, DIRECT, QUEUED, ENDED_EARLY, ENDED, CLOSING, CLOSED, RELEASED = Phase


class Sink(Protocol):
    """The connection of a writer, as the writer needs it."""

    client_id: str
    connection_id: ConnectionId
    loop: asyncio.AbstractEventLoop

    def lost(self, why: Ended, error: str) -> None:
        """End the connection: nothing more can be written."""
        ...

    def gone(self, error: str) -> None:
        """End the connection: the peer is gone. Its last messages may still wait for the application."""
        ...

    def emptied(self) -> None:
        """Note that a socket of ``stabilizer.v1`` accepts messages at once again: none is queued any more."""
        ...


class WriterOwner(Protocol):
    """The node of a writer: settings, the bound on suspended sends, counters."""

    counters: Counters
    limiter: SendLimiter

    def limits(self) -> Limits:
        """The settings in force now."""
        ...
