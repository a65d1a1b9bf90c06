"""Reasons for the end of a connection, the errors and HTTP answers for them, and the settings it reads."""

from enum import Enum
from http import HTTPStatus
from typing import Literal, Protocol

from .. import close_codes
from ..exceptions import ConnectionNotFoundError, ConnectionTimeoutError, SlowConsumerError
from ..models import JSON, CloseCause
from ..names import ConnectionId
from .outbox import Policy


class Ended(Enum):
    """Reason why a connection is no longer registered. It decides how ``disconnect`` in its handler ends."""

    RELEASED = "released"
    """Closed by its own handler, or by a call for its client."""
    FAILED = "failed"
    """A send raised."""
    GONE = "gone"
    """The socket was closed before the application had read everything."""
    REPLACED = "replaced"
    """A newer socket of the client displaced it."""
    TIMED_OUT = "timed out"
    SLOW = "slow consumer"
    EVICTED = "evicted"
    """Closed by the memory limit, by ``disconnect`` on another node, or for exceeding ``max_message_size``."""
    SHUTDOWN = "shutdown"


ENDED = {
    CloseCause.PEER_CLOSED: Ended.GONE,
    CloseCause.PEER_GONE: Ended.GONE,
    CloseCause.RELEASED: Ended.RELEASED,
    CloseCause.HANDLER_ERROR: Ended.RELEASED,
    CloseCause.REPLACED: Ended.REPLACED,
    CloseCause.KICKED: Ended.EVICTED,
    CloseCause.OVER_LIMIT: Ended.EVICTED,
    CloseCause.EVICTED: Ended.EVICTED,
    CloseCause.EXPIRED: Ended.EVICTED,
    CloseCause.TOO_LARGE: Ended.EVICTED,
    CloseCause.PROTOCOL_ERROR: Ended.EVICTED,
    CloseCause.TIMED_OUT: Ended.TIMED_OUT,
    CloseCause.SLOW: Ended.SLOW,
    CloseCause.WRITE_FAILED: Ended.FAILED,
    CloseCause.DRAINED: Ended.SHUTDOWN,
    CloseCause.SHUTDOWN: Ended.SHUTDOWN,
}
"""How an end is treated, by its cause."""
OF_WRITES = {Ended.SLOW: CloseCause.SLOW, Ended.FAILED: CloseCause.WRITE_FAILED}
"""Causes of the ends that a write finds out."""

HOPELESS = (Ended.FAILED, Ended.GONE, Ended.SLOW)
"""Reasons after which nothing more can be written."""


def denial(why: Ended | None, client_id: str, code: int, reason: str) -> tuple[HTTPStatus, str]:
    """Return the HTTP status and text that replace a close before the accept, where no close code exists yet."""
    if why is Ended.REPLACED:
        text = f"a newer connection of client {client_id!r} took over before this one was accepted"
        return HTTPStatus.CONFLICT, text
    is_lasting = code not in close_codes.RECONNECT
    status = HTTPStatus.FORBIDDEN if is_lasting else HTTPStatus.SERVICE_UNAVAILABLE
    return status, f"closed before it was accepted: {reason}"


def check_alive(why: Ended | None, connection_id: ConnectionId) -> None:
    """Raise the error of a connection that has ended; nothing for None."""
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
    """Settings of ``WebSocketConfig`` that a connection reads."""

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


def patience_s(limits: Limits, *, is_little: bool) -> float:
    """Return the seconds that a native socket may take nothing.

    If little can wait for it, as for a client of ``stabilizer.v1``, it is what the heartbeat allows a silent peer.
    """
    if not is_little:
        return limits.write_timeout_s
    return max(limits.write_timeout_s, limits.heartbeat_interval + limits.heartbeat_timeout)
