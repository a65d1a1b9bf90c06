"""What the contract suites share: names that must not collide, and short ways to say a claim or an index."""

from collections.abc import Iterable

from fastapi_websocket_stabilizer.backends.ports import Backend, Claim, IndexEntry, RoomStore
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId

AWKWARD_NAMES = (
    "a",
    "A",
    "a*",
    "*",
    "?",
    "[a]",
    "{a}",
    "{}",
    "}{",
    "a:b",
    "a:",
    ":a",
    "a.b",
    ".",
    "a b",
    " ",
    "a ",
    "room:a",
    "client:a",
    "ä",
    "a\u0308",
    "日本",
    "🦊",
    "-1",
    "0",
)
"""Legal names that a careless key, pattern or separator would take for one another."""


def claim(connection_id: str, client_id: str = "alice", *, top: int = 1, stamp: int = 0) -> Claim:
    return Claim(client_id, ConnectionId(connection_id), top, connection_id.encode(), stamp)


def place(connection_id: str, room: str = "lobby", client_id: str = "alice", stay: int = 1) -> IndexEntry:
    return IndexEntry(ConnectionId(connection_id), client_id, room, stay)


async def holders(backend: Backend, client_id: str = "alice") -> list[str]:
    """Return the client's connections, the newest first."""
    return [entry.connection_id for entry in (await backend.presence.entries([client_id]))[0]]


async def lines(backend: Backend, node: NodeId) -> set[IndexEntry]:
    """Return a node's whole index."""
    found: set[IndexEntry] = set()
    for read in (backend.nodes.connections, backend.nodes.memberships):
        cursor, is_over = "", False
        while not is_over:
            page, cursor = await read(node, cursor, 100)
            found.update(page)
            is_over = not cursor
    return found


async def rest_of(rooms: RoomStore, room: str, cursor: str, limit: int) -> list[str]:
    """Return the connections on all pages from ``cursor`` on."""
    found: list[str] = []
    is_over = False
    while not is_over:
        page, cursor = await rooms.members(room, cursor, limit)
        assert len(page) <= limit
        found += [connection_id for connection_id, _ in page]
        is_over = not cursor
    return found


async def fill(rooms: RoomStore, room: str, numbers: Iterable[int]) -> list[str]:
    """Put clients ``c<number>`` in a room; return their connections."""
    ids = [ConnectionId(f"n{number % 3}.{number}") for number in numbers]
    for connection_id in ids:
        await rooms.join(place(connection_id, room, f"c{connection_id}"))
    return list(ids)
