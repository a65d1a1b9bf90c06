"""Keeps the sessions of this node's connections in the store, where they outlive connection and node."""

import asyncio

from ..backends.ports import SessionName
from ..exceptions import LOSSES
from ..local.connection import Connection
from ..names import node_of
from .registration import Succession, registration_of
from .state import NodeState


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

    @property
    def unwritten(self) -> int:
        """Number of sessions with changes that Redis did not accept."""
        return len(self._unwritten)

    async def take(self, connection: Connection) -> None:
        """Take over the session that a new connection continues, if there is one.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        session = registration_of(connection).session
        if session is None or not session.former:
            return
        self._state.check_reachable()
        name = self._name(connection, session)
        kept = await self._store.take(session.former, name, self._state.session_ttl_ms)
        session.is_taken = kept is not None
        self._state.counters.sessions_taken += session.is_taken
        self._state.counters.sessions_gone += not session.is_taken
        # A connection that has ended since was released before its session is held: it expires by itself.
        if kept is not None and (kept.rooms or kept.mark) and connection.ended is None:
            session.rooms = {room: found.by_client for room, found in kept.rooms.items()}
            session.since_us = {room: found.since_us for room, found in kept.rooms.items()}
            session.mark = kept.mark
            await self._begin(connection, session)

    async def revoked(self, connection: Connection) -> list[str]:
        """Return the rooms of a session that were removed from it elsewhere, and forget them.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        session = registration_of(connection).session
        if session is None or not session.is_kept:
            return []
        rooms = tuple(session.rooms)
        name = self._name(connection, session)
        kept = await self._store.take(session.sid, name, self._state.session_ttl_ms)
        gone = [room for room in rooms if kept is None or room not in kept.rooms]
        for room in gone:
            session.rooms.pop(room, None)
        return gone

    async def note(self, connection: Connection, room: str, *, by_client: bool) -> None:
        """Keep a room that a connection has entered."""
        session = registration_of(connection).session
        if session is None or connection.ended is not None or room in session.rooms:
            return
        session.rooms[room] = by_client
        try:
            self._state.check_reachable()
            await self._begin(connection, session)
            await self._store.note(self._name(connection, session), room, by_client=by_client)
        except LOSSES:
            self._unwritten.add(connection)

    async def forget(self, connection: Connection, room: str) -> None:
        """Keep a room no longer, because the connection has left it."""
        session = registration_of(connection).session
        if session is None or session.rooms.pop(room, None) is None:
            return
        try:
            self._state.check_reachable()
            await self._store.forget(self._name(connection, session), room)
        except LOSSES:
            self._unwritten.add(connection)

    async def give_back(self, connection: Connection) -> None:
        """Give a session the former name again, the only one that the client knows: it has got no first frame.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        session = registration_of(connection).session
        if session is not None and session.is_kept and not session.has_begun and session.former:
            former = SessionName(connection.client_id, session.former, connection.connection_id)
            await self._store.take(session.sid, former, self._state.session_ttl_ms)

    def mark(self, connection: Connection, number: int) -> None:
        """Keep the number of a handled message. Numbers that come during the write of another one share a call."""
        session = registration_of(connection).session
        if session is None or number <= session.mark:
            return
        session.mark = number
        if connection not in self._marking:
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
            self._unwritten.add(connection)

    async def repeat(self) -> None:
        """Write the pending changes again.

        Raises:
            BackendUnavailableError: Redis does not answer. The rest stays pending.
        """
        for connection in tuple(self._unwritten):
            await self.again(connection)
            self._unwritten.discard(connection)

    async def again(self, connection: Connection) -> None:
        """Write a session that Redis may have lost, or that is held under a former id of its connection.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        session = registration_of(connection).session
        if session is None or connection.ended is not None:
            return
        if not (session.is_kept or session.rooms or session.mark):
            return
        session.is_kept = False
        await self._begin(connection, session)
        name = self._name(connection, session)
        kept = await self._store.take(session.sid, name, self._state.session_ttl_ms)
        left = [] if kept is None else [room for room in kept.rooms if room not in session.rooms]
        await asyncio.gather(
            *(self._store.forget(name, room) for room in left),
            *(self._store.note(name, room, by_client=by) for room, by in session.rooms.items()),
            self._store.mark(name, session.mark),
        )

    async def _begin(self, connection: Connection, session: Succession) -> None:
        if not session.is_kept:
            session.is_kept = True  # from now on the release of the connection releases the session
            self._state.counters.sessions_kept += 1
            await self._store.begin(self._name(connection, session))

    @staticmethod
    def _name(connection: Connection, session: Succession) -> SessionName:
        return SessionName(connection.client_id, session.sid, connection.connection_id)
