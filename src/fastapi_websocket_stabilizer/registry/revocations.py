"""Removals from rooms, and closes, that a node has missed: carried out when it reaches Redis again.

A request to remove a client from a room, or to close it, goes to the nodes that hold the client. A node that is cut
off does not receive it. So the request is noted in Redis first. A node asks for the notes when it claims a connection
again, after the claim, and after a gap of its bus. A request that is noted after that finds the node by its claim.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from ..backends.revocations import Revocation
from ..local.connection import Connection
from ..models import CloseCause
from ..names import ConnectionId
from ..runtime.loops import running_loop
from .registration import registration_of
from .state import NodeState

REVOKED_S = 3600.0
"""Seconds for which a revocation is kept. A node that is cut off for longer does not learn of it."""

DRIFT_S = 1.0
"""Seconds by which two clocks may drift apart between two comparisons."""

Leave = Callable[[Connection, str], Awaitable[None]]
Expire = Callable[[Connection, CloseCause, int, str], None]


def revocation_of(request: dict[str, Any]) -> Revocation | None:
    """Return what a request takes from a client; None if it takes nothing."""
    match request:
        case {"do": "leave", "room": room}:
            return Revocation(room)
        case {"do": "close", "connection_id": only, "code": code, "reason": reason}:
            return Revocation("", only or "", code, reason)
    return None


class Revocations:
    """Notes requests, and carries out those that this node has missed.

    Args:
        leave: Removes a connection from a room.
        expire: Ends a connection now, and closes its socket soon.
    """

    def __init__(self, state: NodeState, leave: Leave, expire: Expire) -> None:
        self._state, self._leave, self._expire = state, leave, expire
        self._ahead_s: float | None = None  # of Redis' clock
        self._suspended_s = self._counts_until_s = 0.0

    def meet(self, redis_s: float) -> None:
        """Compare Redis' clock with that of this process, which stands still while the machine is suspended.

        An answer of Redis takes ``redis_timeout_s`` at most, and clocks drift slowly. A greater difference is a
        suspension. For an hour, revocations count as younger by that time, and by the longest time of an answer. The
        difference is known no better, and no client may keep what was taken from it.
        """
        now_s, before_s = running_loop().time(), self._ahead_s
        self._ahead_s = redis_s - now_s
        if now_s > self._counts_until_s:
            self._suspended_s = 0.0
        answer_s = self._state.config.redis_timeout_s
        if before_s is not None and self._ahead_s - before_s > answer_s + DRIFT_S:
            self._suspended_s += self._ahead_s - before_s + answer_s
            self._counts_until_s = now_s + REVOKED_S

    async def note(self, client_id: str, request: dict[str, Any]) -> None:
        """Note a request that takes something from a client. The command is queued before this first waits.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        revocation = revocation_of(request)
        if revocation is not None and self._state.is_distributed:
            self._state.check_reachable()
            await self._state.backend.revocations.note(client_id, revocation, int(1000 * REVOKED_S))

    async def carry_out(self, connection: Connection, *former: ConnectionId) -> None:
        """Take from a connection what was taken from its client since it connected, or entered a room.

        ``former`` are earlier ids of the connection. The time of a revocation is known to the duration of the answer.
        What a client was given in that time counts as older.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        found = await self._state.backend.revocations.read(connection.client_id)
        self.meet(found.now_us / 1e6)
        now_s, ids = running_loop().time() + self._suspended_s, ("", connection.connection_id, *former)
        for revocation, age_s in found.ages:
            if connection.ended is not None:
                return
            if revocation.room:
                await self._take_room(connection, revocation.room, now_s - age_s)
            elif revocation.connection_id in ids and connection.opened_at_s < now_s - age_s:
                self._state.counters.revocations_missed += 1
                self._expire(connection, CloseCause.KICKED, revocation.code, revocation.reason)

    async def _take_room(self, connection: Connection, room: str, at_s: float) -> None:
        if room in connection.rooms and registration_of(connection).entered_at_s(room) < at_s:
            self._state.counters.revocations_missed += 1
            await self._leave(connection, room)
