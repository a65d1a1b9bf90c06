"""Value types of the public API. Those of release 1.1 stay mutable dataclasses; new ones are frozen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Literal, NoReturn

from pydantic import BaseModel

from .exceptions import MessageError
from .names import ConnectionId, NodeId

JSON = dict[str, Any] | list[Any]
Message = str | bytes | JSON | BaseModel
"""A message: text, binary, or a value that is sent as JSON text."""


class CompressionMode(str, Enum):  # noqa: UP042 - a StrEnum would print differently than in 1.1
    """The values of ``WebSocketConfig.compression``."""

    DEFLATE = "deflate"
    NONE = "none"


class MemoryEvictionPolicy(str, Enum):  # noqa: UP042 - a StrEnum would print differently than in 1.1
    """The connection to close when ``max_total_memory`` is reached."""

    LRU = "lru"
    """The one with the longest time since a message in either direction (pings do not count)."""
    FIFO = "fifo"
    """The one registered first."""
    OLDEST = "oldest"
    """Alias of FIFO, which release 1.1 documents."""


@dataclass
class BroadcastResult:
    """The outcome of a broadcast.

    ``total``, ``succeeded``, ``failed`` and ``errors`` are exact for the sockets of this node. With ``confirm`` they
    are the sums over all nodes that answered.

    Attributes:
        total: Number of targeted sockets; includes excluded clients, as in release 1.1.
        succeeded: Number of sockets that the message was written to or queued for.
        failed: Number of sockets that failed and were disconnected.
        errors: One ``(client_id, error)`` for each failed socket.
        nodes: Number of nodes that Redis passed the message to; 1 in one process.
        heard: Whether this node's own sockets were served. Either the copy returned from Redis, or Redis was
            unavailable and only this node's sockets got the message (``nodes`` is 1). False if this node subscribes
            to none of the rooms, or the deadline passed.
        id: The id of the message in its log; None if it was not stored. Of several rooms, that of the first.
        ids: The id for each room in which it was stored; the key "" is the log of everybody.
        missing: With ``confirm``, the ids of nodes that did not answer in time (``"?"`` for an unknown node).
    """

    total: int
    succeeded: int
    failed: int
    errors: list[tuple[str, str]] = field(default_factory=list)
    nodes: int = 1
    heard: bool = True
    missing: list[str] = field(default_factory=list)
    id: int | None = None
    ids: dict[str, int] = field(default_factory=dict)


class Published(int):
    """The number of nodes that a broadcast of a publisher reached, with the ids of a stored one.

    Attributes:
        id: The id of the message in its history; None if it was not stored. Of several rooms, that of the first.
        ids: The id for each room in which it was stored; the key "" is the history of everybody.
    """

    id: int | None
    ids: dict[str, int]

    def __new__(cls, nodes: int, ids: Mapping[str, int] | None = None) -> "Published":
        """Return a number of nodes with ids."""
        published = super().__new__(cls, nodes)
        published.ids = dict(ids or {})
        published.id = next(iter(published.ids.values()), None)
        return published


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of a message to one client that was to be stored. True if it was stored or delivered.

    Attributes:
        stored: Whether it is in the mailbox of the client.
        delivered: Whether it has reached a socket of the client, or a replica that holds one. If not, the client is
            away, or it was stored by an earlier call.
        id: The id of the message in the mailbox.
    """

    stored: bool
    delivered: bool
    id: int

    def __bool__(self) -> bool:
        """Whether the message was stored or delivered."""
        return self.stored or self.delivered


@dataclass
class ShutdownReport:
    """The outcome of ``graceful_shutdown`` or ``drain``: sockets closed, sockets that failed to close, seconds."""

    closed_count: int
    failed_count: int
    duration_seconds: float


READ_ONLY = (
    "metadata cannot be changed in place, since other replicas would not see it: await "
    "connection.update_metadata(...), or keep what is private in connection.user_data"
)


