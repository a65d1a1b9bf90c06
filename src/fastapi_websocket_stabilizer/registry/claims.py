"""Claims of clients: entry in the registry, displacement of older connections, and release."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .. import close_codes
from ..backends.ports import Claim, Claimed, IndexEntry, Removed, succession
from ..exceptions import LOSSES, BackendUnavailableError, ConnectionLimitExceededError, MessageError
from ..local.connection import Connection
from ..models import CloseCause, PresenceEvent
from ..names import ConnectionId, NodeId, node_of
from ..runtime.logs import Occasionally
from ..runtime.loops import running_loop
from ..runtime.tasks import together
from ..runtime.tracing import step
from ..wire.client_frames import replaced_reason
from ..wire.cursors import MAX_SESSION_CHARACTERS
from ..wire.envelopes import Envelope
from ..wire.own_json import encode_json
from .inboxes import Inboxes
from .lease import Lease
from .places import NO_SESSION, place_in, remove, sid_of
from .presence import Reports, joined, left
from .presenting import show
from .registration import Succession, registration_of
from .state import NodeState

REPLACED = "reconnected"
"""Close reason of a displaced socket, the same as in release 1.1."""
BATCH = 200
"""Releases that are tried again together."""
MAX_UNRELEASED = 100_000
"""Releases kept while Redis is unavailable. Older ones are left to the sweep after the end of this node."""


Report = Coroutine[Any, Any, bool]
"""The rest of a release: the hooks, which may be slow, and then the removal from the index."""
End = Callable[[Connection, CloseCause, int, str], Coroutine[Any, Any, None]]
WINDOW_S = 60.0
"""Seconds in which displacements are counted."""
AT_MOST = 5
"""Displacements of one client per window without a warning: page reloads and network changes cause a few."""
MAX_CLIENTS = 10_000
"""Maximum number of clients with a count. With one more, all counts are reset."""

CONTEST = (
    "client %r was displaced %d times within a minute: its sockets displace one another, since its client library "
    "reconnects after close code %d. Set max_connections_per_client, or displaced_code to a code that stops it"
)


class Contests:
    """Counts displacements per client. Warns, at most once a minute, if sockets of a client displace one another."""

    def __init__(self, log: logging.Logger) -> None:
        self._warning = Occasionally(log)
        self._counts: dict[str, int] = {}
        self._ends_at_s = 0.0

    def displaced(self, client_id: str, code: int) -> None:
        """Count one displacement of a socket that was closed with ``code``."""
        now_s = running_loop().time()
        if now_s >= self._ends_at_s or len(self._counts) >= MAX_CLIENTS:
            self._counts.clear()
            self._ends_at_s = now_s + WINDOW_S
        count = self._counts[client_id] = self._counts.get(client_id, 0) + 1
        if count > AT_MOST:
            self._warning.log(CONTEST % (client_id, count, code))


class Claims:
    """Enters this node's connections in the registry, and removes exactly these."""

    def __init__(
        self, state: NodeState, inboxes: Inboxes, lease: Lease, reports: Reports, *, end: End
    ) -> None:
        self._state, self._inboxes, self._lease, self._reports = state, inboxes, lease, reports
        self.end: End = end
        self._contests = Contests(state.log)
        # Outranked connections on other nodes, with the client and the session that displaced them, until their
        # entries are gone. Each beat repeats the evicts.
        self._displaced: dict[ConnectionId, tuple[str, str]] = {}
        # Releases that Redis did not accept. Each beat repeats them.
        self._unreleased: dict[str, IndexEntry] = {}
        self._stays = 0

    async def verified(self) -> None:
        """Wait until the lease is verified: entries under a node_id that was swept would stay."""
        if self._lease.gate.must_wait:
            await self._lease.gate.wait()

    def check_fresh(self) -> None:
        """Check that the lease did not lapse unnoticed, while this process stood still.

        Raises:
            BackendUnavailableError: It may have lapsed. The next beat shows whether it has.
        """
        if not self._lease.gate.is_fresh(running_loop().time()):
            raise BackendUnavailableError("the lease may have lapsed while this process stood still")

    async def claim(self, connection: Connection) -> None:
        """Register a connection and close the connections that it outranks.

        Raises:
            ConnectionLimitExceededError: ``on_client_overflow`` is "reject" and the client is full.
        """
        self._state.check_reachable()
        place = IndexEntry(connection.connection_id, connection.client_id, None)
        with step("claim"):
            claimed = await self.enter(connection)
        self.entered(connection, place, claimed)
        if claimed.first:
            await self._reported(place)
        outranked = await self._outranked(connection.client_id, claimed)
        await self.displace(connection.client_id, outranked, sid_of(connection))

    async def fit(self, connection: Connection) -> None:
        """Close what exceeds the limit of a client, after one more of its connections counts.

        With ``on_client_overflow`` "reject" that is this connection, otherwise those with the lowest ranks.
        """
        client_id, top = connection.client_id, self._state.config.max_connections_per_client
        (entries,) = await self._state.backend.presence.entries([client_id])
        live = await self._lease.live_among(node_of(entry.connection_id) for entry in entries)
        counted = [entry.connection_id for entry in entries if node_of(entry.connection_id) in live]
        if len(counted) > top and self._state.config.on_client_overflow == "reject":
            reason = str(self.is_full(client_id, len(counted) - 1))
            end = self.end(connection, CloseCause.OVER_LIMIT, close_codes.CONFLICT, reason)
            self._state.tasks.spawn(end, "full")
        else:
            await self.displace(client_id, tuple(counted[top:]), sid_of(connection))

    async def _reported(self, place: IndexEntry) -> None:
        if (reporting := self._reports.joined(place)) is not None:
            await asyncio.shield(reporting)

    @staticmethod
    def entered(connection: Connection, place: IndexEntry, claimed: Claimed) -> None:
        """Keep the answer of the registry. If the connection was renamed since, the visit in it is obsolete."""
        registration = registration_of(connection)
        registration.stamp = claimed.stamp
        if registration.session is not None:
            registration.session.superseded = claimed.superseded
            registration.session.follows(*claimed.superseded)
            registration.session.gone_at_s = None if claimed.has_left else running_loop().time()
        if connection.connection_id == place.connection_id:
            registration.visit = claimed.visit

    async def enter(self, connection: Connection, replaces: str = "", waited_us: int = 0) -> Claimed:
        """Enter a connection. A connection that was claimed before, or has waited, keeps its rank.

        Raises:
            ConnectionLimitExceededError: As ``claim``; never for one that was claimed before.
        """
        registration = registration_of(connection)
        claim, revision = self._claim(connection, replaces, waited_us), registration.revision
        if claim.stamp <= 0 and self._state.config.on_client_overflow == "reject":
            claimed = await self._claim_if_free(claim)
        else:
            claimed = await self._state.backend.presence.claim(claim)
        if registration.revision != revision:  # the claim may have undone a newer change of the metadata
            await self.show(connection)
        return claimed

    async def show(self, connection: Connection) -> bool:
        """Have presence show the metadata of a connection; False if the registry does not have the connection."""
        entry = self._entry(connection, registration_of(connection).session or NO_SESSION)
        connection_id = connection.connection_id
        return await self._state.backend.presence.update(connection.client_id, connection_id, entry)

    async def _outranked(self, client_id: str, claimed: Claimed) -> tuple[ConnectionId, ...]:
        """Return the connections to displace. Entries of dead nodes do not count; their sweeps remove them."""
        top = self._state.config.max_connections_per_client
        if top == 1 or not claimed.others:
            return claimed.others
        (entries,) = await self._state.backend.presence.entries([client_id])
        live = await self._lease.live_among(node_of(entry.connection_id) for entry in entries)
        counted = [entry.connection_id for entry in entries if entry.connection_id not in claimed.superseded]
        return tuple([name for name in counted if node_of(name) in live][top:])

    def _claim(self, connection: Connection, replaces: str, waited_us: int) -> Claim:
        registration = registration_of(connection)
        session = registration.session or NO_SESSION
        return Claim(
            connection.client_id,
            connection.connection_id,
            self._state.config.max_connections_per_client,
            self._entry(connection, session) if self._state.is_distributed else b"",
            registration.stamp or -waited_us,
            replaces,
            registration.visit,
            session.sid,
            session.former,
        )

    @staticmethod
    def _entry(connection: Connection, session: Succession) -> bytes:
        entry: dict[str, Any] = dict(succession(session.sid, session.former)) if session.sid else {}
        entry["since"] = connection.since.timestamp()
        try:
            return encode_json({**entry, "metadata": connection.metadata}, "metadata")
        except MessageError:
            # The application changed it after the connect: a claim without metadata is better than none.
            return encode_json({**entry, "metadata": {}}, "metadata")

    async def _claim_if_free(self, claim: Claim) -> Claimed:
        claimed = await self._state.backend.presence.claim_if_free(claim)
        if not claimed.stamp and (dead := await self._dead_among(claimed.others)):
            claimed = await self._state.backend.presence.claim_if_free(claim, dead)
        if not claimed.stamp:
            raise self.is_full(claim.client_id, len(claimed.others))
        return claimed

    def is_full(self, client_id: str, connections: int) -> ConnectionLimitExceededError:
        """Return the error for a client that has as many connections as it may have."""
        limit = self._state.config.max_connections_per_client
        return ConnectionLimitExceededError(
            f"client {client_id!r} already has {connections} connections, max_connections_per_client is {limit}",
            scope="client",
            limit=limit,
            current=connections,
        )

    async def _dead_among(self, holders: tuple[ConnectionId, ...]) -> list[ConnectionId]:
        """Return the connections of dead nodes. Their sweeps remove them and report the events."""
        live = await self._lease.live_among(map(node_of, holders))
        return [holder for holder in holders if node_of(holder) not in live]

    async def displace(self, client_id: str, outranked: tuple[ConnectionId, ...], by: str = "") -> None:
        """Close outranked connections of a client. Those of other nodes are closed by an evict.

        ``by`` is the session that displaces them, "" for a socket without one.
        """
        for connection_id in outranked:
            local = self._state.shards.get(connection_id)
            if local is not None:
                await self.replace(local, by)
            elif not self._state.is_own(node_of(connection_id)):
                self._displaced[connection_id] = client_id, by
                with suppress(*LOSSES):  # each beat repeats it
                    await self._inboxes.evict(connection_id, by)

    async def replace(self, connection: Connection, by: str) -> None:
        """Close an outranked connection of this node. A client with a session is told which one took its place."""
        self._state.counters.connections_displaced += 1
        if registration_of(connection).session is not None:
            code, reason = int(close_codes.CloseCode.REPLACED), replaced_reason(by)
        else:
            code, reason = self._state.config.displaced_code, REPLACED
            self._contests.displaced(connection.client_id, code)
        await self.end(connection, CloseCause.REPLACED, code, reason)

    def on_evict(self, envelope: Envelope) -> None:
        """Close a connection that another node's claim outranks."""
        (connection_id,), by = envelope.targets, str(envelope.body)[:MAX_SESSION_CHARACTERS]
        self._state.tasks.spawn(self.evicted(ConnectionId(connection_id), by), "evict")

    async def evicted(self, connection_id: ConnectionId, by: str) -> None:
        """Close a connection that another node's claim outranks, if it is still here."""
        connection = self._state.shards.get(connection_id)
        if connection is not None:
            await self.replace(connection, by)

    async def release(self, lines: list[IndexEntry]) -> Report:
        """Remove places from rooms and from presence; return the reports of it, which the caller must await.

        Removals that Redis does not accept are tried again each beat, otherwise presence would stay wrong.
        """
        try:
            self._state.check_reachable()
            undone = await together([self._undo(line) for line in lines])
        except (*LOSSES, asyncio.CancelledError):
            self.remember_unreleased(lines)
            raise
        for line in [each.line for each in undone if each.line.visit and not each.removed.was_there]:
            judging = self._state.tasks.spawn(self._judge(line), "judge")
            if self._state.is_closed:
                await judging
        return self._report(lines, undone)

    async def _undo(self, line: IndexEntry) -> "_Undone":
        """Remove a place; return the event to report and the notes to confirm."""
        removed = await remove(self._state, line)
        if removed.joined and not self._reports.has_begun(line):  # its claim was cancelled
            return _Undone(line, None if removed.left else joined(line), removed)
        # The name of a stay does not change when its connection is renamed.
        ended = (line.room is not None and removed.left and line.visit) or removed.left
        return _Undone(line, left(line, ended) if ended else None, removed)

    async def _judge(self, line: IndexEntry) -> None:
        """Report the end of a place that was missing in Redis, if the reason is a loss of Redis' content."""
        try:
            if await self._was_lost(line):
                await self._reports.follow(line, left(line, line.visit))
        except (*LOSSES, asyncio.CancelledError):
            self.remember_unreleased([line])
            raise

    async def _was_lost(self, line: IndexEntry) -> bool:
        """Whether Redis lost a place that it had confirmed, and the client has no other place there.

        The other possible reason is that the lease of this node lapsed. Then the sweep has reported the end.

        Raises:
            BackendUnavailableError: Redis does not answer the beat that shows which reason it is.
        """
        if not self._state.is_distributed:  # memory loses nothing
            return False
        await self._lease.gate.next_beat()
        self._state.check_reachable()
        if node_of(line.connection_id) in self._state.lapsed_ids:
            return False
        if line.room is not None:
            return not self._is_back(line)
        if not self._state.is_closed:
            # With their next beat, other nodes notice the loss and claim the client's connections there again.
            await asyncio.sleep(self._state.config.renew_interval_s + self._state.config.redis_timeout_s)
        (entries,) = await self._state.backend.presence.entries([line.client_id])
        return all(entry.visit != line.visit for entry in entries)

    async def _report(self, lines: list[IndexEntry], undone: "list[_Undone]") -> bool:
        """Run the hooks, then remove notes and index lines. A sweeper repeats both if this node dies in a hook.

        Return False if events are left to a sweeper, because the shutdown has no time for their hooks.
        """
        try:
            untold = [each.line for each in undone if not await self._reports.follow(each.line, each.event)]
            settled = [each for each in undone if each.kinds and each.line not in untold]
            await together([self._reports.confirm(each.line, *each.kinds) for each in settled])
            over = [line for line in lines if line not in untold and not self._is_back(line)]
            await self._state.backend.nodes.forget(node_of(lines[0].connection_id), over)
        except (*LOSSES, asyncio.CancelledError):
            self.remember_unreleased(lines)
            raise
        return not untold

    def _is_back(self, line: IndexEntry) -> bool:
        """Whether the connection joined the room again while the hooks of its leave ran."""
        connection = self._state.shards.get(line.connection_id)
        return connection is not None and line.room in connection.rooms

    def forget_unreleased(self) -> None:
        """Leave the releases from before the lease lapsed to the sweeper of the former node_id."""
        lapsed = self._state.lapsed_ids
        kept = {k: line for k, line in self._unreleased.items() if node_of(line.connection_id) not in lapsed}
        self._unreleased = kept

    def remember_unreleased(self, lines: list[IndexEntry]) -> None:
        """Try the removal of these places again with the next beat."""
        lapsed = self._state.lapsed_ids  # their sweeps report the events
        lines = [line for line in lines if node_of(line.connection_id) not in lapsed]
        for line in lines:
            known = self._unreleased.get(line.event("left"))
            if known is None or not known.visit:  # an ended connection has forgotten its visit
                self._unreleased[line.event("left")] = line
        while len(self._unreleased) > MAX_UNRELEASED:
            del self._unreleased[next(iter(self._unreleased))]
            self._state.counters.releases_dropped += 1

    def begin_stay(self, connection: Connection, room: str) -> int:
        """Number a connection's stay in a room."""
        self._stays += 1
        registration_of(connection).begin_stay(room, self._stays, running_loop().time())
        return self._stays

    async def enter_room(self, connection: Connection, room: str) -> None:
        """Enter a connection in a room to which its node is subscribed."""
        client_id, connection_id = connection.client_id, connection.connection_id
        registration = registration_of(connection)
        stay = registration.stay_in(room) or self.begin_stay(connection, room)  # if it has left since
        self._state.check_reachable()
        place = IndexEntry(connection_id, client_id, room, stay)
        is_new = await self._state.backend.rooms.join(place)

        def is_there() -> bool:
            return registration.stay_in(room) == stay and connection.connection_id == connection_id

        if is_there():
            await show(self._state, connection, place)
        if is_there():
            registration.entered[room] = place.stay_id
        if is_new:
            await self._reported(place)

    async def exit_room(self, connection: Connection, room: str) -> None:
        """Remove a connection from a room."""
        await (await self.release([self._ended_stay(connection, room)]))

    def exit_later(self, connection: Connection, room: str) -> None:
        """Remove a connection from a room with the next beat."""
        self.remember_unreleased([self._ended_stay(connection, room)])

    @staticmethod
    def _ended_stay(connection: Connection, room: str) -> IndexEntry:
        line, registration = place_in(connection, connection.connection_id, room), registration_of(connection)
        registration.end_stay(room)
        registration.entered.pop(room, None)
        return line

    async def release_pending(self) -> "list[asyncio.Task[bool]]":
        """Try all pending releases and confirmations again. Return the reports of the releases, as by ``release``.

        They are tasks, so that a hook that hangs does not stop the repair of the registry.

        Raises:
            BackendUnavailableError: Redis does not answer. The rest stays pending.
        """
        await self._reports.repeat_confirmations()
        reports = []
        while lines := list(islice(self._unreleased.values(), BATCH)):
            by_node: dict[NodeId, list[IndexEntry]] = {}
            for line in lines:
                by_node.setdefault(node_of(line.connection_id), []).append(line)
            for of_one_node in by_node.values():
                report = await self.release(of_one_node)
                reports.append(self._state.tasks.spawn(report, "report"))
                for line in of_one_node:
                    self._unreleased.pop(line.event("left"), None)
        return reports

    async def repeat_evicts(self) -> None:
        """Send the pending evicts again. An evict is pending until the entry of its connection is gone."""
        if not self._displaced:
            return
        displaced = dict(self._displaced)
        clients = [client_id for client_id, _ in displaced.values()]
        found = await self._state.backend.presence.entries(clients)
        live = await self._lease.live_among(map(node_of, displaced))
        for (connection_id, (_, by)), entries in zip(displaced.items(), found, strict=True):
            if all(entry.connection_id != connection_id for entry in entries):
                del self._displaced[connection_id]
            elif node_of(connection_id) in live:
                await self._inboxes.evict(connection_id, by)
            else:  # the sweep of its node removes it and reports the events
                del self._displaced[connection_id]


@dataclass(frozen=True, slots=True)
class _Undone:
    """A removed place, and the event to report for it."""

    line: IndexEntry
    event: PresenceEvent | None
    removed: Removed

    @property
    def kinds(self) -> list[str]:
        """Kinds of the notes that the store may remove."""
        return ["joined"] * bool(self.removed.joined) + ["left"] * self.removed.was_there
