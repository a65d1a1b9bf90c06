"""Sessions in one process, with the bounds and expiry of the scripts in ``redis/lua``."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from ..names import ConnectionId
from ..runtime.metrics import Counters
from .ports import (
    SESSION_BYTES,
    SESSIONS_PER_CLIENT,
    IndexEntry,
    KeptRoom,
    KeptSession,
    SessionName,
    size_of_kept,
)


@dataclass(slots=True)
class Held:
    """One session. ``ends_us`` is None while a connection holds it."""

    holder: ConnectionId
    began_us: int
    ends_us: int | None = None
    mark: int = 0
    rooms: dict[str, KeptRoom] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The bytes of the names of its rooms."""
        return sum(map(size_of_kept, self.rooms))


class MemorySessions:
    """``ports.SessionStore``, on the sessions of a hub."""

    def __init__(
        self,
        content: dict[str, dict[str, Held]],
        lock: AbstractContextManager[Any],
        now_us: Callable[[], int],
        counters: Counters,
        write_index: Callable[[IndexEntry], None],
    ) -> None:
        self._content, self._lock, self._now_us = content, lock, now_us
        self._counters, self._write_index = counters, write_index

    async def take(
        self, former: str, session: SessionName, ttl_ms: int, *, mark: int | None = None
    ) -> KeptSession | None:
        with self._lock:
            found = self._of(session.client_id)
            held = found.get(session.sid) or found.get(former)
            if held is None:
                return None
            holder, held.mark = held.holder, held.mark if mark is None else mark
            if session.sid not in found:
                found[session.sid] = found.pop(former)
                held.holder, held.ends_us = session.connection_id, self._now_us() + 1000 * ttl_ms
            return KeptSession(dict(held.rooms), held.mark, holder)

    async def begin(self, session: SessionName) -> None:
        with self._lock:
            self._write_index(session.line)
            held = self._of(session.client_id).get(session.sid)
            if held is not None:
                held.holder, held.ends_us = session.connection_id, None
                return
            found = self._content.setdefault(session.client_id, self._of(session.client_id))
            oldest = sorted(found, key=lambda sid: (found[sid].ends_us is None, found[sid].began_us, sid))
            for sid in oldest[: max(0, len(found) + 1 - SESSIONS_PER_CLIENT)]:
                del found[sid]
                self._counters.sessions_dropped += 1
            found[session.sid] = Held(session.connection_id, self._now_us())

    async def note(
        self, session: SessionName, room: str, *, by_client: bool | None, since: int | None = None
    ) -> bool:
        with self._lock:
            held = self._of(session.client_id).get(session.sid)
            if held is None:
                return False
            if room not in held.rooms and held.bytes + size_of_kept(room) > SESSION_BYTES:
                self._counters.session_rooms_dropped += 1
                return False
            kept = held.rooms.get(room, KeptRoom(None))
            held.rooms[room] = KeptRoom(
                by_client if kept.by_client is None else kept.by_client,
                since if kept.since is None else kept.since,
            )
            return True

    async def forget(self, session: SessionName, room: str) -> None:
        with self._lock:
            held = self._of(session.client_id).get(session.sid)
            if held is not None:
                held.rooms.pop(room, None)

    async def mark(self, session: SessionName, number: int) -> None:
        with self._lock:
            held = self._of(session.client_id).get(session.sid)
            if held is not None:
                held.mark = max(held.mark, number)

    async def revoke(self, client_id: str, room: str) -> bool:
        with self._lock:
            had = [held.rooms.pop(room, None) for held in self._of(client_id).values()]
            return any(kept is not None for kept in had)

    async def end_all(self, client_id: str) -> bool:
        with self._lock:
            had = bool(self._of(client_id))
            self._content.pop(client_id, None)
            return had

    async def release(self, session: SessionName, ttl_ms: int) -> None:
        with self._lock:
            found = self._of(session.client_id)
            held = found.get(session.sid)
            if held is None or held.holder != session.connection_id:
                return
            if ttl_ms == 0 or not (held.rooms or held.mark):
                del found[session.sid]
            elif held.ends_us is None:
                held.ends_us = self._now_us() + 1000 * ttl_ms
            if not found:
                self._content.pop(session.client_id, None)

    def _of(self, client_id: str) -> dict[str, Held]:
        """Return the sessions of a client by sid, after the removal of those that have expired."""
        found, now_us = self._content.get(client_id, {}), self._now_us()
        for sid in [
            sid for sid, held in found.items() if held.ends_us is not None and held.ends_us <= now_us
        ]:
            del found[sid]
        if not found:
            self._content.pop(client_id, None)
        return found
