"""What a node needs of the outside world. ``backends/`` implements it, ``tests/contract`` says it in tests.

Every call either ends within the backend's timeout or raises ``BackendUnavailableError``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..names import ConnectionId, NodeId
from ..wire.envelopes import Envelope

Receive = Callable[[str, Envelope, int], None]
"""Called with the channel, the envelope and its size in bytes, in the order of the channel; must not block."""


class Bus(Protocol):
    """Messages between nodes. At most once; in order per sender and channel."""

    async def publish_all(self, envelope: Envelope) -> int:
        """Publish to every node, the sender included; return how many took it."""
        ...

    async def publish_room(self, room: str, envelope: Envelope) -> int:
        """Publish to the nodes that subscribe to ``room``; return how many took it."""
        ...

    async def publish_node(self, node: NodeId, envelope: Envelope) -> int:
        """Publish to one node's inbox; return 1 if it took it, else 0."""
        ...

    def publish_clients(
        self, envelope: Envelope, top: int, but: Sequence[NodeId] = ()
    ) -> "asyncio.Future[list[list[NodeId]]]":
        """Publish to the nodes that hold the ``top`` newest connections of the clients of ``envelope.parts``.

        Each node gets one envelope with its own share of the parts; the nodes in ``but`` get none. The message
        has its place among the others when this returns. The future has, for each client of each part, the nodes
        that took it: none when it is not connected or its node does not listen.
        """
        ...

    async def subscribe_room(self, room: str) -> None:
        """Return once everything published to ``room`` from now on is received."""
        ...

    def unsubscribe_room(self, room: str) -> None:
        """Stop receiving ``room``; does not wait."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """One connection that wants to be its client's.

    Attributes:
        stamp: That of an earlier claim of the same socket, to keep its rank, and to take the place of whatever
            else has it; 0 for a new one; below 0 for one that waited so many microseconds for the store.
        replaces: The connection_id under which the same socket was claimed before, or "".
        entry: What presence shows: JSON.
        visit: The visit that goes on if the store knows no connection of the client any more; "" to begin one.
    """

    client_id: str
    connection_id: ConnectionId
    top: int
    entry: bytes
    stamp: int = 0
    replaces: str = ""
    visit: str = ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a claim.

    Attributes:
        stamp: The rank given; 0 when the claim was refused.
        first: The visit began with this connection, and ``reported`` has not confirmed that.
        others: Outranked connections; of a refused claim, the connections that hold the places.
        visit: The client's present visit, ``names.visit_of`` the connection that it began with. It lasts until the
            client has no connection left.
    """

    stamp: int
    first: bool
    others: tuple[ConnectionId, ...]
    visit: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    """The answer to a removal. A repeated one has the same answer, until ``reported`` confirms "left".

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
    """One registered connection of a client; ``stamp`` ranks them."""

    connection_id: ConnectionId
    stamp: int
    entry: bytes
    visit: str = ""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of a node's index: a connection, or its place in a room (``room`` is not None).

    Attributes:
        stay: Tells one stay of a connection in a room from the next; part of the ids of its events.
        visit: The visit, or the stay, of which this node knows that it had begun; else "". Not in the store.
    """

    connection_id: ConnectionId
    client_id: str
    room: str | None
    stay: int = field(default=0, compare=False)
    visit: str = field(default="", compare=False)

    @property
    def stay_id(self) -> str:
        """Names this stay among all stays in the room."""
        return f"{self.connection_id}:{self.stay}"

    def event(self, kind: str) -> str:
        """Name an event of this stay, or of this connection's visit, in the store."""
        return f"{self.connection_id}:{kind}" if self.room is None else f"{self.stay_id}:{kind}:{self.room}"


