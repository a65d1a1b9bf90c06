"""A distributed connection registry for FastAPI WebSockets."""

from .__about__ import __version__
from .backends.redis.publisher import Publisher
from .backends.redis.sync_publisher import SyncPublisher
from .config import WebSocketConfig
from .exceptions import (
    BackendUnavailableError,
    BroadcastFailedError,
    ClientInputError,
    ConfigurationError,
    ConnectionLimitExceededError,
    ConnectionNotFoundError,
    ConnectionTimeoutError,
    DrainingError,
    InvalidCursorError,
    InvalidNameError,
    InvalidTokenError,
    MemoryLimitExceededError,
    MessageError,
    NotStartedError,
    RequestFailedError,
    RequestTimeoutError,
    RequestUnsupportedError,
    ShutdownError,
    SlowConsumerError,
    TokenExpiredError,
    WebSocketStabilizerError,
    WireError,
    WrongEventLoopError,
)
from .local.connection import Connection
from .manager import WebSocketConnectionManager
from .models import (
    BroadcastResult,
    BusGap,
    CloseCause,
    ClosedConnection,
    CompressionMode,
    HistoryEntry,
    HistoryPage,
    Identity,
    MemoryEvictionPolicy,
    NodeInfo,
    PresenceEntry,
    PresenceEvent,
    Published,
    ResumeOutcome,
    RoomMember,
    RoomPage,
    Sent,
    ShutdownReport,
)
from .retention import History, Mailbox
from .runtime.logs import StructuredLogger, configure_logging, get_logger
from .runtime.metrics import Statistics
from .streams.stream import Stream
from .web.handshake import offered_token

__all__ = [
    # The manager and its settings
    "WebSocketConnectionManager",
    "WebSocketConfig",
    "CompressionMode",
    "MemoryEvictionPolicy",
    "History",
    "Mailbox",
    # Sending from a process that serves no sockets
    "Publisher",
    "SyncPublisher",
    # Credentials of clients of stabilizer.v1
    "offered_token",
    # Values
    "Connection",
    "Stream",
    "Identity",
    "BroadcastResult",
    "Published",
    "Sent",
    "ShutdownReport",
    "PresenceEntry",
    "PresenceEvent",
    "BusGap",
    "ResumeOutcome",
    "RoomMember",
    "RoomPage",
    "HistoryEntry",
    "HistoryPage",
    "NodeInfo",
    "CloseCause",
    "ClosedConnection",
    "Statistics",
    # Errors
    "WebSocketStabilizerError",
    "ConnectionNotFoundError",
    "InvalidNameError",
    "InvalidCursorError",
    "ConnectionLimitExceededError",
    "ConnectionTimeoutError",
    "SlowConsumerError",
    "MemoryLimitExceededError",
    "MessageError",
    "BroadcastFailedError",
    "RequestTimeoutError",
    "RequestFailedError",
    "RequestUnsupportedError",
    "TokenExpiredError",
    "InvalidTokenError",
    "ShutdownError",
    "DrainingError",
    "NotStartedError",
    "WrongEventLoopError",
    "ConfigurationError",
    "BackendUnavailableError",
    "WireError",
    "ClientInputError",
    # Logging
    "StructuredLogger",
    "get_logger",
    "configure_logging",
    "__version__",
]
