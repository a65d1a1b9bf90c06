"""The interface for what was taken from clients. ``tests/contract`` tests every implementation."""

import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..names import check_room

CLOSE = "\0"
"""Begin of a name that is no room's, because no room has this character."""
REVOCATIONS_PER_CLIENT = 1000
"""Revocations of one client. With one more the oldest is removed."""


class Revocation(NamedTuple):
    """A room that a client was removed from, or a close of its connections.

    Attributes:
        room: The room; "" for a close.
        connection_id: The only connection that is closed; "" for all.
        code: Close code.
        reason: Close reason.
    """

    room: str = ""
    connection_id: str = ""
    code: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """The name in the store."""
        return self.room or CLOSE + json.dumps([self.connection_id, self.code, self.reason])

    @classmethod
    def read(cls, name: str) -> "Revocation":
        """Return the revocation with a name.

        Raises:
            ValueError: It is the name of none.
        """
        if not name.startswith(CLOSE):
            return cls(check_room(name))
        match json.loads(name[len(CLOSE) :]):
            case [str(connection_id), int(code), str(reason)]:
                return cls("", connection_id, code, reason)
        raise ValueError("not a revocation")


class Revoked(NamedTuple):
    """The revocations of a client.

    Attributes:
        now_us: The time of the store's clock.
        ages: The revocations, and the seconds since each.
    """

    now_us: int
    ages: Sequence[tuple[Revocation, float]]


class RevocationStore(Protocol):
    """Revocations, kept for nodes that were cut off. All operations may be repeated."""

    async def note(self, client_id: str, revocation: Revocation, ttl_ms: int) -> None:
        """Keep a revocation for ``ttl_ms``. The same one is kept with its last time."""
        ...

    async def read(self, client_id: str) -> Revoked:
        """Return the revocations of a client. Read-only."""
        ...
