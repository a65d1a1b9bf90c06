"""The interfaces between a node and its backend. ``tests/contract`` tests every implementation in ``backends/``.

A call that does not finish within the backend's timeout raises ``BackendUnavailableError``.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..names import ConnectionId, NodeId
from ..wire.channels import Channel
from ..wire.envelopes import Envelope
from .log_ports import LogStore
from .revocations import RevocationStore
from .rosters import RosterStore
from .workers import WorkerStore

SESSION = "\0"
"""Begin of a name in the index that is no room's, because no room has this character."""

Receive = Callable[[Channel, Envelope, int], None]
"""A callback for the channel, the envelope and its size in bytes. Called in channel order; must not block."""


class Bus(Protocol):
    """Messages between nodes: delivered at most once, and in order for each sender and channel."""

    async def publish(self, channel: Channel, envelope: Envelope) -> int:
        """Publish to every node, the sender included, or to those that subscribe to a room.

        Return the number of nodes that receive it. For an inbox use ``publish_node``.
        """
        ...

    async def publish_node(self, node: NodeId, envelope: Envelope) -> int:
        """Publish to one node's inbox; return 1 if the node is subscribed to it, else 0."""
        ...

    def publish_clients(
        self, envelope: Envelope, top: int, but: Sequence[NodeId] = ()
    ) -> "asyncio.Future[list[list[NodeId]]]":
        """Publish to the nodes that hold the ``top`` newest connections of the clients of ``envelope.parts``.

        Each node gets one envelope with its own share of the parts; the nodes in ``but`` get none. The position
        of the message in the sender's order is fixed when this returns. The result of the future has one list for
        each client of each part: the nodes that received its message. The list is empty if the client is not
        connected or its nodes are not subscribed.
        """
        ...

    async def subscribe_room(self, room: str) -> None:
        """Subscribe; messages published to ``room`` after this returns are received."""
        ...

    def unsubscribe_room(self, room: str) -> None:
        """Unsubscribe from ``room`` without waiting for a confirmation."""
        ...

    async def subscribe_box(self, client_id: str) -> None:
        """Subscribe to the mailbox of a client, as to a room."""
        ...

    def unsubscribe_box(self, client_id: str) -> None:
        """Unsubscribe from the mailbox of a client, as from a room."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """The request to enter one connection under its client.

    Attributes:
        stamp: The stamp of an earlier claim of the same socket, which keeps its rank and replaces any entry with
            this stamp. 0 for a new claim. A negative number is the microseconds that a first claim has waited.
        replaces: The connection_id under which the same socket was claimed before, or "".
        entry: The value that presence returns, as JSON.
        visit: The visit to continue if the store has no connection of the client; "" to begin a new one.
        sid: The session of the connection, or "". Its ``entry`` then begins with ``succession``.
        former: The session that this one continues, or "". Its connections give way before all others.
    """

    client_id: str
    connection_id: ConnectionId
    top: int
    entry: bytes
    stamp: int = 0
    replaces: str = ""
    visit: str = ""
    sid: str = ""
    former: str = ""


def succession(sid: str, former: str) -> dict[str, str]:
    """Return the first keys of the entry of a connection with a session. The scripts read them."""
    return {"session": sid, "former": former}


_SUCCESSION = re.compile(rb'\{"session":"[\w-]+","former":"([\w-]*)"')


def former_in(entry: bytes) -> str:
    """Return the session that the connection of an entry continues; "" if it continues none."""
    found = _SUCCESSION.match(entry)
    return "" if found is None else found[1].decode()


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a claim.

    Attributes:
        stamp: The rank given; 0 when the claim was refused.
        first: The visit began with this connection, and ``reported`` has not confirmed that.
        others: The outranked connections; for a refused claim, the connections that fill the limit.
        visit: The client's current visit: ``names.visit_of`` its first connection. It lasts until the client has
            no connection left.
        superseded: Connections of the former session. They have the lowest ranks, count in no limit, and are not in
            ``others``.
        has_left: The client has sessions, so the ``former`` one may be there. False if none can be taken over.
    """

    stamp: int
    first: bool
    others: tuple[ConnectionId, ...]
    visit: str = ""
    superseded: tuple[ConnectionId, ...] = ()
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """The answer to a removal. A repeated removal gets the same answer until ``reported`` confirms "left".

    Attributes:
        was_there: This call removed the connection, or an earlier one that ``reported`` has not confirmed.
        joined: The visit (in a room, the stay) that began with this connection, if ``reported`` has not confirmed
            that; else "".
        left: The visit (the stay) that ended with it, if ``reported`` has not confirmed that; else "".
    """

    was_there: bool
    joined: str
    left: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered connection of a client. A higher ``stamp`` is a newer claim."""

    connection_id: ConnectionId
    stamp: int
    entry: bytes
    visit: str = ""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of a node's index: a connection, or its membership of a room (``room`` is not None).

    The session of a connection is a line as well, with ``SESSION`` and the ``sid`` in place of the room.

    Attributes:
        stay: The number of this stay in the room, which differs for each join; part of the ids of its events.
        visit: The visit or stay that this node knows to have begun, else "". The store has it for a stay that began
            under an earlier connection_id, so that a sweep reports the end of the same stay.
    """

    connection_id: ConnectionId
    client_id: str
    room: str | None
    stay: int = field(default=0, compare=False)
    visit: str = field(default="", compare=False)

    @property
    def sid(self) -> str:
        """The session that this line stands for; "" for a connection or a room."""
        return self.room[len(SESSION) :] if self.room is not None and self.room.startswith(SESSION) else ""

    @property
    def stay_id(self) -> str:
        """The id of this stay, unique within the room."""
        return f"{self.connection_id}:{self.stay}"

    @property
    def numbered(self) -> str:
        """The stay as in the index: its number, and its name if that is not the usual one."""
        return f"{self.stay}:{self.visit}" if self.visit not in ("", self.stay_id) else f"{self.stay}"

    def event(self, kind: str) -> str:
        """Return the store's name for an event of this stay, or of this connection's visit."""
        return f"{self.connection_id}:{kind}" if self.room is None else f"{self.stay_id}:{kind}:{self.room}"


