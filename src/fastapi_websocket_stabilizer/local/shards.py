"""The sockets and rooms of this node, in shards.

A shard is a unit of *work*: a fan-out lets other work run between two shards. It is not a unit of locking. On one
event loop a change without an ``await`` is atomic, so nothing here locks. Readers on other threads (the synchronous
getters) copy a dict in one step, which the GIL makes atomic.
"""

from collections.abc import Iterable, Iterator

from ..names import ConnectionId
from .connection import Connection

Connections = dict[ConnectionId, Connection]
MAIL = "\0"
"""Name of the mailbox of a connection's client, where other names are rooms. No room has it."""


class Shard:
    """The connections of some clients, selected by a hash of the client id."""

    __slots__ = ("clients", "connections", "held", "rooms")

    def __init__(self) -> None:
        self.connections: Connections = {}
        # By room, "" for everybody, MAIL: no targets of a fan-out, and whether they are because they read too slowly.
        self.held: dict[str, dict[Connection, bool]] = {}
        self.clients: dict[str, Connections] = {}
        self.rooms: dict[str, Connections] = {}

    def everybody(self) -> Iterable[Connection]:
        """Return the targets of a message to everybody."""
        held = self.held.get("")
        connections = self.connections.values()
        return connections if held is None else [each for each in connections if each not in held]

    def holds(self, connection: Connection, rooms: Iterable[str]) -> bool:
        """Whether a connection is held out of the fan-out to these rooms, or without rooms of that to everybody."""
        return bool(self.held) and any(connection in self.held.get(room, ()) for room in rooms or ("",))

    def behind(self, rooms: Iterable[str]) -> int:
        """Return the number of members of rooms that are held because they read too slowly. See ``holds``."""
        held = [self.held.get(room, {}) for room in rooms or ("",)]
        return len([each for those in held for each, is_behind in those.items() if is_behind])


class Shards:
    """Every connection of this node, by client, by connection id and by room."""

    def __init__(self, count: int) -> None:
        self._shards = tuple(Shard() for _ in range(count))
        self._by_id: Connections = {}  # in order of registration
        self._room_sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._by_id.values()))

    def __contains__(self, connection: Connection) -> bool:
        return self._by_id.get(connection.connection_id) is connection

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self._shards

    def of(self, client_id: str) -> Shard:
        return self._shards[hash(client_id) % len(self._shards)]

    def get(self, connection_id: ConnectionId) -> Connection | None:
        return self._by_id.get(connection_id)

    def of_client(self, client_id: str) -> list[Connection]:
        """Return the client's connections, the newest last."""
        return list(self.of(client_id).clients.get(client_id, {}).values())

    def newest(self, client_id: str) -> Connection | None:
        """Return the client's newest connection, if any."""
        connections = self.of(client_id).clients.get(client_id)
        return next(reversed(connections.values())) if connections else None

    def opened_at(self, client_id: str) -> float:
        """Return the monotonic time at which the client's oldest socket was opened, or 0.0 without a socket."""
        connections = self.of(client_id).clients.get(client_id)
        return next(iter(connections.values())).opened_at_s if connections else 0.0

    def client_ids(self) -> list[str]:
        return [client_id for shard in self._shards for client_id in tuple(shard.clients)]

    def has_client(self, client_id: str) -> bool:
        return client_id in self.of(client_id).clients

    def add(self, connection: Connection) -> None:
        shard = self.of(connection.client_id)
        shard.connections[connection.connection_id] = connection
        shard.clients.setdefault(connection.client_id, {})[connection.connection_id] = connection
        self._by_id[connection.connection_id] = connection
        for room in connection.rooms:
            self._enter(room, connection)

    def remove(self, connection: Connection) -> bool:
        """Remove a connection and its memberships from the tables. Return False if it was not listed.

        The connection keeps its own set of rooms.
        """
        if connection not in self:
            return False
        shard = self.of(connection.client_id)
        del self._by_id[connection.connection_id]
        del shard.connections[connection.connection_id]
        _discard(shard.clients, connection.client_id, connection.connection_id)
        for room in connection.rooms:
            self._exit(room, connection)
        for log in ("", MAIL):
            self._let_go(shard, log, connection)
        return True

    def rename(self, connection: Connection, connection_id: ConnectionId) -> None:
        """Change the id of a connection, in one step."""
        held = [
            (room, those[connection])
            for room, those in self.of(connection.client_id).held.items()
            if connection in those
        ]
        self.remove(connection)
        connection.rename(connection_id)
        self.add(connection)
        for room, is_behind in held:
            self.hold(connection, room, is_behind=is_behind)

    def join(self, connection: Connection, room: str) -> bool:
        """Add a connection to a room. Return False if it was a member."""
        if room in connection.rooms:
            return False
        connection.rooms.add(room)
        self._enter(room, connection)
        return True

    def leave(self, connection: Connection, room: str) -> bool:
        """Remove a connection from a room. Return False if it was no member."""
        if room not in connection.rooms:
            return False
        connection.rooms.discard(room)
        self._exit(room, connection)
        return True

    # Members that wait for the history of a room

    def hold(self, connection: Connection, room: str, *, is_behind: bool = False) -> None:
        """Keep a member of a room out of the fan-out to it.

        With "" it is kept out of that to everybody, and with ``MAIL`` out of that of stored messages to its client.
        ``is_behind``: It is a member already, and reads too slowly.
        """
        shard = self.of(connection.client_id)
        if connection in self and connection not in shard.held.get(room, ()):
            shard.held.setdefault(room, {})[connection] = is_behind
            if room and room != MAIL:
                _discard(shard.rooms, room, connection.connection_id)

    def release(self, connection: Connection, room: str) -> None:
        """Undo ``hold``. A no-op if the connection has left."""
        shard = self.of(connection.client_id)
        if self._let_go(shard, room, connection) and room and room != MAIL:
            shard.rooms.setdefault(room, {})[connection.connection_id] = connection

    def is_target(self, connection: Connection, rooms: Iterable[str]) -> bool:
        """Whether a fan-out to these rooms, or without rooms to everybody, reaches a connection."""
        holds = self.of(connection.client_id).holds
        if not rooms:
            return not holds(connection, ())
        return any(room in connection.rooms and not holds(connection, (room,)) for room in rooms)

    def fed(self, room: str) -> list[Connection]:
        """Return the targets of a message to a room, or with "" to everybody."""
        found: list[Connection] = []
        for shard in self._shards:
            found += shard.rooms.get(room, {}).values() if room else shard.everybody()
        return found

    @staticmethod
    def _let_go(shard: Shard, room: str, connection: Connection) -> bool:
        """Forget that a connection is held. Return False if it was not."""
        held = shard.held.get(room, {})
        if connection not in held:
            return False
        del held[connection]
        if not held:
            del shard.held[room]
        return True

    def _enter(self, room: str, connection: Connection) -> None:
        self.of(connection.client_id).rooms.setdefault(room, {})[connection.connection_id] = connection
        self._room_sizes[room] = self._room_sizes.get(room, 0) + 1

    def _exit(self, room: str, connection: Connection) -> None:
        shard = self.of(connection.client_id)
        if not self._let_go(shard, room, connection):
            _discard(shard.rooms, room, connection.connection_id)
        self._room_sizes[room] -= 1
        if not self._room_sizes[room]:
            del self._room_sizes[room]

    @property
    def rooms(self) -> dict[str, int]:
        """Rooms with members on this node, and the number of these members."""
        return self._room_sizes


def _discard(table: dict[str, Connections], key: str, connection_id: ConnectionId) -> None:
    members = table[key]
    del members[connection_id]
    if not members:
        del table[key]
