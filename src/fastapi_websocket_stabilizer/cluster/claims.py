"""Who holds a client: claims, displacement and release."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from ..exceptions import ConnectionLimitExceededError, MessageError
from ..local.connection import Connection
from ..local.owner import Ended
from ..models import PresenceEvent
from ..names import ConnectionId, NodeId, node_of
from ..ports import Claim, Claimed, Membership
from ..wire import Envelope, Kind, encode_json
from .contests import Contests
from .context import LOSSES, Context
from .membership import Membership as Leases
from .presence import Announcer, client_joined, client_left, is_gone, room_joined, room_left

REPLACED = "reconnected"
"""The close reason of a displaced socket, as release 1.1 says it."""
BATCH = 200
MAX_UNRELEASED = 100_000
"""Releases remembered while Redis is away; of an older one the sweep takes care when this node ends."""

Report = Coroutine[Any, Any, None]
"""The rest of a release: hooks, which may be slow, and the index after them."""
End = Callable[[Connection, Ended, int, str], Coroutine[Any, Any, None]]


class Claims:
    """Enters this node's connections in the registry and takes them out, exactly."""

    def __init__(self, context: Context, leases: Leases | None, announce: Announcer, end: End) -> None:
        self._context, self._leases, self._announce = context, leases, announce
        self.end: End = end
        self._contests = Contests(context.log)
        # Outranked connections on other nodes, until their entry is gone; the evict is repeated each beat.
        self._displaced: dict[ConnectionId, str] = {}
        # Releases that Redis did not take; repeated each beat.
        self._unreleased: dict[Membership, None] = {}
        self._stays = 0

    async def verified(self) -> None:
        """Wait until it is known whether we hold our lease: what is entered under an id that was swept stays."""
        if self._leases is not None and self._leases.must_wait:
            await self._leases.verified()

    async def claim(self, connection: Connection) -> None:
        """Register a connection and have those it outranks closed.

        Raises:
            ConnectionLimitExceededError: ``on_client_overflow`` is "reject" and the client is full.
        """
        self._context.check_reachable()
        claimed = await self.enter(connection)
        connection.stamp = claimed.stamp
        if claimed.first:
            await self._announce(client_joined(connection.client_id, connection.connection_id))
        await self.displace(connection.client_id, await self._outranked(connection.client_id, claimed))

    async def enter(self, connection: Connection, replaces: str = "", waited_us: int = 0) -> Claimed:
        """Have the registry list a connection; one that was claimed before, or has waited, with its rank.

        Raises:
            ConnectionLimitExceededError: As ``claim``; never for one that was claimed before.
        """
        claim = self._claim(connection, replaces, waited_us)
        if claim.stamp <= 0 and self._context.config.on_client_overflow == "reject":
            return await self._claim_if_free(claim)
        return await self._context.backend.presence.claim(claim)

    async def _outranked(self, client_id: str, claimed: Claimed) -> tuple[ConnectionId, ...]:
        """Whom a claim displaces; an entry that a dead node left must not take a living one's place."""
        top = self._context.config.max_connections_per_client
        if top == 1 or not claimed.others or self._leases is None:
            return claimed.others
        (entries,) = await self._context.backend.presence.entries([client_id])
        live = await self._leases.live_among(node_of(entry.connection_id) for entry in entries)
        for entry in entries:
            if node_of(entry.connection_id) not in live:
                await self._context.backend.presence.release(client_id, entry.connection_id)
        living = [entry.connection_id for entry in entries if node_of(entry.connection_id) in live]
        return tuple(living[top:])

    def _claim(self, connection: Connection, replaces: str, waited_us: int) -> Claim:
        return Claim(
            connection.client_id,
            connection.connection_id,
            self._context.config.max_connections_per_client,
            self._entry(connection) if self._context.is_distributed else b"",
            connection.stamp or -waited_us,
            replaces,
        )

    @staticmethod
    def _entry(connection: Connection) -> bytes:
        since = connection.since.timestamp()
        try:
            return encode_json({"since": since, "metadata": connection.metadata}, "metadata")
        except MessageError:
            # Claimed again after the application put something into it: better without than not at all.
            return encode_json({"since": since, "metadata": {}}, "metadata")

    async def _claim_if_free(self, claim: Claim) -> Claimed:
        claimed = await self._context.backend.presence.claim_if_free(claim)
        if not claimed.stamp and await self._release_dead(claim.client_id, claimed.others):
            claimed = await self._context.backend.presence.claim_if_free(claim)
            # Nobody was told that the dead one had left, so nobody is to be told that somebody joined.
            claimed = replace(claimed, first=False)
        if not claimed.stamp:
            raise self.is_full(claim.client_id, len(claimed.others))
        return claimed

    def is_full(self, client_id: str, connections: int) -> ConnectionLimitExceededError:
        """Return the error for one connection too many."""
        return ConnectionLimitExceededError(
            f"client {client_id!r} already has {connections} connections, "
            f"max_connections_per_client is {self._context.config.max_connections_per_client}"
        )

    async def _release_dead(self, client_id: str, holders: tuple[ConnectionId, ...]) -> bool:
        """Release the places that dead nodes hold; True when there were any."""
        if self._leases is None:
            return False
        live = await self._leases.live_among(map(node_of, holders))
        dead = [holder for holder in holders if node_of(holder) not in live]
        for holder in dead:
            await self._context.backend.presence.release(client_id, holder)
        return bool(dead)

    async def displace(self, client_id: str, outranked: tuple[ConnectionId, ...]) -> None:
        """Close connections that others of the client outrank, here now and elsewhere by word."""
        for connection_id in outranked:
            local = self._context.shards.get(connection_id)
            if local is not None:
                await self._replace(local)
            elif not self._context.is_own(node_of(connection_id)):
                self._displaced[connection_id] = client_id
                with suppress(*LOSSES):  # the beat repeats it
                    await self._evict(connection_id)

    async def _evict(self, connection_id: ConnectionId) -> None:
        sequence, previous = self._context.sequencer.next("inbox")
        node = self._context.node_id
        envelope = Envelope(node, sequence, previous, Kind.EVICT, targets=(connection_id,))
        await self._context.backend.bus.publish_node(node_of(connection_id), envelope)

    async def evicted(self, connection_id: ConnectionId) -> None:
        """Another node's claim outranks this connection."""
        connection = self._context.shards.get(connection_id)
        if connection is not None:
            await self._replace(connection)

    async def _replace(self, connection: Connection) -> None:
        code = self._context.config.displaced_code
        self._context.counters.connections_displaced += 1
        self._contests.displaced(connection.client_id, code)
        await self.end(connection, Ended.REPLACED, code, REPLACED)

    async def release(self, lines: list[Membership], *, is_repeated: bool = False) -> Report:
        """Undo places in rooms and in presence; return what is still to be done about it.

        What Redis does not take is tried again each beat: presence must not lie for as long as we live.
        """
        try:
            self._context.check_reachable()
            events = await asyncio.gather(*(self._undo(line, is_repeated=is_repeated) for line in lines))
        except (*LOSSES, asyncio.CancelledError):
            self.remember_unreleased(lines)
            raise
        return self._report([event for event in events if event is not None], lines)

    async def _undo(self, line: Membership, *, is_repeated: bool) -> PresenceEvent | None:
        backend, connection_id = self._context.backend, line.connection_id
        if line.room is None:
            is_last = await backend.presence.release(line.client_id, connection_id)
            if is_last or (is_repeated and await is_gone(backend.presence, line.client_id)):
                return client_left(line.client_id, connection_id)
            return None
        was_there = await backend.rooms.leave(line.room, connection_id)
        if not was_there and not is_repeated:
            return None
        return room_left(line.client_id, connection_id, line.room, line.stay)

    async def _report(self, events: list[PresenceEvent], lines: list[Membership]) -> None:
        """Run the leave hooks, and only then drop the index: if we die in one, the sweeper runs it again."""
        for event in events:
            await self._announce(event)
        over = [line for line in lines if not self._is_back(line)]
        await self._context.backend.nodes.forget(node_of(lines[0].connection_id), over)

    def _is_back(self, line: Membership) -> bool:
        """Whether a connection entered the room again while the hooks for its leaving ran."""
        connection = self._context.shards.get(line.connection_id)
        return connection is not None and line.room in connection.rooms

    def remember_line(self, connection_id: ConnectionId, client_id: str, room: str, stay: int) -> None:
        """Undo a place in a room with the next beat."""
        self.remember_unreleased([Membership(connection_id, client_id, room, stay)])

    def forget_unreleased(self) -> None:
        """Leave to a sweeper what Redis did not take."""
        self._unreleased.clear()

    def remember_unreleased(self, lines: list[Membership]) -> None:
        """Undo lines with the next beat."""
        # What a former node_id of ours left is its sweeper's, who reports it, too.
        own = self._context.node_id
        self._unreleased.update((line, None) for line in lines if node_of(line.connection_id) == own)
        while len(self._unreleased) > MAX_UNRELEASED:
            del self._unreleased[next(iter(self._unreleased))]
            self._context.counters.releases_dropped += 1

    def begin_stay(self, connection: Connection, room: str) -> int:
        """Number a connection's stay in a room; an earlier one of it needs no undoing any more."""
        self._unreleased.pop(Membership(connection.connection_id, connection.client_id, room), None)
        self._stays += 1
        connection.stays[room] = self._stays
        return self._stays

    async def enter_room(self, connection: Connection, room: str) -> None:
        """List a connection in a room; its node has subscribed already."""
        client_id, connection_id = connection.client_id, connection.connection_id
        stay = connection.stays.get(room) or self.begin_stay(connection, room)  # or left meanwhile
        self._context.check_reachable()
        if await self._context.backend.rooms.join(room, client_id, connection_id, stay):
            await self._announce(room_joined(client_id, connection_id, room, stay))

    async def exit_room(self, connection: Connection, room: str) -> None:
        """Take a connection off a room's list."""
        stay = connection.stays.pop(room, 0)
        line = Membership(connection.connection_id, connection.client_id, room, stay)
        await (await self.release([line]))

    async def release_pending(self) -> None:
        """Try again what Redis did not take.

        Raises:
            BackendUnavailableError: It still does not; nothing is forgotten.
        """
        while lines := list(islice(self._unreleased, BATCH)):
            by_node: dict[NodeId, list[Membership]] = {}
            for line in lines:
                by_node.setdefault(node_of(line.connection_id), []).append(line)
            for of_one_node in by_node.values():
                # The first try may have been carried out, and only its answer was lost.
                report = await self.release(of_one_node, is_repeated=True)
                for line in of_one_node:
                    self._unreleased.pop(line, None)
                await report

    async def repeat_evicts(self) -> None:
        """Tell the owners of outranked connections again, until they have removed them."""
        if not self._displaced or self._leases is None:
            return
        displaced = dict(self._displaced)
        found = await self._context.backend.presence.entries(list(displaced.values()))
        live = await self._leases.live_among(map(node_of, displaced))
        for (connection_id, client_id), entries in zip(displaced.items(), found, strict=True):
            if all(entry.connection_id != connection_id for entry in entries):
                del self._displaced[connection_id]
            elif node_of(connection_id) in live:
                await self._evict(connection_id)
            else:
                await self._context.backend.presence.release(client_id, connection_id)


def lines_of(connection: Connection, connection_id: ConnectionId, rooms: Iterable[str]) -> list[Membership]:
    """Return what is to be undone when a connection ends: its places in rooms, then in presence."""
    in_rooms = [Membership(connection_id, connection.client_id, r, connection.stays.get(r, 0)) for r in rooms]
    return [*in_rooms, Membership(connection_id, connection.client_id, None)]
