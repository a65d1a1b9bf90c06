"""Rooms of this node's connections: joined and left, subscribed and listed."""

import asyncio

from ..backends.ports import Bus
from ..exceptions import LOSSES, ConnectionLimitExceededError
from ..local.connection import Connection
from ..names import check_room
from ..wire.channels import Channel
from .claims import Claims
from .reclaims import Reclaims
from .state import NodeState


class Rooms:
    """Puts connections in rooms and takes them out; subscribes to a room while it has a member here."""

    def __init__(self, state: NodeState, bus: Bus, claims: Claims, reclaims: Reclaims) -> None:
        self._state, self._bus, self._claims, self._reclaims = state, bus, claims, reclaims
        self._joining: dict[tuple[Connection, str], asyncio.Task[None]] = {}

    async def join(self, connection: Connection, room: str) -> None:
        """Put a connection in a room: local table, subscription confirmed, listed. Who is listed, hears.

        Raises:
            InvalidNameError: ``room`` is not a legal name.
            ConnectionLimitExceededError: The connection is in ``max_rooms_per_connection`` rooms.
        """
        limit = self._state.config.max_rooms_per_connection
        if check_room(room) not in connection.rooms and len(connection.rooms) >= limit:
            raise ConnectionLimitExceededError(
                f"client {connection.client_id!r} is in {limit} rooms, max_rooms_per_connection is {limit}",
                scope="rooms",
                limit=limit,
                current=len(connection.rooms),
            )
        task = self._joining.get((connection, room))
        if task is None and self._state.shards.join(connection, room):
            task = self._state.tasks.spawn(self._enter(connection, room), "join")
            self._joining[connection, room] = task
            task.add_done_callback(lambda done: self._joined(connection, room, done))
        if task is not None:  # whoever joins while another call is at it gets the same answer
            await asyncio.shield(task)

    def _joined(self, connection: Connection, room: str, task: "asyncio.Task[None]") -> None:
        if self._joining.get((connection, room)) is task:
            del self._joining[connection, room]

    async def _enter(self, connection: Connection, room: str) -> None:
        self._claims.begin_stay(connection, room)
        try:
            await self._list(connection, room)
        except BaseException as error:
            if not (self._state.degrades and isinstance(error, LOSSES)):
                self._state.tasks.spawn(self.leave(connection, room), "undo-join")
                raise
            # Heard with everything else when the bus is back, and listed when Redis is.
            if room in self._state.shards.rooms:
                self._state.subscribed.add(room)
            self._reclaims.again(connection)
        if room not in connection.rooms or connection.ended is not None:  # left or closed meanwhile
            await self._unlist(connection, room)

    async def _list(self, connection: Connection, room: str) -> None:
        await self._bus.subscribe_room(room)
        if room in self._state.shards.rooms and room not in self._state.subscribed:
            self._state.subscribed.add(room)
            # What came in before the confirmation says nothing about what came after.
            self._state.sequences.forget(Channel("room", room))
        await self._claims.enter_room(connection, room)

    async def _unlist(self, connection: Connection, room: str) -> None:
        try:
            await self._claims.exit_room(connection, room)
        except LOSSES:  # it is left here, and remembered
            if not self._state.degrades:
                raise

    async def leave(self, connection: Connection, room: str) -> None:
        """Take a connection out of a room; nothing is written for it from this moment."""
        self._joining.pop((connection, room), None)
        if connection.ended is None and self._state.shards.leave(connection, check_room(room)):
            self.left(room)
            await self._unlist(connection, room)

    def left(self, room: str) -> None:
        """Stop listening to a room that has no member here any more."""
        if room not in self._state.shards.rooms:
            self._state.subscribed.discard(room)
            self._bus.unsubscribe_room(room)
            self._state.in_flight.give_up(room)
            self._state.sequences.forget(Channel("room", room))
