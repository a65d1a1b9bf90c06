"""``ports.SessionStore`` on Redis. All sessions of a client are one hash, in the slot of its presence."""

from ...names import ConnectionId, node_of
from ...runtime.metrics import Counters
from ..ports import SESSION_BYTES, SESSIONS_PER_CLIENT, KeptSession, SessionName, size_of_kept
from . import reading, scripts
from .keys import Keys
from .ports import CommandConnection
from .reading import Reader
from .stores import IndexLine

UNKNOWN = "-"
"""An unknown value of a room in its session."""


class RedisSessions:
    """``ports.SessionStore``."""

    def __init__(self, keys: Keys, pipeline: CommandConnection, reader: Reader, counters: Counters) -> None:
        self._keys, self._pipeline, self._reader, self._counters = keys, pipeline, reader, counters

    async def take(
        self, former: str, session: SessionName, ttl_ms: int, *, mark: int | None = None
    ) -> KeptSession | None:
        found: list[bytes] = await self._pipeline.call(
            scripts.SESSION_TAKE,
            self._key(session),
            former,
            session.sid,
            session.connection_id,
            ttl_ms * 1000,
            "" if mark is None else mark,
            idempotent=True,
        )
        if not found:
            return None
        number, holder, *rooms = found
        kept = dict(self._reader.each(reading.kept_room, rooms))
        return KeptSession(kept, int(number), ConnectionId(holder.decode(errors="replace")))

    async def begin(self, session: SessionName) -> None:
        index = self._keys.memberships(node_of(session.connection_id))
        field = f"{session.connection_id} {session.line.room}"
        line = IndexLine(self._pipeline, index, field, f"0 {session.client_id}")
        if not self._pipeline.is_ordered:
            await line.is_written()
        dropped: int = await self._pipeline.call(
            scripts.SESSION_BEGIN,
            self._key(session),
            session.sid,
            session.connection_id,
            SESSIONS_PER_CLIENT,
            idempotent=True,
        )
        self._counters.sessions_dropped += dropped
        await line.is_written()

    async def note(
        self, session: SessionName, room: str, *, by_client: bool | None, since: int | None = None
    ) -> bool:
        kept: int = await self._pipeline.call(
            scripts.SESSION_NOTE,
            self._key(session),
            session.sid,
            room,
            UNKNOWN if by_client is None else int(by_client),
            UNKNOWN if since is None else since,
            SESSION_BYTES,
            size_of_kept(room),
            idempotent=True,
        )
        self._counters.session_rooms_dropped += kept == 0
        return kept == 1

    async def forget(self, session: SessionName, room: str) -> None:
        await self._pipeline.call(
            scripts.SESSION_FORGET,
            self._key(session),
            session.sid,
            room,
            size_of_kept(room),
            idempotent=True,
        )

    async def mark(self, session: SessionName, number: int) -> None:
        await self._pipeline.call(
            scripts.SESSION_MARK, self._key(session), session.sid, number, idempotent=True
        )

    async def revoke(self, client_id: str, room: str) -> bool:
        keys = [self._keys.sessions(client_id)]
        call = self._pipeline.call(scripts.SESSION_REVOKE, keys, room, size_of_kept(room), idempotent=True)
        return bool(await call)

    async def end_all(self, client_id: str) -> bool:
        return bool(await self._pipeline.send("UNLINK", self._keys.sessions(client_id), idempotent=True))

    async def release(self, session: SessionName, ttl_ms: int) -> None:
        await self._pipeline.call(
            scripts.SESSION_RELEASE,
            self._key(session),
            session.sid,
            session.connection_id,
            ttl_ms * 1000,
            idempotent=True,
        )

    def _key(self, session: SessionName) -> list[str]:
        return [self._keys.sessions(session.client_id)]