class PresenceStore(Protocol):
    """Which connections a client has."""

    async def claim(self, claim: Claim) -> Claimed:
        """Enter a connection; the ``top`` highest stamps are the client's, whatever the order of calls."""
        ...

    async def claim_if_free(self, claim: Claim, dead: Sequence[ConnectionId] = ()) -> Claimed:
        """Enter a connection only if the client has fewer than ``top`` others, not counting those in ``dead``."""
        ...

    async def release(self, client_id: str, connection_id: ConnectionId) -> Removed:
        """Remove exactly this connection. Idempotent."""
        ...

    async def reported(self, place: IndexEntry, *kinds: str) -> None:
        """Confirm that the application was told that the visit or stay "joined", "left", or both."""
        ...

    async def begun(self, places: Sequence[IndexEntry]) -> None:
        """Confirm "joined" for many visits and stays."""
        ...

    async def entries(self, client_ids: Sequence[str]) -> list[list[Entry]]:
        """Return each client's entries, the highest stamp first; one list per client id."""
        ...


class RoomStore(Protocol):
    """Which connections are in a room."""

    async def join(self, place: IndexEntry, *, replaces: str = "", is_known: bool = False) -> bool:
        """Enter a connection; True until ``reported`` confirms that it was not there, unless that is known.

        It takes the place of ``replaces``, the connection_id under which the same socket was there before.
        """
        ...

    async def leave(self, place: IndexEntry) -> Removed:
        """Remove a connection, unless it is there for another stay. Idempotent."""
        ...

    async def members(self, room: str, cursor: str, limit: int) -> tuple[list[tuple[ConnectionId, str]], str]:
        """Return up to ``limit`` (connection_id, client_id) from ``cursor`` ("" at first) and the next cursor.

        Raises:
            InvalidCursorError: It is no cursor of this store.
        """
        ...

    async def is_empty(self, room: str) -> bool:
        """Return whether the room has no member."""
        ...

    async def counts(self, room: str) -> dict[NodeId, int]:
        """Return how many members each node has."""
        ...


class TokenStore(Protocol):
    """Records of reconnect tokens."""

    async def issue(self, digest: str, client_id: str, ttl_ms: int) -> None:
        """Keep a record for ``ttl_ms``."""
        ...

    async def redeem(self, digest: str, client_id: str) -> bool:
        """Take the record: True once, False when it is unknown, expired or was taken before."""
        ...

    async def revoke(self, digest: str, client_id: str) -> None:
        """Drop the record, if there is one."""
        ...

    def issue_now(self, digest: str, client_id: str, ttl_ms: int) -> None:
        """The same without waiting: it may be redeemed in vain until the record is there."""
        ...

    async def share_secret(self, offer: bytes) -> bytes:
        """Return the registry's secret, which is ``offer`` if it had none."""
        ...


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a beat learned.

    Attributes:
        held: The lease was still held and now lasts ``ttl_ms`` again.
        live: Remaining lease of every live node in ms.
        lapsed: Nodes to sweep: their lease lapsed, or their sweeper did.
        epoch: One life of the store's content: another one after it was emptied.
        secret: SHA-1 of the registry's secret; "" when the store has none.
    """

    held: bool
    live: dict[NodeId, int]
    lapsed: tuple[NodeId, ...]
    epoch: str = field(default="", compare=False)
    secret: str = field(default="", compare=False)


class NodeStore(Protocol):
    """Leases of nodes, counted by the store's clock, and the index of what a sweep must undo."""

    async def register(self, node: NodeId, info: bytes, ttl_ms: int) -> str:
        """Take a lease; return the epoch, as ``renew`` does."""
        ...

    async def renew(self, node: NodeId, info: bytes, ttl_ms: int) -> Renewal:
        """Extend a held lease; a lapsed one stays lapsed. Tells who lives in either case."""
        ...

    async def live(self) -> dict[NodeId, int]:
        """Return the nodes that hold a lease, each with the ms that it lasts. Changes nothing."""
        ...

    async def infos(self, nodes: Sequence[NodeId]) -> list[tuple[bytes | None, int]]:
        """Return what each node said of itself, and how many connections its index has."""
        ...

    async def fence(self, node: NodeId, ttl_ms: int) -> bool:
        """Take a lapsed node for sweeping; False when it lives or another sweeper has it."""
        ...

    async def abandon(self, node: NodeId, ttl_ms: int) -> bool:
        """Take a node_id for sweeping that was our own; False when another sweeper has it."""
        ...

    async def extend_fence(self, node: NodeId, ttl_ms: int) -> None:
        """Keep a node that we are sweeping."""
        ...

    async def shorten(self, node: NodeId, ttl_ms: int) -> bool:
        """Have a lease end within ``ttl_ms``; True when it lasted longer."""
        ...

    async def connections(self, node: NodeId, cursor: str, limit: int) -> tuple[list[IndexEntry], str]:
        """Return about ``limit`` of a node's connections from ``cursor`` ("" at first) and the next cursor."""
        ...

    async def memberships(self, node: NodeId, cursor: str, limit: int) -> tuple[list[IndexEntry], str]:
        """The same for its connections' places in rooms."""
        ...

    async def index_sizes(self, node: NodeId) -> tuple[int, int]:
        """Return how many connections and how many places in rooms a node's index has."""
        ...

    async def forget(self, node: NodeId, lines: Sequence[IndexEntry]) -> None:
        """Drop lines of a node's index."""
        ...

    async def retire(self, node: NodeId) -> None:
        """Drop what is left of a node: index, info, and last its lease or fence."""
        ...