class PresenceStore(Protocol):
    """The connections of each client."""

    async def claim(self, claim: Claim) -> Claimed:
        """Enter a connection. The ``top`` highest stamps keep their places, in whatever order claims arrive.

        A connection is superseded while another one is entered that names its session as ``former``. If that one was
        entered first, the connection itself is in ``others``.
        """
        ...

    async def claim_if_free(self, claim: Claim, dead: Sequence[ConnectionId] = ()) -> Claimed:
        """Enter a connection only if the client has fewer than ``top`` others.

        Those in ``dead``, and those of the ``former`` session, do not count.
        """
        ...

    async def release(self, client_id: str, connection_id: ConnectionId) -> Removed:
        """Remove this connection and no other of the client. Idempotent."""
        ...

    async def update(self, client_id: str, connection_id: ConnectionId, entry: bytes) -> bool:
        """Replace the entry of a connection, which keeps its rank; False if it is not there. Idempotent."""
        ...

    async def reported(self, place: IndexEntry, *kinds: str) -> None:
        """Confirm that the application was given the events ``kinds`` ("joined", "left") of a visit or stay."""
        ...

    async def begun(self, places: Sequence[IndexEntry]) -> None:
        """Confirm the "joined" events of many visits and stays."""
        ...

    async def entries(self, client_ids: Sequence[str]) -> list[list[Entry]]:
        """Return each client's entries, the highest stamp first; one list per client id."""
        ...


