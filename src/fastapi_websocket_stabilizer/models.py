"""Value types that users hold. Those of release 1.1 stay mutable dataclasses; new ones are frozen."""

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
"""What can be sent: text, binary, or a value that is sent as JSON text."""


class CompressionMode(str, Enum):  # noqa: UP042 - a StrEnum would print differently than in 1.1
    """What ``WebSocketConfig.compression`` asks for."""

    DEFLATE = "deflate"
    NONE = "none"


class MemoryEvictionPolicy(str, Enum):  # noqa: UP042 - a StrEnum would print differently than in 1.1
    """Which connection gives way when ``max_total_memory`` is reached."""

    LRU = "lru"
    """The one that was silent longest: neither heard from nor sent a message (pings do not count)."""
    FIFO = "fifo"
    """The one registered first."""
    OLDEST = "oldest"
    """The same as FIFO, under the name that release 1.1 documents too."""


@dataclass
class BroadcastResult:
    """What a broadcast did.

    ``total``, ``succeeded``, ``failed`` and ``errors`` count sockets of this node exactly (``total`` counts
    an excluded client too, as in release 1.1). With ``confirm`` they are the sums over all nodes that answered.

    Attributes:
        total: Sockets addressed, the excluded ones included.
        succeeded: Sockets written to, or whose outbox took the message.
        failed: Sockets that failed; they were disconnected.
        errors: One ``(client_id, error)`` for each failed socket.
        nodes: Nodes that Redis handed the message to; 1 in one process.
        heard: Whether this node's own sockets were served: the copy came back from Redis, or Redis was away
            and it went to them alone (``nodes`` is 1). False when this node subscribes to none of the rooms, or
            when the deadline passed.
        missing: With ``confirm``: node ids that did not answer in time (``"?"`` for one we cannot name).
    """

    total: int
    succeeded: int
    failed: int
    errors: list[tuple[str, str]] = field(default_factory=list)
    nodes: int = 1
    heard: bool = True
    missing: list[str] = field(default_factory=list)


@dataclass
class ShutdownReport:
    """What ``graceful_shutdown`` or ``drain`` did: sockets closed, sockets that failed to close, seconds it took."""

    closed_count: int
    failed_count: int
    duration_seconds: float


READ_ONLY = (
    "metadata cannot be changed after connect, since other replicas would not see it: give it to connect "
    "or Identity, or keep what changes in connection.user_data or a store that all replicas share"
)


class Metadata(dict[str, Any]):
    """What a connection was registered with. Read-only: the other replicas would not see a change."""

    __slots__ = ()

    def __setitem__(self, key: str, value: Any) -> NoReturn:
        raise TypeError(READ_ONLY)

    def __delitem__(self, key: str) -> NoReturn:
        raise TypeError(READ_ONLY)

    def __ior__(self, other: object) -> NoReturn:  # type: ignore[misc]  # it is not what | returns
        raise TypeError(READ_ONLY)

    def clear(self) -> NoReturn:
        """Raise TypeError, as each method below."""
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
        """Be copied and pickled as a plain dict."""
        return dict, (dict(self),)


def as_metadata(given: Mapping[str, Any] | None) -> Metadata:
    """Return metadata as a connection holds it.

    Raises:
        MessageError: It is no mapping.
    """
    if given is not None and not isinstance(given, Mapping):
        raise MessageError(f"metadata must be a dict, got {type(given).__name__}: give the value a name")
    return Metadata(given or {})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a socket belongs to, returned by the function under ``@manager.websocket``.

    Attributes:
        client_id: The id that the application addresses.
        metadata: Public facts about the connection, shown in presence; JSON.
        rooms: Rooms to join before the first message.
        subprotocol: The WebSocket subprotocol to accept with.
        state: Anything for ``connection.state``; private to this replica, in no presence entry.
    """

    client_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rooms: Sequence[str] = ()
    subprotocol: str | None = None
    state: Any = None


@dataclass(frozen=True, slots=True)
class PresenceEntry:
    """One connection, as the whole registry sees it.

    Attributes:
        since: When it was registered, UTC, by its node's clock: for people, not for comparing.
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
    """Some members of a room; ask again with ``cursor`` until it is None.

    A member that stays in the room through all pages is on one of them at least once.
    """

    members: tuple[RoomMember, ...]
    cursor: str | None = None

    def __iter__(self) -> Iterator[RoomMember]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One running process of ours. A restarted process is another node.

    Attributes:
        started: UTC, by its own clock.
        connections: Connections it has registered.
        draining: Whether it is sending its clients elsewhere.
    """

    node_id: NodeId
    name: str
    version: str
    started: datetime
    connections: int
    draining: bool


@dataclass(frozen=True, slots=True)
class BusGap:
    """A time in which this node did not hear the others; what was said meanwhile is lost to it.

    Attributes:
        seconds: How long it lasted.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class PresenceEvent:
    """A client's first connection, its last one gone, or a connection entering or leaving a room.

    Attributes:
        event_id: The same when an event is reported again because the process that reported it died. The ids of the
            ``joined`` and the ``left`` of one visit begin alike.
        room: The room of a ``room_*`` event, else None.
        node: The node that held the connection.
    """

    event_id: str
    kind: Literal["joined", "left", "room_joined", "room_left"]
    client_id: str
    connection_id: ConnectionId
    room: str | None
    node: NodeId
