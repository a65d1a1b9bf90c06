"""Values that the application receives."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from .errors import ClosedError

MAILBOX: Final = 0
"""The log of this client."""
EVERYBODY: Final = 1
"""The log of everybody."""

Log = str | int
"""A room name, ``MAILBOX`` or ``EVERYBODY``."""
Data = Any
"""A string of a text message, bytes of a binary one, otherwise the value of its JSON."""


class Status(StrEnum):
    """State of a client."""

    IDLE = "idle"
    CONNECTING = "connecting"
    CATCHING_UP = "catching-up"
    LIVE = "live"
    WAITING = "waiting"
    OFFLINE = "offline"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the server.

    Attributes:
        log: The room to which it was sent, ``MAILBOX`` for this client, or ``EVERYBODY``.
        id: Its place in the history, 0 if it is not stored.
        data: A string, bytes, or the value of its JSON.
    """

    log: Log
    id: int
    data: Data

    @property
    def room(self) -> str | None:
        """The room to which it was sent, or None."""
        return self.log if isinstance(self.log, str) else None


@dataclass(frozen=True, slots=True)
class Lost:
    """A log lost continuity: messages of it are missing, and cannot be replayed.

    It comes before any later message of the log. Load the state from its own source.

    Attributes:
        log: A room, ``MAILBOX`` or ``EVERYBODY``.
        top: Any message up to this id may be missing. The log goes on behind it.
        code: ``trimmed``, ``unknown``, ``reset`` or ``hole``. Others are like ``unknown``.
    """

    log: Log
    top: int
    code: str

    @property
    def room(self) -> str | None:
        """The room that lost continuity, or None."""
        return self.log if isinstance(self.log, str) else None


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A change of the state of the client.

    Attributes:
        old: The former state.
        new: The state from now on.
        cause: What ended the last connection or attempt, for people; "" if nothing did.
        close_code: Its close code, 1006 without a close frame; None if nothing ended it.
        attempt: Number of failed attempts in a row.
        retry_in_s: Seconds until the next attempt, or None.
        error: Why the client has ended, or None. It is None as well if the application has closed it.
    """

    old: Status
    new: Status
    cause: str = ""
    close_code: int | None = None
    attempt: int = 0
    retry_in_s: float | None = None
    error: ClosedError | None = None


Members = Mapping[str, Any]
"""Metadata of the members of a room by client id."""