class RoomStore(Protocol):
    """The members of each room."""

    async def join(self, place: IndexEntry, *, replaces: str = "", is_known: bool = False) -> bool:
        """Enter a connection; return whether its "joined" event is still to be reported.

        The event is pending from the first join until ``reported`` confirms it; with ``is_known`` the result is
        False. The entry replaces ``replaces``, an earlier connection_id of the same socket.
        """
        ...

    async def leave(self, place: IndexEntry) -> Removed:
        """Remove a connection, unless its stay in the room is a different one. Idempotent."""
        ...

    async def members(self, room: str, cursor: str, limit: int) -> tuple[list[tuple[ConnectionId, str]], str]:
        """Return up to ``limit`` (connection_id, client_id) from ``cursor`` ("" at first) and the next cursor.

        Raises:
            InvalidCursorError: ``cursor`` is not one of this store.
        """
        ...

    async def is_empty(self, room: str) -> bool:
        """Return whether the room has no member."""
        ...

    async def counts(self, room: str) -> dict[NodeId, int]:
        """Return the number of members on each node."""
        ...


class TokenStore(Protocol):
    """The records of unused reconnect tokens, and the secret that signs them."""

    async def issue(self, digest: str, client_id: str, ttl_ms: int) -> None:
        """Store a record that expires after ``ttl_ms``."""
        ...

    async def redeem(self, digest: str, client_id: str) -> bool:
        """Remove the record; return False if it is unknown, expired or was redeemed before."""
        ...

    async def revoke(self, digest: str, client_id: str) -> None:
        """Remove the record if it exists."""
        ...

    def issue_now(self, digest: str, client_id: str, ttl_ms: int) -> None:
        """Store a record without waiting. Until it is stored, ``redeem`` returns False."""
        ...

    async def share_secret(self, offer: bytes) -> bytes:
        """Return the secret of the registry; store ``offer`` as the secret if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a renewal.

    Attributes:
        held: The lease had not lapsed, and was extended to ``ttl_ms``.
        live: The remaining lease of each live node in ms.
        lapsed: The nodes to sweep, because their lease or the fence of their sweeper has lapsed.
        epoch: A random key of the store's content; a different one after the content was lost.
        secret: The SHA-1 of the registry's secret; "" if the store has none.
        now_ms: The time of the store's clock.
    """

    held: bool
    live: dict[NodeId, int]
    lapsed: tuple[NodeId, ...]
    epoch: str = field(default="", compare=False)
    secret: str = field(default="", compare=False)
    now_ms: int = field(default=0, compare=False)


class NodeStore(Protocol):
    """The leases of nodes, measured by the store's clock, and the index of the entries that a sweep removes."""

    async def register(self, node: NodeId, info: bytes, ttl_ms: int) -> str:
        """Take a lease of ``ttl_ms``; return the epoch."""
        ...

    async def renew(self, node: NodeId, info: bytes, ttl_ms: int) -> Renewal:
        """Extend a lease that is still held. A lapsed lease stays lapsed; the answer is complete in either case."""
        ...

    async def live(self) -> dict[NodeId, int]:
        """Return the remaining lease of each live node in ms. Read-only."""
        ...

    async def infos(self, nodes: Sequence[NodeId]) -> list[tuple[bytes | None, int]]:
        """Return, for each node, its info (None if it has none) and the number of connections in its index."""
        ...

    async def fence(self, node: NodeId, ttl_ms: int) -> bool:
        """Fence a lapsed node for sweeping; return False if it is live or another sweeper has it."""
        ...

    async def abandon(self, node: NodeId, ttl_ms: int) -> bool:
        """Fence a former node_id of this process for sweeping; return False if another sweeper has it."""
        ...

    async def extend_fence(self, node: NodeId, ttl_ms: int) -> None:
        """Extend the fence of a node that this node is sweeping to ``ttl_ms``."""
        ...

    async def shorten(self, node: NodeId, ttl_ms: int) -> bool:
        """Limit the remaining lease to ``ttl_ms``; return whether it was longer."""
        ...

    async def connections(self, node: NodeId, cursor: str, limit: int) -> tuple[list[IndexEntry], str]:
        """Return about ``limit`` of a node's connections from ``cursor`` ("" at first) and the next cursor."""
        ...

    async def memberships(self, node: NodeId, cursor: str, limit: int) -> tuple[list[IndexEntry], str]:
        """Return about ``limit`` of a node's room memberships from ``cursor``, and the next cursor."""
        ...

    async def index_sizes(self, node: NodeId) -> tuple[int, int]:
        """Return the numbers of connections and of room memberships in a node's index."""
        ...

    async def forget(self, node: NodeId, lines: Sequence[IndexEntry]) -> None:
        """Remove lines from a node's index."""
        ...

    async def retire(self, node: NodeId) -> None:
        """Remove the rest of a node: index, info, and at the end its lease or fence."""
        ...