class Metadata(dict[str, Any]):
    """The metadata of a connection. Read-only, because other replicas would not see a change."""

    __slots__ = ()

    def __setitem__(self, key: str, value: Any) -> NoReturn:
        raise TypeError(READ_ONLY)

    def __delitem__(self, key: str) -> NoReturn:
        raise TypeError(READ_ONLY)

    def __ior__(self, other: object) -> NoReturn:  # type: ignore[misc]  # it is not what | returns
        raise TypeError(READ_ONLY)

    def clear(self) -> NoReturn:
        """Raise TypeError, as all methods below do."""
        raise TypeError(READ_ONLY)

    def pop(self, *_: Any) -> NoReturn:
        """Raise TypeError."""
        raise TypeError(READ_ONLY)

    def popitem(self) -> NoReturn:
        """Raise TypeError."""
        raise TypeError(READ_ONLY)

    def setdefault(self, *_: Any) -> NoReturn:
        """Raise TypeError."""
        raise TypeError(READ_ONLY)

    def update(self, *_: Any, **__: Any) -> NoReturn:
        """Raise TypeError."""
        raise TypeError(READ_ONLY)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Copy and pickle as a plain dict."""
        return dict, (dict(self),)


def as_metadata(given: Mapping[str, Any] | None) -> Metadata:
    """Return a read-only copy of ``given``; an empty one for None.

    Raises:
        MessageError: ``given`` is not a mapping.
    """
    if given is not None and not isinstance(given, Mapping):
        raise MessageError(f"metadata must be a dict, got {type(given).__name__}: give the value a name")
    return Metadata(given or {})


@dataclass(frozen=True, slots=True)
class Identity:
    """The client of a socket, returned by the function under ``@manager.websocket``.

    Attributes:
        client_id: The id that the application sends to.
        metadata: Public JSON values, which presence returns.
        rooms: Rooms to join before the first message.
        subprotocol: The WebSocket subprotocol to accept. None accepts ``stabilizer.v1`` if the client offers it.
        state: Any object for ``connection.state``; private to this replica, not in presence.
        expires_at: Time at which the credentials expire, with a time zone. The socket is closed with 4401 then, at
            most 2 s later, if the manager is started. Clients of ``stabilizer.v1`` may send newer credentials before.
            None for never.
    """

    client_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rooms: Sequence[str] = ()
    subprotocol: str | None = None
    state: Any = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PresenceEntry:
    """One connection in presence.

    Attributes:
        since: The time of its registration, UTC. Set by its node's clock, so only for display.
    """

    client_id: str
    connection_id: ConnectionId
    node: NodeId
    since: datetime
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RoomMember:
    """One connection in a room."""

    client_id: str
    connection_id: ConnectionId
    node: NodeId


@dataclass(frozen=True, slots=True)
class RoomPage:
    """Some members of a room. Request the next page with ``cursor``, until it is None.

    A member that stays in the room during all requests is on at least one page.
    """

    members: tuple[RoomMember, ...]
    cursor: str | None = None

    def __iter__(self) -> Iterator[RoomMember]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One stored message.

    Attributes:
        id: Its place in the history: later messages have higher ids.
        message: The message: text, bytes, or the JSON value.
        at: The time at which it was stored, UTC. Set by Redis' clock.
    """

    id: int
    message: Any
    at: datetime


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Some stored messages, the newest last. Request older ones with ``before=cursor``, until it is None."""

    entries: tuple[HistoryEntry, ...]
    cursor: int | None = None

    def __iter__(self) -> Iterator[HistoryEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One live node. A restarted process is a new node.

    Attributes:
        started: The time of its start, UTC, by its own clock.
        connections: Number of connections in its index.
        draining: Whether it is draining.
    """

    node_id: NodeId
    name: str
    version: str
    started: datetime
    connections: int
    draining: bool


@dataclass(frozen=True, slots=True)
class ResumeOutcome:
    """The messages that a client of ``stabilizer.v1`` missed while it was away, as known before its first frame.

    Attributes:
        continues: Whether each history of the client continues. None if Redis has not answered for one of them: the
            client is told later.
        missed: Number of stored messages that it has missed and gets now, those included that exclude it.
        lost: Reason for each history that does not continue, of which the client gets nothing old: ``trimmed``,
            ``unknown``, ``reset`` or ``hole``. The key is a room, 1 for the history of everybody, 0 for the mailbox.
        has_session: Whether its former session was taken over, with rooms that it had entered after the connect.
    """

    continues: bool | None
    missed: int
    lost: Mapping[str | int, str]
    has_session: bool


