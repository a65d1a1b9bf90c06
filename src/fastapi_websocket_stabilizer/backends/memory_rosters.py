"""Members of rooms, as clients see them, in one process, with the semantics of the scripts in ``redis/lua``."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from ..names import ConnectionId
from ..wire.channels import Channel
from ..wire.envelopes import Envelope
from .ports import IndexEntry
from .rosters import RosterRead, Shown


@dataclass(slots=True)
class ShownRoom:
    """The members of one room: the stays and the metadata of each client."""

    version: int = 0
    stays: dict[str, dict[ConnectionId, int]] = field(default_factory=dict)
    metadata: dict[str, bytes] = field(default_factory=dict)


class MemoryRosters:
    """``rosters.RosterStore``, on the rooms of a hub."""

    def __init__(
        self,
        rooms: dict[str, ShownRoom],
        lock: AbstractContextManager[Any],
        now_us: Callable[[], int],
        publish: Callable[[Channel, Envelope], int],
        write_index: Callable[[IndexEntry], None],
    ) -> None:
        self._rooms, self._lock, self._now_us, self._publish = rooms, lock, now_us, publish
        self._write_index = write_index

    async def enter(self, shown: Shown, metadata: bytes, notice: Envelope, *, replaces: str = "") -> int:
        with self._lock:
            self._write_index(
                IndexEntry(shown.connection_id, shown.client_id, shown.room, shown.stay, shown.visit)
            )
            room = self._rooms.setdefault(shown.room, ShownRoom())
            stays = room.stays.setdefault(shown.client_id, {})
            stays.pop(ConnectionId(replaces), None)
            stays[shown.connection_id] = shown.stay
            if room.metadata.get(shown.client_id) == metadata:
                return 0
            room.metadata[shown.client_id] = metadata
            return self._raise(room, shown, notice)

    async def leave(self, shown: Shown, notice: Envelope) -> int:
        with self._lock:
            room = self._rooms.get(shown.room, ShownRoom())
            stays = room.stays.get(shown.client_id, {})
            if stays.get(shown.connection_id) != shown.stay:
                return 0
            del stays[shown.connection_id]
            if stays:
                return 0
            del room.stays[shown.client_id], room.metadata[shown.client_id]
            if not room.stays:
                del self._rooms[shown.room]
            return self._raise(room, shown, notice)

    def _raise(self, room: ShownRoom, shown: Shown, notice: Envelope) -> int:
        room.version = version = room.version + 1 if room.version else self._now_us()
        self._publish(Channel("room", shown.room), replace(notice, entry=(version, version - 1)))
        return version

    async def read(self, room: str) -> RosterRead:
        with self._lock:
            found = self._rooms.get(room, ShownRoom())
            return RosterRead(found.version, dict(found.metadata))