@dataclass(frozen=True, slots=True)
class SessionName:
    """The session of one connection of ``stabilizer.v1``. Its ``sid`` is the name that the client has of it."""

    client_id: str
    sid: str
    connection_id: ConnectionId

    @property
    def line(self) -> IndexEntry:
        """The line of the index from which a sweep finds the session."""
        return IndexEntry(self.connection_id, self.client_id, SESSION + self.sid)


class KeptRoom(NamedTuple):
    """A room that a session has, or with the name "" the log of everybody.

    Attributes:
        by_client: Whether the client entered it by itself, so the application is asked again. None if it was not
            entered after the connect: only the position is kept.
        since: The position of its log when the client became a member; None if that is unknown.
    """

    by_client: bool | None
    since: int | None = None


@dataclass(frozen=True, slots=True)
class KeptSession:
    """The state that a connection leaves to the next one.

    Attributes:
        rooms: Rooms that were entered after the connect, and rooms of which only the position is kept.
        mark: Number of the last confirmed message that was handled.
        holder: The connection that had it before. Unknown if the call was repeated.
    """

    rooms: dict[str, KeptRoom]
    mark: int
    holder: ConnectionId = field(default=ConnectionId(""), compare=False)


SESSIONS_PER_CLIENT = 32
"""Sessions with content of one client. With one more the oldest is removed, first those without a connection."""
SESSION_BYTES = 65_536
"""Bytes of the names of a session's rooms, with ``ROOM_BYTES`` for each."""
ROOM_BYTES = 64


def size_of_kept(room: str) -> int:
    """Return the bytes that a room counts in its session."""
    return len(room.encode()) + ROOM_BYTES


class SessionStore(Protocol):
    """The state of connections that outlives them: while they are connected, and some time after that.

    A session that keeps nothing is not stored. Each operation is repeatable.
    """

    async def take(
        self, former: str, session: SessionName, ttl_ms: int, *, mark: int | None = None
    ) -> KeptSession | None:
        """Give the session ``former`` the name ``session``, and return it. None if it is unknown or has expired.

        Exactly one of several callers gets it. It expires after ``ttl_ms``, unless ``begin`` holds it. With its own
        ``sid`` as ``former``, a session is read. ``mark`` is for a client that numbers its messages anew.
        """
        ...

    async def begin(self, session: SessionName) -> None:
        """Hold a session for a connection, until ``release``. Store it without content if it is unknown.

        The index has its line before that.
        """
        ...

    async def note(
        self, session: SessionName, room: str, *, by_client: bool | None, since: int | None = None
    ) -> bool:
        """Keep a room; False if the session is unknown, or exceeds ``SESSION_BYTES`` with it.

        The first value of ``by_client`` and of ``since`` that is not None stays.
        """
        ...

    async def forget(self, session: SessionName, room: str) -> None:
        """Remove a room from a session."""
        ...

    async def mark(self, session: SessionName, number: int) -> None:
        """Keep the number of the last message that was handled. It only rises."""
        ...

    async def revoke(self, client_id: str, room: str) -> bool:
        """Remove a room from all sessions of a client; return whether one had it."""
        ...

    async def end_all(self, client_id: str) -> bool:
        """Remove all sessions of a client; return whether it had one."""
        ...

    async def release(self, session: SessionName, ttl_ms: int) -> None:
        """Let a session expire after ``ttl_ms``, unless another connection has taken it. With 0 it is removed."""
        ...


