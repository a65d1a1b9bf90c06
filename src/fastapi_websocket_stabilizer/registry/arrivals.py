"""The outcomes of handshakes on this node, counted by a fixed set of results."""

from enum import Enum
from typing import Final
from weakref import WeakSet

from ..exceptions import (
    LOSSES,
    ConnectionLimitExceededError,
    ConnectionNotFoundError,
    DrainingError,
    InvalidNameError,
    MemoryLimitExceededError,
    MessageError,
    ShutdownError,
    WebSocketStabilizerError,
)


class Arrival(Enum):
    """The outcome of a handshake. Its value is the label of metrics, and stays the same in later releases."""

    ACCEPTED = "accepted"
    """The connection was registered."""
    UNAUTHENTICATED = "unauthenticated"
    """The application answered 401."""
    FORBIDDEN = "forbidden"
    """The application answered 403."""
    RATE_LIMITED = "rate_limited"
    """The application answered 429."""
    REFUSED = "refused"
    """The application answered with another status below 500, or with a close code; or the client was displaced."""
    INVALID = "invalid"
    """A name, the metadata, a parameter, or the subprotocol is not valid."""
    NODE_FULL = "node_full"
    """``max_connections`` or ``max_total_memory`` was reached."""
    CLIENT_FULL = "client_full"
    """The client has ``max_connections_per_client``."""
    DRAINING = "draining"
    """The node drains or shuts down."""
    REDIS_AWAY = "redis_away"
    """Redis did not answer, and ``on_backend_loss`` is "refuse"."""
    ERROR = "error"
    """The application raised, or answered with a status of 500 or more."""


BY_ERROR: Final[tuple[tuple[tuple[type[WebSocketStabilizerError], ...], Arrival], ...]] = (
    ((InvalidNameError, MessageError), Arrival.INVALID),
    ((DrainingError, ShutdownError), Arrival.DRAINING),
    ((MemoryLimitExceededError,), Arrival.NODE_FULL),
    (LOSSES, Arrival.REDIS_AWAY),
    ((ConnectionNotFoundError,), Arrival.REFUSED),
)
"""The outcome of each error of this library. Any other is ``ERROR``."""


class Arrivals:
    """The number of handshakes by outcome.

    Attributes:
        counts: One for each ``Arrival``, by its value.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {arrival.value: 0 for arrival in Arrival}
        self._counted = WeakSet[WebSocketStabilizerError]()

    def note(self, arrival: Arrival) -> None:
        """Count a handshake."""
        self.counts[arrival.value] += 1

    def refused(self, error: WebSocketStabilizerError) -> None:
        """Count a handshake that this library has refused, once for each error."""
        if error not in self._counted:
            self._counted.add(error)
            self.note(arrival_of(error))

    def has_counted(self, error: object) -> bool:
        """Whether ``refused`` has counted an error."""
        return isinstance(error, WebSocketStabilizerError) and error in self._counted


def arrival_of(error: WebSocketStabilizerError) -> Arrival:
    """Return the outcome of a handshake that an error of this library has ended."""
    if isinstance(error, ConnectionLimitExceededError):
        return Arrival.CLIENT_FULL if error.scope == "client" else Arrival.NODE_FULL
    return next((arrival for kinds, arrival in BY_ERROR if isinstance(error, kinds)), Arrival.ERROR)
