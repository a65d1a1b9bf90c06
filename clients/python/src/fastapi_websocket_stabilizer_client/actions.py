"""Results of the machine, in the order in which to carry them out.

Sockets have numbers, called generations. The machine ignores events of a socket that it does not use any more.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from . import frames
from .errors import StabilizerClientError
from .messages import Lost, Members, Message, StatusChange


@dataclass(frozen=True, slots=True)
class Authorize:
    """Get credentials and pass them to ``authorized``. ``is_renewal``: pass them to ``renew`` instead."""

    generation: int
    is_renewal: bool = False


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a socket that offers these items, and report ``opened`` or ``closed``."""

    generation: int
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Send a frame. A socket that is closing drops it."""

    generation: int
    frame: str | bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close a socket with 1000, in the background."""

    generation: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Drop a socket or an attempt to open one, without a closing handshake. Nothing is waited for."""

    generation: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give a message or a loss to the application. The position has moved already."""

    event: Message | Lost


@dataclass(frozen=True, slots=True)
class Settle:
    """End a call of the application, with a value or an error."""

    key: Hashable
    value: Any = None
    error: StabilizerClientError | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The server asks. Pass the answer to ``answer``."""

    generation: int
    request: frames.Request


@dataclass(frozen=True, slots=True)
class Unasked:
    """The server does not wait for an answer any more, or the connection ended."""

    generation: int
    number: int


@dataclass(frozen=True, slots=True)
class RoomChanged:
    """The connection joined or left a room. ``error`` tells why it could not join one again."""

    room: str
    is_member: bool
    error: StabilizerClientError | None = None


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """The members of a room that the application watches."""

    room: str
    members: Members


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The state changed."""

    change: StatusChange


Action = (
    Authorize | Dial | Send | Close | Abandon | Deliver | Settle | Asked | Unasked | RoomChanged | PresenceChanged
    | StatusChanged
)  # fmt: skip
