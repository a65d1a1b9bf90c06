"""All errors of this library, one class for each reaction.

WebSocketStabilizerError
├── ConnectionNotFoundError       The client is not connected: stop sending to it.
│   └── InvalidNameError          The client id or room name is illegal (also ValueError).
├── InvalidCursorError            The page does not exist: begin without a cursor (also ValueError).
├── ConnectionLimitExceededError  A limit is reached: reject the new connection.
├── ConnectionTimeoutError        The peer stopped answering and was closed.
├── SlowConsumerError             The peer stopped reading and was closed.
├── MemoryLimitExceededError      A memory limit is reached: store less.
├── MessageError                  The message cannot be sent: change it (also ValueError).
├── BroadcastFailedError          Every targeted socket failed.
├── RequestTimeoutError           The client did not answer in time: it may have acted all the same.
├── RequestFailedError            The client answered with an error: its code says which.
│   └── RequestUnsupportedError   The client cannot answer: send a message instead.
├── TokenExpiredError             The token is too old: ask the client to sign in again.
├── InvalidTokenError             The token is not valid: ask the client to sign in again, and check its origin.
├── ShutdownError                 The node is shutting down: use another.
│   └── DrainingError             The node is draining: use another.
├── NotStartedError               Call start() first (also RuntimeError).
├── WrongEventLoopError           Call from the event loop of start() (also RuntimeError).
├── ConfigurationError            Fix the settings (also ValueError).
├── BackendUnavailableError       Redis did not answer: retry with backoff.
├── WireError                     Bytes of another node cannot be read: drop them.
└── ClientInputError              Input of a client violates its subprotocol: close its socket.

Values are attributes, so callers need not parse messages. Each error can be created from a message alone, as in
release 1.1. Copying and pickling keep the values.
"""

from typing import Literal


class WebSocketStabilizerError(Exception):
    """Base class of all errors of this library."""


class ConnectionNotFoundError(WebSocketStabilizerError):
    """The client is not connected, or has no such connection."""


class InvalidNameError(ConnectionNotFoundError, ValueError):
    """A client id or room name is empty, too long, not a string or has control characters."""


class InvalidCursorError(WebSocketStabilizerError, ValueError):
    """The cursor given to ``room_members`` belongs to no page."""


class ConnectionLimitExceededError(WebSocketStabilizerError):
    """The node or the client has as many connections as the settings allow, or the connection as many rooms.

    Attributes:
        scope: The limit that is reached: "node" (``max_connections``), "client" (``max_connections_per_client``) or
            "rooms" (``max_rooms_per_connection``). None if the application raised the error without it.
        limit: The value of the setting.
        current: The number of connections or rooms.
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
    """The heartbeat closed this connection, since its peer sent nothing within ``heartbeat_timeout``."""


class SlowConsumerError(WebSocketStabilizerError):
    """The connection was closed because its peer does not read its messages."""


class MemoryLimitExceededError(WebSocketStabilizerError):
    """The value would exceed ``max_memory_per_connection`` or ``max_total_memory``, and was not stored."""


class MessageError(WebSocketStabilizerError, ValueError):
    """The message cannot be encoded or is longer than ``max_message_size``; nothing was sent."""


class BroadcastFailedError(WebSocketStabilizerError):
    """Every socket that a broadcast targeted has failed."""


class RequestTimeoutError(WebSocketStabilizerError):
    """The client did not answer a request within its timeout. It may have carried it out."""


class RequestFailedError(WebSocketStabilizerError):
    """The client answered a request with an error, or the request could not be sent.

    Attributes:
        code: For programs: a code of the client's application, or "limit" if too many requests to it are open. Empty
            if the application raised the error without it.
        message: For people.
        retry: Whether the same request may succeed later.
    """

    def __init__(self, *args: object, code: str = "", message: str = "", retry: bool = False) -> None:
        super().__init__(*args)
        self.code = code
        self.message = message
        self.retry = retry


class RequestUnsupportedError(RequestFailedError):
    """No socket of the client speaks ``stabilizer.v1``, so it cannot answer. ``code`` is "unsupported"."""


class TokenExpiredError(WebSocketStabilizerError):
    """The reconnect token is genuine, but has expired."""


class InvalidTokenError(WebSocketStabilizerError):
    """The reconnect token was not issued by this registry, was altered, or was redeemed before."""


class ShutdownError(WebSocketStabilizerError):
    """The manager is shutting down or was shut down; ``start()`` starts it again."""


class DrainingError(ShutdownError):
    """The node is draining and accepts no new connections; other nodes do."""


class NotStartedError(WebSocketStabilizerError, RuntimeError):
    """A call that needs Redis was made before ``start()``."""


class WrongEventLoopError(WebSocketStabilizerError, RuntimeError):
    """A manager with ``redis_url`` was called from another event loop than that of ``start()``."""


class ConfigurationError(WebSocketStabilizerError, ValueError):
    """A setting has a value that cannot work.

    Attributes:
        settings: The names of the rejected settings of ``WebSocketConfig``; empty if the error has another cause.
    """

    def __init__(self, *args: object, settings: tuple[str, ...] = ()) -> None:
        super().__init__(*args)
        self.settings = settings


class BackendUnavailableError(WebSocketStabilizerError):
    """Redis gave no usable answer in time; retry with backoff.

    Attributes:
        outcome_unknown: True if the command had been sent, so it may have been executed.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class WireError(WebSocketStabilizerError):
    """An envelope is malformed, too large or of a version that this release cannot read."""


class ClientInputError(WebSocketStabilizerError):
    """A frame, a cursor or the handshake of a client is not of the subprotocol ``stabilizer.v1``.

    Attributes:
        code: The rule that was broken: "size", "json", "depth", "number", "frame", "field", "name", "header",
            "encoding" or "cursor". Empty if the application raised the error without it.
    """

    def __init__(self, *args: object, code: str = "") -> None:
        super().__init__(*args)
        self.code = code


LOSSES = (BackendUnavailableError, ConfigurationError)
"""Errors of an outage: Redis is unreachable, or has revoked the credentials."""
