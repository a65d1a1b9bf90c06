"""Rooms of this node's connections: joined and left, subscribed and listed."""

import asyncio
from collections.abc import Awaitable, Callable
from sys import intern

from ..backends.ports import Bus
from ..exceptions import LOSSES, ConnectionLimitExceededError
from ..local.connection import Connection
from ..names import check_room
from ..wire.channels import Channel
from .claims import Claims
from .history import History
from .keeping import Keeping
from .reclaims import Reclaims
from .registration import registration_of
from .state import NodeState
from .watching import Watching


class Rooms:
    """Joins and leaves. The node is subscribed to a room while the room has a local member."""

    def __init__(
        self,
        state: NodeState,
        bus: Bus,
        claims: Claims,
        reclaims: Reclaims,
        *,
        history: History,
        keeping: Keeping,
        watching: Watching,
    ) -> None:
        self._state, self._bus, self._claims, self._reclaims = state, bus, claims, reclaims
        self._history, self._keeping, self._watching = history, keeping, watching
        self._joining: dict[tuple[Connection, str], asyncio.Task[None]] = {}

    async def join(
        self, connection: Connection, room: str, *, keeps: bool = True, by_client: bool = False
    ) -> None:
        """Add a connection to a room: in the local table, then subscribed, then in the registry.

        A member in the registry receives the room's messages. With ``keeps``, the session of the connection gets the
        room; ``by_client`` says that the client entered it by itself. A connection that has ended joins nothing.

        Raises:
            InvalidNameError: ``room`` is not a valid name.
            ConnectionLimitExceededError: The connection is in ``max_rooms_per_connection`` rooms.
        """
        if connection.ended is not None:
            return
        room = intern(str(check_room(room)))  # all members keep one name instead of one each
        limit = self._state.config.max_rooms_per_connection
        if room not in connection.rooms and len(connection.rooms) >= limit:
            raise ConnectionLimitExceededError(
                f"client {connection.client_id!r} is in {limit} rooms, max_rooms_per_connection is {limit}",
                scope="rooms",
                limit=limit,
                current=len(connection.rooms),
            )
        task = self._joining.get((connection, room))
        if task is None and self._state.shards.join(connection, room):
            has_log = self._history.hold(connection, Channel("room", room))
            task = self._state.tasks.spawn(self._enter(connection, room), "join")
            self._joining[connection, room] = task
            if connection.session is not None and not has_log:
                connection.session.joined(room)
            task.add_done_callback(lambda done: self._joined(connection, room, done))
        if task is not None:  # concurrent joins of one connection have the same result
            await asyncio.shield(task)
        if keeps and registration_of(connection).session is not None and room in connection.rooms:
            await self._keeping.note(connection, room, by_client=by_client)

    async def restore(
        self, connection: Connection, may_enter: Callable[[Connection, str], Awaitable[bool]]
    ) -> list[str]:
        """Join the rooms that the session of a connection has kept; return those that it is in then.

        ``may_enter`` is asked for those that the client entered by itself. A room that the application has revoked
        while this runs is left again. A room that was not of the former session is not looked up, because the store
        may not have it yet.

        Raises:
            BackendUnavailableError: Redis did not answer, and ``on_backend_loss`` is "refuse".
        """
        session = registration_of(connection).session
        if session is None:
            return []
        kept = {room: session.rooms[room] for room in session.inherited & session.rooms.keys()}

        async def join_again(room: str) -> None:
            try:
                if not kept[room] or await may_enter(connection, room):
                    if self._keeping.has_room(connection, room):  # else it was left in the meantime
                        await self.join(connection, room, keeps=False)
                    return
            except ConnectionLimitExceededError:  # the Identity has more rooms than before
                self._state.counters.session_rooms_dropped += 1
            await self._keeping.forget(connection, room)

        await asyncio.gather(*map(join_again, kept))
        for room in await self._keeping.revoked(connection, kept):
            await self.leave(connection, room)
        await self._keeping.forget_others(connection)
        return [room for room in session.rooms if room in connection.rooms]

    async def take_over(self, connection: Connection) -> None:
        """See ``Keeping.take``."""
        await self._keeping.take(connection)

    async def give_back(self, connection: Connection) -> None:
        """See ``Keeping.give_back``."""
        await self._keeping.give_back(connection)

    def is_joining(self, connection: Connection, room: str) -> bool:
        """Whether a join is in progress. If the connection ends before the join, the join leaves the room."""
        return (connection, room) in self._joining

    def _joined(self, connection: Connection, room: str, task: "asyncio.Task[None]") -> None:
        if self._joining.get((connection, room)) is task:
            del self._joining[connection, room]

    async def _enter(self, connection: Connection, room: str) -> None:
        self._claims.begin_stay(connection, room)
        try:
            await self._list(connection, room)
        except BaseException as error:
            is_away = self._state.degrades and isinstance(error, LOSSES)
            self._undo(connection, room, is_away=is_away)
            if not is_away:
                raise
            if connection.ended is not None:
                return
        has_left = room not in connection.rooms
        if connection.session is not None and not has_left and connection.ended is None:
            await self._history.attach(connection, Channel("room", room))
        if has_left or connection.ended is not None:  # left or closed during the join
            await self._unlist(connection, room)

    def _undo(self, connection: Connection, room: str, *, is_away: bool) -> None:
        """React to a join that failed, or that is put off because Redis is away."""
        if connection.ended is not None:  # its release has left the room to the join
            self._claims.exit_later(connection, room)
        elif not is_away:
            self._state.tasks.spawn(self.leave(connection, room), "undo-join")
        else:
            # The bus subscribes when it is back, and the membership is written when Redis is.
            if room in self._state.shards.rooms:
                self._state.subscribed.add(room)
                self._history.entered(Channel("room", room))
            self._reclaims.again(connection)

    async def _list(self, connection: Connection, room: str) -> None:
        await self._bus.subscribe_room(room)
        if connection.ended is not None:
            return
        if room in self._state.shards.rooms and room not in self._state.subscribed:
            self._state.subscribed.add(room)
            # Envelopes from before the confirmation show nothing about losses after it.
            self._state.sequences.forget(Channel("room", room))
            self._history.entered(Channel("room", room))
        await self._claims.enter_room(connection, room)

    async def _unlist(self, connection: Connection, room: str) -> None:
        try:
            await self._claims.exit_room(connection, room)
        except LOSSES:  # each beat tries again
            if not self._state.degrades:
                raise

    async def leave(self, connection: Connection, room: str) -> None:
        """Remove a connection from a room. From this call on, no message of the room is written to it."""
        self._joining.pop((connection, room), None)
        if connection.ended is not None:
            return
        # First of all, because the rest waits for Redis and for hooks. Until then, the client may be back, or the
        # connection in the room again. This forgets also a room that is about to be restored.
        forgetting = self._keeping.forgetting(connection, check_room(room))
        if self._state.shards.leave(connection, room):
            if connection.session is not None:
                self._history.detach(connection, [Channel("room", room)])
                connection.session.left(room)
            self.left(room)
            await self._unlist(connection, room)
        if forgetting is not None:
            await asyncio.shield(forgetting)

    def left(self, room: str) -> None:
        """Unsubscribe from a room without local members."""
        if room not in self._state.shards.rooms:
            channel = Channel("room", room)
            self._state.subscribed.discard(room)
            self._history.left(channel)
            self._bus.unsubscribe_room(room)
            self._state.in_flight.give_up(channel)
            self._state.sequences.forget(channel)
            self._watching.left(room)
