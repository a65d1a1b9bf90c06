"""Who holds a client: claims, displacement, release, and claiming again after the lease lapsed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from .. import close_codes
from ..exceptions import BackendUnavailableError, ConnectionLimitExceededError, MessageError
from ..local.connection import Connection
from ..local.owner import Ended
from ..models import PresenceEvent
from ..names import ConnectionId, NodeId, node_of
from ..ports import Claim, Claimed, Membership
from ..wire import Envelope, Kind, encode_json
from .context import Context
from .membership import Membership as Leases
from .presence import Announcer, client_joined, client_left, is_gone, room_joined, room_left

REPLACED = "reconnected"
"""The close reason of a displaced socket, as release 1.1 says it."""
BATCH = 200
MAX_UNRELEASED = 100_000
"""Releases remembered while Redis is away; of an older one the sweep takes care when this node ends."""

Report = Coroutine[Any, Any, None]
"""The rest of a release: hooks, which may be slow, and the index after them."""
End = Callable[[Connection, Ended, int, str], Awaitable[None]]


class Claims:
    """Enters this node's connections in the registry and takes them out, exactly."""

    def __init__(self, context: Context, leases: Leases | None, announce: Announcer, end: End) -> None:
        self._context, self._leases, self._announce, self._end = context, leases, announce, end
        # Outranked connections on other nodes, until their entry is gone; the evict is repeated each beat.
        self._displaced: dict[ConnectionId, str] = {}
        # Releases that Redis did not take; repeated each beat.
        self._unreleased: dict[Membership, None] = {}
        # Connections to be claimed again, with the id they were claimed under before.
        self._unclaimed: dict[Connection, ConnectionId] = {}
        self._is_catching_up = False
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
        config = self._context.config
        claim = self._claim(connection)
        if config.on_client_overflow == "replace":
            claimed = await self._context.backend.presence.claim(claim)
        else:
            claimed = await self._claim_if_free(claim)
        connection.stamp = claimed.stamp
        if claimed.first:
            await self._announce(client_joined(connection.client_id, connection.connection_id))
        await self._displace(connection.client_id, await self._outranked(claim, claimed))

    async def _outranked(self, claim: Claim, claimed: Claimed) -> tuple[ConnectionId, ...]:
        """Whom a claim displaces; an entry that a dead node left must not take a living one's place."""
        if claim.top == 1 or not claimed.others or self._leases is None:
            return claimed.others
        (entries,) = await self._context.backend.presence.entries([claim.client_id])
        live = await self._leases.live_among(node_of(entry.connection_id) for entry in entries)
        for entry in entries:
            if node_of(entry.connection_id) not in live:
                await self._context.backend.presence.release(claim.client_id, entry.connection_id)
        living = [entry.connection_id for entry in entries if node_of(entry.connection_id) in live]
        return tuple(living[claim.top :])

    def _claim(self, connection: Connection, replaces: str = "") -> Claim:
        return Claim(
            connection.client_id,
            connection.connection_id,
            self._context.config.max_connections_per_client,
            self._entry(connection) if self._context.is_distributed else b"",
            connection.stamp,
            replaces,
        )

    @staticmethod
    def _entry(connection: Connection) -> bytes:
        since = connection.since.timestamp()
        try:
            return encode_json({"since": since, "metadata": connection.metadata}, "metadata")
        except MessageError:
            if not connection.stamp:
                raise
            # Claimed again after the application put something into it: better without than not at all.
            return encode_json({"since": since, "metadata": {}}, "metadata")

    async def _claim_if_free(self, claim: Claim) -> Claimed:
        claimed = await self._context.backend.presence.claim_if_free(claim)
        if not claimed.stamp and await self._release_dead(claim.client_id, claimed.others):
            claimed = await self._context.backend.presence.claim_if_free(claim)
            # Nobody was told that the dead one had left, so nobody is to be told that somebody joined.
            claimed = replace(claimed, first=False)
        if not claimed.stamp:
            raise ConnectionLimitExceededError(
                f"client {claim.client_id!r} already has {len(claimed.others)} connections, "
                f"max_connections_per_client is {claim.top}"
            )
        return claimed

    async def _release_dead(self, client_id: str, holders: tuple[ConnectionId, ...]) -> bool:
        """Release the places that dead nodes hold; True when there were any."""
        if self._leases is None:
            return False
        live = await self._leases.live_among(map(node_of, holders))
        dead = [holder for holder in holders if node_of(holder) not in live]
        for holder in dead:
            await self._context.backend.presence.release(client_id, holder)
        return bool(dead)

    async def _displace(self, client_id: str, outranked: tuple[ConnectionId, ...]) -> None:
        for connection_id in outranked:
            local = self._context.shards.get(connection_id)
            if local is not None:
                self._context.counters.connections_displaced += 1
                await self._end(local, Ended.REPLACED, close_codes.NORMAL, REPLACED)
            elif not self._context.is_own(node_of(connection_id)):
                self._displaced[connection_id] = client_id
                with suppress(BackendUnavailableError):  # the beat repeats it
                    await self._evict(connection_id)

    async def _evict(self, connection_id: ConnectionId) -> None:
        sequence, _ = self._context.sequencer.next("inbox")
        node = self._context.node_id
        envelope = Envelope(node, sequence, 0, Kind.EVICT, targets=(connection_id,))
        await self._context.backend.bus.publish_node(node_of(connection_id), envelope)

    async def evicted(self, connection_id: ConnectionId) -> None:
        """Another node's claim outranks this connection."""
        connection = self._context.shards.get(connection_id)
        if connection is not None:
            self._context.counters.connections_displaced += 1
            await self._end(connection, Ended.REPLACED, close_codes.NORMAL, REPLACED)

    async def release(self, lines: list[Membership], *, is_repeated: bool = False) -> Report:
        """Undo places in rooms and in presence; return what is still to be done about it.

        What Redis does not take is tried again each beat: presence must not lie for as long as we live.
        """
        try:
            events = await asyncio.gather(*(self._undo(line, is_repeated=is_repeated) for line in lines))
        except BackendUnavailableError:
            self._remember_unreleased(lines)
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

    def _remember_unreleased(self, lines: list[Membership]) -> None:
        # What a former node_id of ours left is its sweeper's, who reports it, too.
        own = self._context.node_id
        self._unreleased.update((line, None) for line in lines if node_of(line.connection_id) == own)
        while len(self._unreleased) > MAX_UNRELEASED:
            del self._unreleased[next(iter(self._unreleased))]
            self._context.counters.releases_dropped += 1

    async def enter_room(self, connection: Connection, room: str) -> None:
        """List a connection in a room; its node has subscribed already."""
        client_id, connection_id = connection.client_id, connection.connection_id
        self._unreleased.pop(Membership(connection_id, client_id, room), None)
        self._stays += 1
        stay = connection.stays[room] = self._stays
        if await self._context.backend.rooms.join(room, client_id, connection_id, stay):
            await self._announce(room_joined(client_id, connection_id, room, stay))

    async def exit_room(self, connection: Connection, room: str) -> None:
        """Take a connection off a room's list."""
        stay = connection.stays.pop(room, 0)
        line = Membership(connection.connection_id, connection.client_id, room, stay)
        await (await self.release([line]))

    async def beat(self) -> None:
        """Go on with what was not done yet; it is not lost if Redis fails us again in the middle."""
        if self._is_catching_up:
            return
        self._is_catching_up = True
        try:
            await self.reclaim_pending()
            await self.release_pending()
            await self._repeat_evicts()
        finally:
            self._is_catching_up = False

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

    async def _repeat_evicts(self) -> None:
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

    def rename_all(self) -> None:
        """Give every local connection an id of the present node_id; each is to be claimed again."""
        own = self._context.node_id
        self._unreleased.clear()  # its sweeper's, from now on
        for connection in self._context.shards:
            former = connection.connection_id
            if node_of(former) != own:
                self._context.shards.rename(connection, self._context.next_connection_id())
                self._unclaimed.setdefault(connection, former)  # the last one that Redis is known to have

    async def reclaim_pending(self) -> None:
        """Register renamed connections again, each with its old rank; what Redis does not take, each beat."""
        while batch := list(islice(self._unclaimed.items(), BATCH)):
            await asyncio.gather(*(self._reclaim(connection, former) for connection, former in batch))

    async def _reclaim(self, connection: Connection, former: ConnectionId) -> None:
        backend, connection_id, rooms = (
            self._context.backend,
            connection.connection_id,
            tuple(connection.rooms),
        )
        if connection.ended is None:
            claimed = await backend.presence.claim(self._claim(connection, replaces=former))
            for room in rooms:
                await self._reclaim_room(connection, former, room)
            await backend.nodes.forget(node_of(former), lines_of(connection, former, rooms))
            # Nobody's hook and nobody's socket may hold this up: what we serve waits for it.
            if claimed.first:
                event = client_joined(connection.client_id, connection_id)
                self._context.tasks.spawn(self._announce(event), "announce")
            self._context.tasks.spawn(self._displace(connection.client_id, claimed.others), "displace")
        self._unclaimed.pop(connection, None)
        if connection.ended is not None or connection.connection_id != connection_id:  # meanwhile
            self._remember_unreleased(lines_of(connection, connection_id, rooms))

    async def _reclaim_room(self, connection: Connection, former: ConnectionId, room: str) -> None:
        backend, connection_id, client_id = (
            self._context.backend,
            connection.connection_id,
            connection.client_id,
        )
        was_listed = await backend.rooms.leave(room, former)
        if room not in connection.rooms:
            return
        stay = connection.stays.get(room, 0)
        await backend.rooms.join(room, client_id, connection_id, stay)
        if not was_listed:  # a sweeper said that it had left
            event = room_joined(client_id, connection_id, room, stay)
            self._context.tasks.spawn(self._announce(event), "announce")
        if room not in connection.rooms:  # left while it was listed again
            self._remember_unreleased([Membership(connection_id, client_id, room, stay)])


def lines_of(connection: Connection, connection_id: ConnectionId, rooms: Iterable[str]) -> list[Membership]:
    """Return what is to be undone when a connection ends: its places in rooms, then in presence."""
    in_rooms = [Membership(connection_id, connection.client_id, r, connection.stays.get(r, 0)) for r in rooms]
    return [*in_rooms, Membership(connection_id, connection.client_id, None)]
