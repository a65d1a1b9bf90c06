"""Every error this library raises, one class per reaction.

WebSocketStabilizerError
├── ConnectionNotFoundError       nobody by that id: stop addressing it
│   └── InvalidNameError          a client id or room name that no client can have (also ValueError)
├── InvalidCursorError            a page that does not exist: begin without a cursor (also ValueError)
├── ConnectionLimitExceededError  full: refuse the newcomer
├── ConnectionTimeoutError        the peer stopped answering: it was closed
├── SlowConsumerError             the peer stopped reading: it was closed
├── MemoryLimitExceededError      store less
├── MessageError                  this message cannot be sent: change it (also ValueError)
├── BroadcastFailedError          every targeted socket failed
├── TokenExpiredError             ask the client to sign in again
├── InvalidTokenError             the same, and look who sends it
├── ShutdownError                 this node is going away: use another
│   └── DrainingError             the same, while it sends its clients elsewhere
├── NotStartedError               call start() first (also RuntimeError)
├── WrongEventLoopError           call from the loop that start() ran on (also RuntimeError)
├── ConfigurationError            fix the settings (also ValueError)
├── BackendUnavailableError       Redis did not answer: retry with back-off
└── WireError                     bytes from another node that we cannot read: drop them

Values are attributes, so that no caller has to search a text. Each error can be made of a message alone, as in
release 1.1, and is copied and pickled with its values.
"""

from typing import Literal


class WebSocketStabilizerError(Exception):
    """Root of every error of this library."""


class ConnectionNotFoundError(WebSocketStabilizerError):
    """No such client is connected, or the client id cannot belong to one."""


class InvalidNameError(ConnectionNotFoundError, ValueError):
    """A client id or room name is empty, too long, not a string or has control characters."""


class InvalidCursorError(WebSocketStabilizerError, ValueError):
    """``room_members`` was given a cursor that no page has."""


class ConnectionLimitExceededError(WebSocketStabilizerError):
    """The node or the client has as many connections as the settings allow, or the connection as many rooms.

    Attributes:
        scope: Which limit is reached: "node" (``max_connections``), "client" (``max_connections_per_client``) or
            "rooms" (``max_rooms_per_connection``); None if the application raised the error without one.
        limit: The value of that setting.
        current: How many connections or rooms there are.
    """

    def __init__(
        self,
        *args: object,
        scope: Literal["node", "client", "rooms"] | None = None,
        limit: int | None = None,
        current: int | None = None,
    ) -> None:
        super().__init__(*args)
        self.scope = scope
        self.limit = limit
        self.current = current


class ConnectionTimeoutError(WebSocketStabilizerError):
    """The heartbeat closed this connection: nothing was heard within ``heartbeat_timeout``."""


class SlowConsumerError(WebSocketStabilizerError):
    """The connection was closed because its peer does not read what it is sent."""


class MemoryLimitExceededError(WebSocketStabilizerError):
    """Storing this would exceed ``max_memory_per_connection`` or ``max_total_memory``."""


class MessageError(WebSocketStabilizerError, ValueError):
    """The message cannot be encoded or is longer than ``max_message_size``; nothing was sent."""


class BroadcastFailedError(WebSocketStabilizerError):
    """A broadcast reached none of the sockets it was meant for."""


class TokenExpiredError(WebSocketStabilizerError):
    """The reconnect token is genuine and its lifetime has passed."""


class InvalidTokenError(WebSocketStabilizerError):
    """The reconnect token is not ours, was altered, or was redeemed before."""


class ShutdownError(WebSocketStabilizerError):
    """The manager is shutting down or was shut down; ``start()`` opens it again."""


class DrainingError(ShutdownError):
    """The node is draining: it takes no new connection, and another node does."""


class NotStartedError(WebSocketStabilizerError, RuntimeError):
    """A call that needs Redis came before ``start()``."""


class WrongEventLoopError(WebSocketStabilizerError, RuntimeError):
    """A distributed manager was called from another event loop than the one it was started on."""


class ConfigurationError(WebSocketStabilizerError, ValueError):
    """A setting has a value that cannot work.

    Attributes:
        settings: The names that ``WebSocketConfig`` refused; empty if the error has another reason.
    """

    def __init__(self, *args: object, settings: tuple[str, ...] = ()) -> None:
        super().__init__(*args)
        self.settings = settings


class BackendUnavailableError(WebSocketStabilizerError):
    """Redis gave no usable answer in time; retry with back-off.

    Attributes:
        outcome_unknown: True when the command had been sent, so that it may have taken effect.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class WireError(WebSocketStabilizerError):
    """An envelope is malformed, too large or of a version that this release does not read."""


LOSSES = (BackendUnavailableError, ConfigurationError)
"""What an outage raises: nobody answers, or one who does not know our password any more."""
