"""Members and metadata that rooms show to clients that watch them. See ``backends/rosters``."""

from ..backends.ports import IndexEntry
from ..backends.rosters import Shown
from ..local.connection import Connection
from ..wire.own_json import encode_json
from .state import NodeState


async def show(state: NodeState, connection: Connection, place: IndexEntry, replaces: str = "") -> None:
    """Show a member, or its newer metadata, if clients may watch the room.

    Raises:
        BackendUnavailableError: Redis did not answer.
    """
    room = place.room
    if room is None or not state.may_be_watched(room):
        return
    shown = Shown(room, place.client_id, place.connection_id, place.stay, place.visit)
    metadata = encode_json(connection.metadata, "metadata")
    body = encode_json([connection.client_id, connection.metadata], "metadata").decode()
    notice = state.outgoing.presence(room, body)
    await state.backend.rosters.enter(shown, metadata, notice, replaces=replaces)


async def hide(state: NodeState, place: IndexEntry) -> None:
    """Show a member no more, if clients may watch the room and this was its last connection there.

    Raises:
        BackendUnavailableError: Redis did not answer.
    """
    if place.room is None or not state.may_be_watched(place.room):
        return
    shown = Shown(place.room, place.client_id, place.connection_id, place.stay)
    body = encode_json([place.client_id], "client").decode()
    await state.backend.rosters.leave(shown, state.outgoing.presence(place.room, body))
