"""The places of a connection in the registry: in presence, in rooms, and its session."""

from collections.abc import Iterable

from ..backends.ports import IndexEntry, Removed, SessionName
from ..local.connection import Connection
from ..names import ConnectionId
from .presenting import hide
from .registration import Succession, registration_of, session_in
from .state import NodeState

NO_SESSION = Succession("")
"""The session of sockets that have none."""


async def remove(state: NodeState, place: IndexEntry) -> Removed:
    """Remove a place in a room, or in presence. A session is released: it is there for the next connection."""
    if place.room is None:
        return await state.backend.presence.release(place.client_id, place.connection_id)
    if place.sid:
        name = SessionName(place.client_id, place.sid, place.connection_id)
        await state.backend.sessions.release(name, state.session_ttl_ms)
        return Removed(was_there=False, joined="", left="")
    removed = await state.backend.rooms.leave(place)
    await hide(state, place)
    return removed


def place_in(connection: Connection, connection_id: ConnectionId, room: str) -> IndexEntry:
    """Return a connection's place in a room."""
    registration = registration_of(connection)
    stay, entered = registration.stay_in(room), registration.entered.get(room, "")
    return IndexEntry(connection_id, connection.client_id, room, stay, entered)


def lines_of(connection: Connection, connection_id: ConnectionId, rooms: Iterable[str]) -> list[IndexEntry]:
    """Return the places to remove when a connection ends: those in rooms, its session, then that in presence."""
    places = [place_in(connection, connection_id, room) for room in rooms]
    if (session := session_in(connection, connection_id)) is not None:
        places.append(session.line)
    visit = registration_of(connection).visit
    return [*places, IndexEntry(connection_id, connection.client_id, None, visit=visit)]


def sid_of(connection: Connection) -> str:
    """Return the name of a connection's session; "" if it has none."""
    return (registration_of(connection).session or NO_SESSION).sid