class Backend(Protocol):
    """Everything above, for one node."""

    # ruff: noqa: D102 - five properties that are named by their types

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

    async def start(self, node: NodeId) -> None:
        """Connect and subscribe to every node's channel and to ``node``'s inbox.

        Raises:
            BackendUnavailableError: Nobody answers, or one who cannot serve us (too old).
            ConfigurationError: It answers and refuses us: password, rights.
        """
        ...

    def start_later(self, node: NodeId) -> None:
        """The same without waiting: connect as soon as somebody answers."""
        ...

    def beat(self) -> None:
        """Look after the bus; called whenever commands are known to work."""
        ...

    async def rename(self, node: NodeId) -> None:
        """Subscribe to the inbox of ``node`` instead of the present one."""
        ...

    async def stop(self) -> None:
        """Let go of every connection and task."""
        ...

    @property
    def is_connected(self) -> bool:
        """Whether messages of other nodes can arrive."""
        ...

    @property
    def is_deaf(self) -> bool:
        """Whether nothing arrives on the bus although commands work."""
        ...

    @property
    def queued_bytes(self) -> int:
        """Bytes of commands that are not sent yet."""
        ...


@dataclass(frozen=True, slots=True)
class Watcher:
    """Whom a shared backend tells what happens to it, and whom it asks.

    Attributes:
        gap_began: Called when the bus lost its connection: messages may be lost.
        gap_ended: Called when it hears again, with the seconds in which messages may have been lost.
        pause: Returns what to wait for before more is read from the bus; usually None.
        before_queueing: May queue what must not be overtaken by the command that comes next.
        opened_at: Since when (on the monotonic clock) a client has a socket here; 0.0 when it has none.
        heard_after: Called with the seconds that a message to ourselves took.
    """

    gap_began: Callable[[], None]
    gap_ended: Callable[[float], None]
    pause: Callable[[], Awaitable[object] | None]
    before_queueing: Callable[[], None]
    opened_at: Callable[[str], float]
    heard_after: Callable[[float], None]


class SharedBackend(Backend, Protocol):
    """A backend that other nodes share, and that can be lost."""

    bus: Bus  # may be wrapped

    @property
    def run_id(self) -> str:
        """Changes when another server, or a restarted one, answers."""
        ...

    @property
    def is_ordered(self) -> bool:
        """Whether what one node publishes comes in the order of its calls, whatever the channels."""
        ...

    def watch(self, watcher: Watcher) -> None:
        """Say whom to tell and whom to ask, before ``start``."""
        ...
