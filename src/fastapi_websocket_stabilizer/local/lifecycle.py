"""How a connection can end, what its end means to callers, and the settings that it reads."""

from enum import Enum
from http import HTTPStatus
from typing import Literal, Protocol

from .. import close_codes
from ..exceptions import ConnectionNotFoundError, ConnectionTimeoutError, SlowConsumerError
from ..models import JSON
from ..names import ConnectionId
from .outbox import Policy


class Ended(Enum):
    """Why a connection is no longer registered; decides what its handler's ``disconnect`` answers."""

    RELEASED = "released"
    """By its own handler, or by a call for this client."""
    FAILED = "failed"
    """A send raised."""
    GONE = "gone"
    """The socket was closed, and the application did not read up to its end."""
    REPLACED = "replaced"
    """A newer socket of the client took over."""
    TIMED_OUT = "timed out"
    SLOW = "slow consumer"
    EVICTED = "evicted"
    """Closed to free memory, by a call elsewhere, or because it said too much."""
    SHUTDOWN = "shutdown"


HOPELESS = (Ended.FAILED, Ended.GONE, Ended.SLOW)
"""Ends after which nothing more can be written."""


def denial(why: Ended | None, client_id: str, code: int, reason: str) -> tuple[HTTPStatus, str]:
    """Return the HTTP answer that replaces a close before accept, where there is no close code yet."""
    if why is Ended.REPLACED:
        text = f"a newer connection of client {client_id!r} took over before this one was accepted"
        return HTTPStatus.CONFLICT, text
    is_lasting = code not in close_codes.RECONNECT
    status = HTTPStatus.FORBIDDEN if is_lasting else HTTPStatus.SERVICE_UNAVAILABLE
    return status, f"closed before it was accepted: {reason}"


def check_alive(why: Ended | None, connection_id: ConnectionId) -> None:
    """Raise the error of a connection that has ended, by why it did."""
    match why:
        case None:
            return
        case Ended.TIMED_OUT:
            raise ConnectionTimeoutError(f"connection {connection_id} was closed: no sign of life")
        case Ended.SLOW:
            raise SlowConsumerError(f"connection {connection_id} was closed: its peer does not read")
        case _:
            raise ConnectionNotFoundError(f"connection {connection_id} has ended: {why.value}")


class Limits(Protocol):
    """The part of ``WebSocketConfig`` that a connection reads."""

    heartbeat_interval: float
    heartbeat_timeout: float
    heartbeat_type: Literal["ping", "custom"]
    heartbeat_message: str | JSON | None
    max_message_size: int
    inbound_frames_per_turn: int
    outbox_size: int
    outbox_policy: Policy
    write_timeout_s: float
    close_timeout_s: float
    keep_handshake: bool
