"""Repeated claims: of connections that Redis lost, that were renamed, or that began while it was unavailable."""

import asyncio
import random
from dataclasses import replace
from itertools import islice

from .. import close_codes
from ..backends.ports import IndexEntry
from ..exceptions import ConnectionLimitExceededError
from ..local.connection import Connection
from ..models import CloseCause
from ..names import ConnectionId, node_of
from ..runtime.loops import running_loop
from ..runtime.tracing import task
from .claims import Claims
from .keeping import Keeping
from .places import lines_of, sid_of
from .presence import Reports, left
from .presenting import show
from .registration import registration_of
from .revocations import Revocations
from .state import NodeState
from .successions import Successions

BATCH = 200
"""Connections that are claimed together."""
PAUSE_S = 0.1
"""Longest pause between two batches in seconds. It is random, so that returning nodes do not stay in step."""


async def pause() -> None:
    """Wait a moment, so that Redis and the event loop can serve other traffic."""
    await asyncio.sleep(random.uniform(0, PAUSE_S))


class Reclaims:
    """Claims queued connections in batches. After a failure of Redis, the next beat continues."""

    def __init__(
        self,
        state: NodeState,
        claims: Claims,
        reports: Reports,
        keeping: Keeping,
        *,
        revocations: Revocations,
        successions: Successions,
    ) -> None:
        self._state, self._claims, self._reports, self._keeping = state, claims, reports, keeping
        self.revocations: Revocations = revocations
        self.successions: Successions = successions
        # With the connection_id of the last claim, which may be the present one.
        self._unclaimed: dict[Connection, ConnectionId] = {}
        # With the id of a claim that was answered, while places of the connection are not all moved to it yet.
        self._claimed: dict[Connection, ConnectionId] = {}
        # Former ids with a claim that may have been executed although it was not answered.
        self._unanswered: set[ConnectionId] = set()
        self._running: asyncio.Task[None] | None = None

    async def later(self, connection: Connection) -> None:
        """Register a new connection when Redis is back, and displace the client's others on this node now.

        Raises:
            ConnectionLimitExceededError: ``on_client_overflow`` is "reject" and the client is full.
        """
        config, client_id = self._state.config, connection.client_id
        session = registration_of(connection).session
        former = session.former if session is not None else ""
        of_client = self._state.shards.of_client(client_id)
        superseded = [each for each in of_client if former and sid_of(each) == former]
        own = [each for each in of_client if each not in superseded]
        over = own[: max(0, len(own) - config.max_connections_per_client)]
        if over and config.on_client_overflow == "reject":
            raise self._claims.is_full(client_id, len(own) - 1)
        self.again(connection)
        if session is not None:
            session.superseded = tuple(old.connection_id for old in superseded)
            session.follows(*session.superseded)
        await self._claims.displace(client_id, tuple(old.connection_id for old in over), sid_of(connection))

    def again(self, connection: Connection) -> None:
        """Claim a connection and its rooms again, under its present id."""
        self._unclaimed.setdefault(connection, connection.connection_id)

    def all_again(self) -> None:
        """Claim every connection again, because the store may have lost any of them."""
        for connection in self._state.shards:
            registration_of(connection).doubt_stays()
            self.again(connection)

    def known_id(self, connection: Connection, connection_id: ConnectionId) -> ConnectionId:
        """Return the id of the last claim of a connection, which may have been renamed since."""
        return self._unclaimed.get(connection, connection_id)

    def released(self, connection: Connection) -> None:
        """Claim a connection no longer, because its release removes all that Redis may have of it.

        One with another id stays queued: the places under its present id are to be removed as well.
        """
        if self._unclaimed.get(connection) == connection.connection_id:
            del self._unclaimed[connection]

    def rename_all(self) -> None:
        """Give every connection an id of the present node_id, and claim it again with its rank."""
        own, lapsed = self._state.node_id, self._state.lapsed_ids
        self._claims.forget_unreleased()
        for connection in self._state.shards:
            former = connection.connection_id
            if node_of(former) != own:
                registration = registration_of(connection)
                if not registration.visit:
                    self._unanswered.add(former)
                known = self.known_id(connection, former)
                if {node_of(known), node_of(self._claimed.pop(connection, known))} & set(lapsed):
                    # It may have been swept, and its end reported.
                    self._report_lost(connection, registration.forget_visit())
                else:  # the lease is gone because Redis lost its content
                    registration.doubt_stays()
                self._state.shards.rename(connection, self._state.next_connection_id())
                self._unclaimed.setdefault(connection, former)  # the last id that Redis has for certain

    def _report_lost(self, connection: Connection, stays: dict[str, str]) -> None:
        """Report the ends of stays that no sweep can report for certain, because Redis may have lost their lines."""
        for room, stay in stays.items():
            place = IndexEntry(connection.connection_id, connection.client_id, room)
            self._state.tasks.spawn(self._reports.report(left(place, stay)), "left")

    def run(self) -> "asyncio.Task[None]":
        """Start claiming the queued connections, unless that is in progress."""
        if self._running is None or self._running.done():
            self._running = self._state.tasks.spawn(self._run(), "reclaim")
        return self._running

    async def _run(self) -> None:
        if self._unclaimed:
            with task("recover"):
                await self._claim_all()

    async def _claim_all(self) -> None:
        while batch := list(islice(self._unclaimed, BATCH)):
            await asyncio.gather(*map(self._try, batch))
            if self._unclaimed:
                await pause()

    async def _try(self, connection: Connection) -> None:
        # Remove before the claim, so that a loss that is found during the claim queues it again.
        former = self._unclaimed.pop(connection)
        try:
            await self._reclaim(connection, former)
        except BaseException:
            self._unclaimed.setdefault(connection, former)
            raise
        self._claimed.pop(connection, None)
        self._unanswered.discard(former)

    async def _reclaim(self, connection: Connection, former: ConnectionId) -> None:
        connection_id, rooms = connection.connection_id, tuple(connection.rooms)
        if connection.ended is None:
            try:
                is_outranked = await self._claim(connection, former)
            except ConnectionLimitExceededError as error:
                code = close_codes.TRY_AGAIN_LATER
                end = self._claims.end(connection, CloseCause.OVER_LIMIT, code, str(error))
                self._state.tasks.spawn(end, "full")
                return
            self._claimed[connection] = connection_id
            if not is_outranked:
                await self.revocations.carry_out(connection, former)
            # Else it is being closed, and the sweep of its former id reports the end.
            if not is_outranked and connection.ended is None:
                await self._join_all(connection, former, rooms)
                await self._keeping.take_later(connection)
                await self._keeping.again(connection)
                self._restore(connection)
        if connection.ended is not None or connection.connection_id != connection_id:
            lines = lines_of(connection, connection_id, rooms)
            if connection.ended is None:  # renamed: the removal of the old entries is no end
                lines = [replace(line, visit="") for line in lines]
            self._claims.remember_unreleased(lines)

    @staticmethod
    def _restore(connection: Connection) -> None:
        session = registration_of(connection).session
        if (
            connection.session is not None
            and session is not None
            and not session.rooms.keys() <= connection.rooms
        ):
            connection.session.restore()

    async def _claim(self, connection: Connection, former: ConnectionId) -> bool:
        """Claim a connection, and return whether newer ones outrank it."""
        replaces = "" if former == connection.connection_id else former
        # The last connection wins, not the last one to be registered after an outage.
        waited_us = int((running_loop().time() - connection.opened_at_s) * 1_000_000)
        known, place = (
            registration_of(connection).visit,
            IndexEntry(connection.connection_id, connection.client_id, None),
        )
        claimed = await self._claims.enter(connection, replaces, waited_us)
        self._claims.entered(connection, place, claimed)
        # Run hooks and closes in the background: messages may be waiting for this re-claim.
        if known not in ("", claimed.visit):  # Redis lost the visit, and a new one began before this claim
            self._state.tasks.spawn(self._reports.report(left(place, known)), "left")
        if claimed.first:
            self._reports.joined(place)
        displaced = self._claims.displace(connection.client_id, claimed.others, sid_of(connection))
        self._state.tasks.spawn(displaced, "displace")
        session = registration_of(connection).session
        if session is not None and session.has_begun:
            self._state.tasks.spawn(self.successions.succeed(connection), "succeed")
        return connection.connection_id in claimed.others

    async def _join_all(self, connection: Connection, former: ConnectionId, rooms: tuple[str, ...]) -> None:
        replaces = former if former != connection.connection_id else ""
        # A room that was left since keeps its line under the former id, for the sweep of that id.
        joined = [room for room in rooms if await self._join(connection, replaces, room)]
        # The sweep reports joins that the former id has not reported, and needs the lines for that. If the former
        # lease has lapsed, a sweep may have noted the ends already, and the next one reports what it could not.
        is_swept = former in self._unanswered or node_of(former) in self._state.lapsed_ids
        if replaces and not is_swept:
            lines = lines_of(connection, former, joined)
            await self._state.backend.nodes.forget(node_of(former), lines)

    async def _join(self, connection: Connection, replaces: str, room: str) -> bool:
        """Enter a connection in a room again; return False if it has left the room, or has ended.

        Raises:
            BackendUnavailableError: This process stood still, and may have been swept. The next beat shows that.
        """
        registration = registration_of(connection)
        connection_id, stay = connection.connection_id, registration.stay_in(room)
        if room not in connection.rooms or connection.ended is not None:
            return False
        self._claims.check_fresh()
        is_known, place = (
            room in registration.entered,
            IndexEntry(connection_id, connection.client_id, room, stay),
        )
        place = replace(place, visit=registration.entered.get(room, place.stay_id))
        if await self._state.backend.rooms.join(place, replaces=replaces, is_known=is_known):
            self._reports.joined(place)
        if registration.stay_in(room) != stay:  # left during the join
            self._claims.remember_unreleased([place])
        elif connection.connection_id == connection_id:
            registration.confirm_stay(room, place.visit)
            await show(self._state, connection, place, replaces)
        return True
