"""The registry's record of a connection, which the connection carries without reading it."""

import re

from ..backends.ports import SessionName
from ..local.connection import Connection
from ..names import ConnectionId

STAY_BITS = 48
LARGEST_STAY = (1 << STAY_BITS) - 1
"""Largest number of a stay. A node that begins a million in a second reaches it after nine years."""
LEGAL_SID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The form of our names of sessions. A foreign one is unknown, and costs no command."""


class Succession:
    """The session of a connection of ``stabilizer.v1``, and its place between the former and the next one.

    Attributes:
        sid: Name of the session.
        former: Name of the session that this one continues; "" for none.
        superseded: Connections of the former session, which are closed once the client has its first frame.
        formers: Connections that had the session before. Entries that exclude one of them are not for this one.
        is_owed: The former session was not asked for yet, or Redis did not answer.
        gone_at_s: Monotonic time at which a claim has shown that the former session is not kept; None if none has.
        has_begun: The client has its first frame.
        is_taken: The former session was found, and this one continues it.
        is_kept: The store has the session.
        rooms: Rooms that the store keeps, and whether the client entered each by itself.
        inherited: Rooms of the former session, when this one took it over.
        since: Positions of logs when the client became their member; "" is that of everybody. Only for logs whose
            members see nothing from before.
        mark: Number of the last confirmed message that was handled.
    """

    __slots__ = (
        "former", "formers", "gone_at_s", "has_begun", "inherited", "is_kept", "is_owed", "is_taken", "mark",
        "rooms", "sid", "since", "superseded",
    )  # fmt: skip

    def __init__(self, sid: str, former: str = "") -> None:
        self.sid: str = sid
        self.former: str = former if LEGAL_SID.fullmatch(former) else ""
        self.superseded: tuple[ConnectionId, ...] = ()
        self.formers: tuple[ConnectionId, ...] = ()
        self.is_owed: bool = bool(self.former)
        self.gone_at_s: float | None = None
        self.has_begun: bool = False
        self.is_taken: bool = False
        self.is_kept: bool = False
        self.rooms: dict[str, bool] = {}
        self.inherited: frozenset[str] = frozenset()
        self.since: dict[str, int] = {}
        self.mark: int = 0

    def follows(self, *connection_ids: ConnectionId) -> None:
        """Note connections that had the session before."""
        self.formers = tuple(dict.fromkeys((*self.formers, *connection_ids)))


class Registration:
    """Rank, visit, stays and size of one connection.

    Attributes:
        stamp: Rank that the store gave to the claim; 0 until the store has answered.
        visit: The client's visit that the store has confirmed; "" if unknown. See ``ports.Claimed``.
        entered: Name of the stay in each room that the store has confirmed.
        doubted: Those of them that the store may have lost since, and has not confirmed again.
        size: Bytes of metadata and user data, as counted in the budget of memory.
        session: Its session; None for a socket without the subprotocol.
        revision: Number of changes of the metadata.
    """

    __slots__ = ("_stays", "doubted", "entered", "revision", "session", "size", "stamp", "visit")

    def __init__(self, size: int, session: Succession | None = None) -> None:
        self.stamp: int = 0
        self.visit: str = ""
        self._stays: dict[str, int] = {}  # the number of each stay, and above it the time of its begin in µs
        self.entered: dict[str, str] = {}
        self.doubted: dict[str, str] | None = None
        self.size: int = size
        self.session: Succession | None = session
        self.revision: int = 0

    def begin_stay(self, room: str, number: int, now_s: float) -> None:
        """Note that the connection enters a room. For the number see ``ports.IndexEntry``."""
        self._stays[room] = int(1_000_000 * now_s) << STAY_BITS | number

    def end_stay(self, room: str) -> None:
        """Note that the connection has left a room."""
        self._stays.pop(room, None)
        self._trust(room)

    def stay_in(self, room: str) -> int:
        """Return the number of the present stay in a room; 0 for none."""
        return self._stays.get(room, 0) & LARGEST_STAY

    def entered_at_s(self, room: str) -> float:
        """Return the monotonic time at which the present stay in a room began; 0 for none."""
        return (self._stays.get(room, 0) >> STAY_BITS) / 1_000_000

    @property
    def places(self) -> tuple[str, ...]:
        """The rooms with a stay."""
        return tuple(self._stays)

    def confirm_stay(self, room: str, name: str) -> None:
        """Note that the store has a stay."""
        self.entered[room] = name
        self._trust(room)

    def doubt_stays(self) -> None:
        """Note that the store may have lost the stays."""
        self.doubted = dict(self.entered) or None

    def _trust(self, room: str) -> None:
        if self.doubted is not None:
            self.doubted.pop(room, None)

    def forget_visit(self) -> dict[str, str]:
        """Forget all that the store has confirmed, except the rank; return the stays that it may have lost."""
        lost, self.doubted = self.doubted or {}, None
        self.visit = ""
        self.entered.clear()
        return lost


def registration_of(connection: Connection) -> Registration:
    """Return the record that ``Connections.connect`` has given to a connection."""
    record = connection.registration
    assert isinstance(record, Registration)  # the registry creates all connections
    return record


def session_in(connection: Connection, connection_id: ConnectionId) -> SessionName | None:
    """Return the name of the session that the store keeps for a connection; None if it keeps none."""
    session = registration_of(connection).session
    if session is None or not session.is_kept:
        return None
    return SessionName(connection.client_id, session.sid, connection_id)
