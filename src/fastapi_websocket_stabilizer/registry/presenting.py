"""Members and metadata that rooms show to clients that watch them. See ``backends/rosters``."""

from ..backends.ports import IndexEntry
from ..backends.rosters import Shown
from ..local.connection import Connection
from ..names import ConnectionId
from ..wire.own_json import encode_json
from .registration import registration_of
from .state import NodeState


async def show(
    state: NodeState, connection: Connection, connection_id: ConnectionId, room: str, replaces: str = ""
) -> None:
    """Show a member, or its newer metadata, if clients may watch the room.

    Raises:
        BackendUnavailableError: Redis did not answer.
    """
    if not state.may_be_watched(room):
        return
    stay = registration_of(connection).stays.get(room, 0)
    shown = Shown(room, connection.client_id, connection_id, stay)
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