class CloseCause(Enum):
    """Why a connection ended. Each end has exactly one cause.

    Its value is the label of metrics, logs and tools, and stays the same in later releases.
    """

    PEER_CLOSED = "peer_closed"
    """The client sent a close frame. With code 1005 it may have vanished, on servers that report that so."""
    PEER_GONE = "peer_gone"
    """The TCP connection ended without a close frame."""
    RELEASED = "released"
    """The application closed it: its handler returned, or called ``connection.close``."""
    HANDLER_ERROR = "handler_error"
    """The handler of the application raised, or ended without releasing its connection."""
    REPLACED = "replaced"
    """A newer connection of its client took its place."""
    KICKED = "kicked"
    """``manager.disconnect`` was called for its client, on this or another replica."""
    OVER_LIMIT = "over_limit"
    """Its client had more connections than ``max_connections_per_client`` after an outage of Redis."""
    EVICTED = "evicted"
    """``max_total_memory`` was reached."""
    EXPIRED = "expired"
    """The credentials of the client had expired."""
    TOO_LARGE = "too_large"
    """The client sent more than ``max_message_size`` in one message."""
    PROTOCOL_ERROR = "protocol_error"
    """The client broke a rule of WebSocket or of ``stabilizer.v1``."""
    TIMED_OUT = "timed_out"
    """Nothing came from the client within ``heartbeat_timeout`` after a ping."""
    SLOW = "slow"
    """The client did not read: its outbox was full, or a write took longer than ``write_timeout_s``."""
    WRITE_FAILED = "write_failed"
    """A write raised although the client had not gone."""
    DRAINED = "drained"
    """The replica was drained."""
    SHUTDOWN = "shutdown"
    """The replica was shut down."""

    @property
    def is_by_client(self) -> bool:
        """Whether the client ended it, or vanished."""
        return self in (CloseCause.PEER_CLOSED, CloseCause.PEER_GONE)


@dataclass(frozen=True, slots=True)
class ClosedConnection:
    """A connection that has ended.

    Attributes:
        node: The node that held it.
        at: The time of its end, UTC, by the clock of that node.
        cause: Why it ended.
        code: The close code of the side that ended it. 1006 if the client vanished.
        reason: The reason of that close frame.
        error: What was wrong with the socket; "" for nothing.
        lasted_s: Seconds since its registration.
        silent_s: Seconds since the last frame of the client, pongs included.
        queued_bytes: Bytes that waited in its outbox when it ended.
    """

    client_id: str
    connection_id: ConnectionId
    node: NodeId
    at: datetime
    cause: CloseCause
    code: int
    reason: str
    error: str
    lasted_s: float
    silent_s: float
    queued_bytes: int


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """An open connection, as its node shows it to operators: nothing of its messages, metadata or address.

    Attributes:
        node: The node that holds it.
        open_s: Seconds since its registration.
        silent_s: Seconds since the last frame of the client, pongs included.
        ping_s: Seconds that the last answer to a ping took; None before the first.
        queued_bytes: Bytes in its outbox.
        queued_limit: ``outbox_size`` of its node. More bytes close the connection, or are dropped.
        is_behind: Whether it reads too slowly, so that stored messages wait for it in their log.
        is_asked: Whether a ping has no answer yet.
        is_parked: Whether it has no task.
        protocol: ``stabilizer.v1``; "" for a plain socket.
        expires_s: Seconds until its credentials expire; None if they never do.
        rooms: The first 20 of its rooms, in alphabetical order.
        room_count: Number of its rooms.
    """

    client_id: str
    connection_id: ConnectionId
    node: NodeId
    open_s: float
    silent_s: float
    ping_s: float | None
    queued_bytes: int
    queued_limit: int
    is_behind: bool
    is_asked: bool
    is_parked: bool
    protocol: str
    expires_s: float | None
    rooms: tuple[str, ...]
    room_count: int


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room with members on one node.

    Attributes:
        node: The node.
        connections: Number of its members there.
    """

    room: str
    node: NodeId
    connections: int


@dataclass(frozen=True, slots=True)
class BusGap:
    """A time without a working subscription. Messages of other nodes in this time are lost for this node.

    Attributes:
        seconds: Its length.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class PresenceEvent:
    """The begin or end of a client's visit, or of a connection's stay in a room.

    Attributes:
        event_id: Equal for repeated reports of one event, which happen if the reporting process died. The ids of the
            ``joined`` and the ``left`` event of one visit have a common beginning.
        room: The room of a ``room_*`` event, else None.
        node: The node of the connection.
    """

    event_id: str
    kind: Literal["joined", "left", "room_joined", "room_left"]
    client_id: str
    connection_id: ConnectionId
    room: str | None
    node: NodeId
