"""Connections of a former session: closed when the client has the first frame of the next one, unless they live.

A client that comes back has usually lost its former socket, and its node does not know that yet. But a browser that
duplicates a tab copies the cursor as well. Then the former socket is that of the original tab. Only its answer to a
ping tells the two apart. The copy has the session by then, so the session of the original is written anew.

With one connection for each client, the former one is closed in any case: the newest tab counts.
"""

from contextlib import suppress

from ..exceptions import LOSSES
from ..local.connection import Connection
from ..names import ConnectionId, node_of
from ..wire.cursors import MAX_SESSION_CHARACTERS
from ..wire.envelopes import Envelope
from .claims import Claims
from .inboxes import Inboxes
from .keeping import Keeping
from .lease import Lease
from .registration import Succession, registration_of
from .replies import is_outcome
from .state import NodeState

ANSWER_S = 5.0
"""Seconds that a former socket has to answer."""


class Successions:
    """Closes former connections, or lets them go on beside their successor."""

    def __init__(
        self, state: NodeState, claims: Claims, keeping: Keeping, inboxes: Inboxes, lease: Lease
    ) -> None:
        self._state, self._claims, self._keeping = state, claims, keeping
        self._inboxes, self._lease = inboxes, lease
        # The successor of each former connection whose fate is not known. Each beat asks again.
        self._open: dict[ConnectionId, Connection] = {}
        self._asking: set[ConnectionId] = set()

    async def succeed(self, connection: Connection) -> None:
        """Close the connections of the former session, because the client has the first frame of this one.

        Those that may live are asked in the background.
        """
        session = registration_of(connection).session
        if session is None:
            return
        session.has_begun = True
        superseded, session.superseded = session.superseded, ()
        if self._state.config.max_connections_per_client == 1:
            await self._claims.displace(connection.client_id, superseded, session.sid)
            return
        for former in superseded:
            self._open[former] = connection
            self._begin(former, connection, session)

    def repeat(self) -> None:
        """Ask again for the former connections whose node has not answered."""
        for former, connection in tuple(self._open.items()):
            session = registration_of(connection).session
            if connection.ended is not None or session is None:
                del self._open[former]
            else:
                self._begin(former, connection, session)

    def _begin(self, former: ConnectionId, connection: Connection, session: Succession) -> None:
        if former not in self._asking:
            self._asking.add(former)
            task = self._state.tasks.spawn(self._settle(former, connection, session), "succession")
            task.add_done_callback(lambda _: self._asking.discard(former))

    async def _settle(self, former: ConnectionId, connection: Connection, session: Succession) -> None:
        with suppress(*LOSSES):  # the next beat asks again
            local = self._state.shards.get(former)
            if local is not None:
                lives: bool | None = await self._goes_on(local, session.sid)
            elif self._state.is_own(node_of(former)):
                lives = False
            else:
                lives = await self._ask(former, session.sid)
            if lives:
                await self._part(connection, session)
            if lives is not None or not await self._may_live(former, connection.client_id):
                self._open.pop(former, None)

    async def _ask(self, former: ConnectionId, by: str) -> bool | None:
        """Return whether a connection of another node goes on; None if the node does not answer."""
        with self._state.replies.opened(is_outcome) as ask:
            took = await self._inboxes.evict(former, by, ask)
            within_s = ANSWER_S + self._state.config.redis_timeout_s
            answers = await self._state.replies.gather(ask, took, within_s)
        return next((bool(answer) for answer in answers.values()), None)

    async def _may_live(self, former: ConnectionId, client_id: str) -> bool:
        """Whether a connection is still entered, and its node has a lease. Otherwise the sweep removes it."""
        (entries,) = await self._state.backend.presence.entries([client_id])
        live = await self._lease.live_among([node_of(former)])
        return bool(live) and any(entry.connection_id == former for entry in entries)

    async def _part(self, connection: Connection, session: Succession) -> None:
        """Let the former connection count as one of its own, which it is in the entries as well from then on."""
        session.former = ""
        await self._claims.show(connection)
        await self._claims.fit(connection)

    def on_evict(self, envelope: Envelope) -> None:
        """Close a connection whose client has another one. With a question, only if it does not live."""
        if not envelope.ask:
            self._claims.on_evict(envelope)
            return
        self._state.tasks.spawn(self._answer(envelope), "answer")

    async def _answer(self, envelope: Envelope) -> None:
        (connection_id,), by = envelope.targets, str(envelope.body)[:MAX_SESSION_CHARACTERS]
        connection = self._state.shards.get(ConnectionId(connection_id))
        lives = connection is not None and await self._goes_on(connection, by)
        with suppress(*LOSSES):
            await self._inboxes.reply(envelope.sender, envelope.ask, int(lives))

    async def _goes_on(self, connection: Connection, by: str) -> bool:
        """Return whether a former connection lives; otherwise close it. During a drain its client has moved."""
        if not self._state.is_draining and await connection.answers(ANSWER_S):
            self._state.counters.sessions_parted += 1
            await self._keeping.renew(connection)
            return True
        if connection.ended is None:
            self._state.tasks.spawn(self._claims.replace(connection, by), "replace")
        return False
