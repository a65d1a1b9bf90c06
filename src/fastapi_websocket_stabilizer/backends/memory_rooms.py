"""The members of rooms in one process, with the semantics of the scripts in ``redis/lua``."""

import re
from contextlib import AbstractContextManager
from typing import Any

from ..exceptions import InvalidCursorError
from ..names import ConnectionId, NodeId, node_of
from .ports import IndexEntry, Removed


class MemoryRooms:
    """``ports.RoomStore``, on the rooms of a hub."""

    def __init__(
        self,
        rooms: dict[str, dict[ConnectionId, IndexEntry]],
        index: dict[NodeId, dict[IndexEntry, None]],
        unreported: dict[str, str],
        lock: AbstractContextManager[Any],
    ) -> None:
        self._rooms, self._index, self._unreported, self._lock = rooms, index, unreported, lock

    async def join(self, place: IndexEntry, *, replaces: str = "", is_known: bool = False) -> bool:
        with self._lock:
            members = self._rooms.setdefault(place.room or "", {})
            is_new = place.connection_id not in members
            was_there = members.pop(ConnectionId(replaces), None) is not None
            members[place.connection_id] = place
            index = self._index.setdefault(node_of(place.connection_id), {})
            index.pop(place, None)  # else an equal line of an earlier stay would keep its ``stay``
            index[place] = None
            if is_new and not was_there and not is_known:
                self._unreported[place.event("joined")] = ""
            return not is_known and place.event("joined") in self._unreported

    async def leave(self, place: IndexEntry) -> Removed:
        room, left = place.room or "", place.event("left")
        with self._lock:
            members, unreported = self._rooms.get(room, {}), self._unreported
            there = members.get(place.connection_id)
            if there is not None and there.stay == place.stay:
                del members[place.connection_id]
                unreported[left] = ""
            if not members:
                self._rooms.pop(room, None)
            joined = place.stay_id if place.event("joined") in unreported else ""
            return Removed(left in unreported, joined, place.stay_id if left in unreported else "")

    async def members(self, room: str, cursor: str, limit: int) -> tuple[list[tuple[ConnectionId, str]], str]:
        if cursor and not re.fullmatch(r".+\.[0-9]+", cursor):  # the last connection_id of the page before
            raise InvalidCursorError(f"cursor must be page.cursor, got {cursor!r}")
        with self._lock:
            places = self._rooms.get(room, {}).values()
            found = sorted((p.connection_id, p.client_id) for p in places if p.connection_id > cursor)
        return found[:limit], found[limit - 1][0] if len(found) > limit else ""

    async def is_empty(self, room: str) -> bool:
        with self._lock:
            return not self._rooms.get(room)

    async def counts(self, room: str) -> dict[NodeId, int]:
        counts: dict[NodeId, int] = {}
        with self._lock:
            for connection_id in self._rooms.get(room, {}):
                counts[node_of(connection_id)] = counts.get(node_of(connection_id), 0) + 1
        return counts
