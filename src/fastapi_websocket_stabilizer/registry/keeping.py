"""Keeps the sessions of this node's connections in the store, where they outlive connection and node."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from ..backends.ports import KeptRoom, KeptSession, SessionName
from ..exceptions import LOSSES
from ..local.connection import Connection
from ..names import node_of
from ..runtime.loops import running_loop
from .registration import Succession, registration_of
from .state import NodeState

FRESH_S = 0.05
"""Seconds after a claim in which its answer counts. Later, the former connection may have begun to keep a session."""
MAX_UNGIVEN = 100_000
"""Names of sessions that wait for the return of Redis. More clients find no session when they come back."""


class Keeping:
    """Writes what happens in a session when it happens.

    A session that has nothing to keep costs no command. While Redis is away, changes stay on this node, and a later
    beat writes them.
    """

    def __init__(self, state: NodeState) -> None:
        self._state, self._store = state, state.backend.sessions
        self._marking: set[Connection] = set()
        # Sessions with changes that Redis did not accept. Each beat writes them again.
        self._unwritten: set[Connection] = set()
        # Names that clients know, and the one that Redis has instead because it did not answer.
        self._ungiven: dict[SessionName, str] = {}

    @property
    def unwritten(self) -> int:
        """Number of sessions with changes that Redis did not accept."""
        return len(self._unwritten) + len(self._ungiven)

    async def take(self, connection: Connection) -> None:
        """Take over the session that a new connection continues, if there is one.

        Most clients that come back have left none. Their claim has shown that, and this costs no command.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        session = registration_of(connection).session
        if session is not None and session.is_owed:
            kept = None
            if not _is_gone(session):
                self._state.check_reachable()
                kept = await self._ask(connection, session, None)
            await self._got(connection, session, kept)
            session.is_taken = kept is not None

    async def take_later(self, connection: Connection) -> None:
        """Take over a session for which Redis could not be asked at the connect.

        The client may have been told that it got no session, and then numbers its messages anew. So the mark of the
        former connection does not count.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        session = registration_of(connection).session
        if session is not None and session.is_owed:
            await self._got(connection, session, await self._ask(connection, session, session.mark))

    async def _ask(self, connection: Connection, session: Succession, mark: int | None) -> KeptSession | None:
        name = self._name(connection, session)
        return await self._store.take(session.former, name, self._state.session_ttl_ms, mark=mark)

    async def _got(self, connection: Connection, session: Succession, kept: KeptSession | None) -> None:
        """Note the outcome of a takeover, and hold the session."""
        session.is_owed = False
        self._state.counters.sessions_taken += kept is not None
        self._state.counters.sessions_gone += kept is None
        if kept is not None:
            session.follows(kept.holder)
        # A connection that has ended since was released before its session is held: it expires by itself.
        if kept is not None and (kept.rooms or kept.mark) and connection.ended is None:
            entered, since = _known(kept.rooms)
            session.rooms, session.since = entered | session.rooms, since | session.since
            session.inherited = frozenset(entered)
            session.mark = max(session.mark, kept.mark)
            await self._begin(connection, session)
        if connection in self._unwritten:  # a room that was joined in the meantime
            await self.again(connection)
            self._unwritten.discard(connection)

    async def revoked(self, connection: Connection, kept: Iterable[str]) -> list[str]:
        """Return those of the rooms ``kept`` of a session that were removed from it elsewhere, and forget them.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        session = registration_of(connection).session
        if session is None or not session.is_kept:
            return []
        name = self._name(connection, session)
        found = await self._store.take(session.sid, name, self._state.session_ttl_ms)
        entered = {} if found is None else _known(found.rooms)[0]
        gone = [room for room in kept if room not in entered]
        return [room for room in gone if session.rooms.pop(room, None) is not None]

    async def note(self, connection: Connection, room: str, *, by_client: bool) -> None:
        """Keep a room that a connection has entered."""
        session = registration_of(connection).session
        if session is None or connection.ended is not None or room in session.rooms:
            return
        session.rooms[room] = by_client
        since = session.since.get(room)
        await self._write(
            connection, session, lambda name: self._store.note(name, room, by_client=by_client, since=since)
        )

    async def note_position(self, connection: Connection, room: str, position: int) -> None:
        """Keep the position of a log of which a connection has become a member; with "" that of everybody's log."""
        session = registration_of(connection).session
        if session is None or connection.ended is not None or (room and room not in connection.rooms):
            return
        since = session.since.setdefault(room, position)
        await self._write(
            connection, session, lambda name: self._store.note(name, room, by_client=None, since=since)
        )

    def has_room(self, connection: Connection, room: str) -> bool:
        """Whether the session of a connection has a room, which is not left or revoked on this node since."""
        session = registration_of(connection).session
        return session is not None and room in session.rooms

    def forgetting(self, connection: Connection, room: str) -> "asyncio.Task[None] | None":
        """Keep a room no longer, from this call on; return the write, or None if there is nothing to write.

        The write goes on if the caller does not wait for it.
        """
        session = registration_of(connection).session
        if session is None:
            return None
        had = session.rooms.pop(room, None), session.since.pop(room, None)
        if had == (None, None):
            return None
        write = self._write(connection, session, lambda name: self._store.forget(name, room))
        return self._state.tasks.spawn(write, "forget")

    async def forget(self, connection: Connection, room: str) -> None:
        """Keep a room no longer, because the connection has left it."""
        task = self.forgetting(connection, room)
        if task is not None:
            await asyncio.shield(task)

    async def forget_others(self, connection: Connection) -> None:
        """Keep no positions of rooms that a connection is not in, although its former one was.

        A later membership begins at its own position.
        """
        session = registration_of(connection).session
        others = set() if session is None else session.since.keys() - connection.rooms - {""}
        await asyncio.gather(*(self.forget(connection, room) for room in others))

    async def _write(
        self, connection: Connection, session: Succession, write: Callable[[SessionName], Awaitable[object]]
    ) -> None:
        """Write a change now, or with a later beat. Before the takeover it would hide the former session."""
        if session.is_owed:
            self._later(connection)
            return
        try:
            self._state.check_reachable()
            await self._begin(connection, session)
            await write(self._name(connection, session))
        except LOSSES:
            self._later(connection)

    def _later(self, connection: Connection) -> None:
        """Write a session with a later beat, unless its connection has ended: then it is not written any more."""
        if connection.ended is None:
            self._unwritten.add(connection)

    async def give_back(self, connection: Connection) -> None:
        """Give a session the former name again, the only one that the client knows: it has got no first frame.

        Call it at the end of each connection. Its changes that Redis did not accept are dropped.
        """
        self._unwritten.discard(connection)
        session = registration_of(connection).session
        if session is None or session.has_begun or not session.former:
            return
        if session.is_kept or session.is_owed:  # a takeover without an answer may have been executed
            former = SessionName(connection.client_id, session.former, connection.connection_id)
            try:
                self._state.check_reachable()
                await self._store.take(session.sid, former, self._state.session_ttl_ms)
            except LOSSES:
                self._ungiven[former] = session.sid
                if len(self._ungiven) > MAX_UNGIVEN:
                    del self._ungiven[next(iter(self._ungiven))]
                    self._state.counters.sessions_dropped += 1

    def mark(self, connection: Connection, number: int) -> None:
        """Keep the number of a handled message. Numbers that come during the write of another one share a call."""
        session = registration_of(connection).session
        if session is None or number <= session.mark:
            return
        session.mark = number
        if session.is_owed:
            self._later(connection)
        elif connection not in self._marking:
            self._marking.add(connection)
            task = self._state.tasks.spawn(self._mark(connection, session), "mark")
            task.add_done_callback(lambda _: self._marking.discard(connection))

    async def _mark(self, connection: Connection, session: Succession) -> None:
        """Write the mark, also if the connection has ended: the handler of a message may end its own connection.

        A new session counts as kept once it has its mark. Before that, a release would find it empty, and remove it.
        """
        written = 0
        try:
            while written < session.mark:
                written, is_new, name = session.mark, not session.is_kept, self._name(connection, session)
                self._state.check_reachable()
                if is_new:
                    self._state.counters.sessions_kept += 1
                    await self._store.begin(name)
                await self._store.mark(name, written)
                if is_new and connection.ended is None:
                    session.is_kept = True
                elif is_new:
                    await self._store.release(name, self._state.session_ttl_ms)
                    await self._state.backend.nodes.forget(node_of(name.connection_id), [name.line])
        except LOSSES:
            self._later(connection)

    async def repeat(self) -> None:
        """Write the pending changes again.

        Raises:
            BackendUnavailableError: Redis does not answer. The rest stays pending.
        """
        for connection in tuple(self._unwritten):
            if _is_owed(connection):
                continue
            await self.again(connection)
            self._unwritten.discard(connection)
        for former, sid in tuple(self._ungiven.items()):
            await self._store.take(sid, former, self._state.session_ttl_ms)
            self._ungiven.pop(former, None)

    async def again(self, connection: Connection) -> None:
        """Write a session that Redis may have lost, or that is held under a former id of its connection.

        Rooms that are not joined yet are not written. They may have been revoked since the takeover.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        session = registration_of(connection).session
        if session is None or connection.ended is not None:
            return
        if not (session.is_kept or session.rooms or session.since or session.mark):
            return
        session.is_kept = False
        await self._begin(connection, session)
        name = self._name(connection, session)
        kept = await self._store.take(session.sid, name, self._state.session_ttl_ms)
        known = session.rooms.keys() | session.since.keys()
        left = [] if kept is None else kept.rooms.keys() - known
        await asyncio.gather(
            *(self._store.forget(name, room) for room in left),
            *(
                self._store.note(name, room, by_client=session.rooms.get(room), since=session.since.get(room))
                for room in known
                if not room or room in connection.rooms
            ),
            self._store.mark(name, session.mark),
        )

    async def renew(self, connection: Connection) -> None:
        """Write the session of a connection anew, because another connection has taken it."""
        try:
            self._state.check_reachable()
            await self.again(connection)
        except LOSSES:
            self._later(connection)

    async def _begin(self, connection: Connection, session: Succession) -> None:
        if not session.is_kept:
            session.is_kept = True  # from now on the release of the connection releases the session
            self._state.counters.sessions_kept += 1
            await self._store.begin(self._name(connection, session))

    @staticmethod
    def _name(connection: Connection, session: Succession) -> SessionName:
        return SessionName(connection.client_id, session.sid, connection.connection_id)


def _known(kept: Mapping[str, KeptRoom]) -> tuple[dict[str, bool], dict[str, int]]:
    """Return who entered rooms, and the positions at which the client became a member, as far as both are known."""
    entered = {room: found.by_client for room, found in kept.items() if found.by_client is not None}
    return entered, {room: found.since for room, found in kept.items() if found.since is not None}


def _is_gone(session: Succession) -> bool:
    """Whether the claim has just shown that the former session is not kept."""
    return session.gone_at_s is not None and running_loop().time() - session.gone_at_s < FRESH_S


def _is_owed(connection: Connection) -> bool:
    """Whether the takeover of the session comes first."""
    session = registration_of(connection).session
    return session is not None and session.is_owed and connection.ended is None
