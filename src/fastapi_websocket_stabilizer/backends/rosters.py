"""The interface for rooms whose members clients may watch. ``tests/contract`` tests every implementation."""

from dataclasses import dataclass
from typing import Protocol

from ..names import ConnectionId
from ..wire.envelopes import Envelope


@dataclass(frozen=True, slots=True)
class Shown:
    """A connection that stands for its client in a room. ``stay`` and ``visit`` are those of ``ports.IndexEntry``."""

    room: str
    client_id: str
    connection_id: ConnectionId
    stay: int
    visit: str = ""


@dataclass(frozen=True, slots=True)
class RosterRead:
    """The members of a room.

    Attributes:
        version: Number of the last change; 0 if the room has no member.
        members: The metadata of each client, as JSON.
    """

    version: int
    members: dict[str, bytes]


class RosterStore(Protocol):
    """The members of each room, as clients see them: one for each client, with the metadata that was given last.

    Each change has a version, one more than the one before. It is published to the room with ``Envelope.entry``: the
    version, and the one before. All operations may be repeated.
    """

    async def enter(self, shown: Shown, metadata: bytes, notice: Envelope, *, replaces: str = "") -> int:
        """Show a client, or its newer metadata (a JSON object). Return the version; 0 if nothing changed.

        ``replaces`` is an earlier connection_id of the same socket. The index has the line of the membership before
        that, also if Redis has lost it since the join. So a sweep finds every client that is shown.
        """
        ...

    async def leave(self, shown: Shown, notice: Envelope) -> int:
        """End the stay of a connection; return the version, 0 if its client is still there, or was not."""
        ...

    async def read(self, room: str) -> RosterRead:
        """Return the members and their version, of one moment. Read-only."""
        ...
