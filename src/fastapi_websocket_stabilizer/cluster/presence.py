"""Presence events: built the same way wherever they are noticed, so that a repeated one has the same id."""

from collections.abc import Callable, Coroutine
from typing import Any

from ..models import PresenceEvent
from ..names import ConnectionId, node_of
from ..ports import PresenceStore

Announcer = Callable[[PresenceEvent], Coroutine[Any, Any, None]]


def client_joined(client_id: str, connection_id: ConnectionId) -> PresenceEvent:
    """The client's first connection."""
    return PresenceEvent(
        f"{connection_id}:joined", "joined", client_id, connection_id, None, node_of(connection_id)
    )


def client_left(client_id: str, connection_id: ConnectionId) -> PresenceEvent:
    """The client's last connection is gone."""
    return PresenceEvent(
        f"{connection_id}:left", "left", client_id, connection_id, None, node_of(connection_id)
    )


def room_joined(client_id: str, connection_id: ConnectionId, room: str, stay: int) -> PresenceEvent:
    """A connection entered a room."""
    event_id = f"{connection_id}:{stay}:joined:{room}"
    return PresenceEvent(event_id, "room_joined", client_id, connection_id, room, node_of(connection_id))


def room_left(client_id: str, connection_id: ConnectionId, room: str, stay: int) -> PresenceEvent:
    """A connection is no longer in a room."""
    event_id = f"{connection_id}:{stay}:left:{room}"
    return PresenceEvent(event_id, "room_left", client_id, connection_id, room, node_of(connection_id))


async def is_gone(presence: PresenceStore, client_id: str) -> bool:
    """Whether a client has no entry; asked where its last entry may have been removed by somebody who then died."""
    (entries,) = await presence.entries([client_id])
    return not entries