class Listening(NamedTuple):
    """A confirmed subscription to one channel.

    Attributes:
        run_id: The identity of the server that confirmed it; "" if it is not known, because nothing is stored.
        number: A different one after each interruption, so that one which was over at once shows.
    """

    run_id: str
    number: int


class Backend(Protocol):
    """The bus and the stores of one node."""

    # ruff: noqa: D102 - nine properties that are named by their types

    @property
    def bus(self) -> Bus: ...

    @property
    def presence(self) -> PresenceStore: ...

    @property
    def rooms(self) -> RoomStore: ...

    @property
    def tokens(self) -> TokenStore: ...

    @property
    def nodes(self) -> NodeStore: ...

    @property
    def logs(self) -> LogStore: ...

    @property
    def sessions(self) -> SessionStore: ...

    @property
    def rosters(self) -> RosterStore: ...

    @property
    def revocations(self) -> RevocationStore: ...

    @property
    def workers(self) -> WorkerStore: ...

    async def start(self, node: NodeId) -> None:
        """Connect and subscribe to every node's channel and to ``node``'s inbox.

        Raises:
            BackendUnavailableError: No server answers in time.
            ConfigurationError: The server answers and cannot be used: wrong password, missing rights, too old.
        """
        ...

    def start_later(self, node: NodeId) -> None:
        """Start without waiting. Connects, with retries, as soon as a server answers."""
        ...

    def beat(self) -> None:
        """Probe the bus. Called after each renewal, when commands are known to work."""
        ...

    async def rename(self, node: NodeId) -> None:
        """Replace the subscription to the current inbox by that of ``node``."""
        ...

    async def stop(self) -> None:
        """Close all connections and end all tasks."""
        ...

    @property
    def is_connected(self) -> bool:
        """Whether the bus is connected and subscribed."""
        ...

    @property
    def is_deaf(self) -> bool:
        """Whether the bus has been silent for too long although commands work."""
        ...

    @property
    def is_ordered(self) -> bool:
        """Whether messages of one node arrive in the order of its calls, even on different channels."""
        ...

    @property
    def run_id(self) -> str:
        """The identity of the server process; changes after a restart or a failover."""
        ...

    def listening(self, channel: Channel) -> Listening | None:
        """Return the subscription to a channel that is no inbox; None while it is not confirmed.

        Compare it when a gap begins or ends, after ``Bus.subscribe_room``, and at each beat.
        """
        ...

    @property
    def heard_to_s(self) -> float:
        """Time up to which the bus has received everything that was published, except in known gaps.

        By the monotonic clock; without a shared registry, by the clock of its ids.
        """
        ...

    @property
    def queued_bytes(self) -> int:
        """Bytes of commands that are queued and not yet sent."""
        ...


@dataclass(frozen=True, slots=True)
class Watcher:
    """The callbacks of a shared backend. None is called before ``start``.

    Attributes:
        receive: Called with each envelope from the bus.
        gap_began: Called when the bus has lost its connection, so messages may be lost.
        gap_ended: Called when the bus is subscribed again, with the seconds in which messages may have been lost.
        pause: Returns an awaitable that ends before the bus reads more; usually None.
        flush_earlier_sends: Called before each command is queued. It queues the direct sends of this tick, so that
            the command does not overtake them. So the call re-enters the backend.
        opened_at: Returns the monotonic time since which a client has a socket on this node; 0.0 if it has none.
        heard_after: Called with the seconds that a canary took.
        answered_after: Called with the seconds from the write of a batch of commands to its last answer.
    """

    receive: Receive
    gap_began: Callable[[], None]
    gap_ended: Callable[[float], None]
    pause: Callable[[], Awaitable[object] | None]
    flush_earlier_sends: Callable[[], None]
    opened_at: Callable[[str], float]
    heard_after: Callable[[float], None]
    answered_after: Callable[[float], None]
