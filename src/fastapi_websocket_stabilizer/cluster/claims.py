"""Who holds a client: claims, displacement, release, and claiming again after the lease lapsed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import islice
from typing import Any

from .. import close_codes
from ..exceptions import BackendUnavailableError, ConnectionLimitExceededError
from ..local.connection import Connection
from ..local.owner import Ended
from ..models import PresenceEvent
from ..names import ConnectionId, node_of
from ..ports import Claim, Claimed, Membership
from ..wire import Envelope, Kind, encode_json
from .context import Context
from .membership import Membership as Leases
from .presence import Announcer, client_joined, client_left, room_joined, room_left

REPLACED = "reconnected"
"""The close reason of a displaced socket, as release 1.1 says it."""
RECLAIM_BATCH = 200

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
        self._unreleased: dict[ConnectionId, tuple[str, tuple[str, ...]]] = {}

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
        body = {"since": connection.since.timestamp(), "metadata": connection.metadata}
        return Claim(
            connection.client_id,
            connection.connection_id,
            self._context.config.max_connections_per_client,
            encode_json(body, "metadata") if self._context.is_distributed else b"",
            connection.stamp,
            replaces,
        )

    async def _claim_if_free(self, claim: Claim) -> Claimed:
        claimed = await self._context.backend.presence.claim_if_free(claim)
        if not claimed.stamp and await self._release_dead(claim.client_id, claimed.others):
            claimed = await self._context.backend.presence.claim_if_free(claim)
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

    async def release(self, client_id: str, connection_id: ConnectionId, rooms: tuple[str, ...]) -> Report:
        """Take a connection out of its rooms and of presence; return what is still to be done about it.

        What Redis does not take is tried again each beat: presence must not lie for as long as we live.
        """
        backend = self._context.backend
        try:
            *left, is_last = await asyncio.gather(
                *(backend.rooms.leave(room, connection_id) for room in rooms),
                backend.presence.release(client_id, connection_id),
            )
        except BackendUnavailableError:
            self._unreleased[connection_id] = (client_id, rooms)
            raise
        events = [
            room_left(client_id, connection_id, r)
            for r, was_there in zip(rooms, left, strict=True)
            if was_there
        ]
        if is_last:
            events.append(client_left(client_id, connection_id))
        lines = [Membership(connection_id, client_id, room) for room in (*rooms, None)]
        return self._report(events, lines)

    async def _report(self, events: list[PresenceEvent], lines: list[Membership]) -> None:
        """Run the leave hooks, and only then drop the index: if we die in one, the sweeper runs it again."""
        for event in events:
            await self._announce(event)
        await self._context.backend.nodes.forget(node_of(lines[0].connection_id), lines)

    async def enter_room(self, connection: Connection, room: str) -> None:
        """List a connection in a room; its node has subscribed already."""
        if await self._context.backend.rooms.join(room, connection.client_id, connection.connection_id):
            await self._announce(room_joined(connection.client_id, connection.connection_id, room))

    async def exit_room(self, connection: Connection, room: str) -> None:
        """Take a connection off a room's list."""
        backend, connection_id = self._context.backend, connection.connection_id
        if await backend.rooms.leave(room, connection_id):
            await self._announce(room_left(connection.client_id, connection_id, room))
        line = Membership(connection_id, connection.client_id, room)
        await backend.nodes.forget(node_of(connection_id), [line])

    async def beat(self) -> None:
        """Repeat what was not done yet: evicts that nobody answered, releases that Redis did not take."""
        unreleased, self._unreleased = self._unreleased, {}
        for connection_id, (client_id, rooms) in unreleased.items():
            await (await self.release(client_id, connection_id, rooms))
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

    async def reclaim_all(self) -> None:
        """Register every local connection again under the present node_id, each with its old rank."""
        own = self._context.node_id
        former = [c for c in self._context.shards if node_of(c.connection_id) != own]
        old_ids = {node_of(c.connection_id) for c in former} | set(self._context.former_ids)
        connections = iter(former)
        while batch := list(islice(connections, RECLAIM_BATCH)):
            await asyncio.gather(*map(self._reclaim, batch))
        for old in old_ids:
            await self._context.backend.nodes.retire(old)

    async def _reclaim(self, connection: Connection) -> None:
        if connection.ended is not None:
            return
        former = connection.connection_id
        self._context.shards.rename(connection, self._context.next_connection_id())
        claimed = await self._context.backend.presence.claim(self._claim(connection, replaces=former))
        for room in tuple(connection.rooms):
            await self._context.backend.rooms.leave(room, former)
            await self._context.backend.rooms.join(room, connection.client_id, connection.connection_id)
        # In the middle of a beat: nobody's hook and nobody's socket may hold up the lease.
        if claimed.first:
            event = client_joined(connection.client_id, connection.connection_id)
            self._context.tasks.spawn(self._announce(event), "announce")
        for connection_id in claimed.others:
            self._context.tasks.spawn(self._displace(connection.client_id, (connection_id,)), "displace")
        if connection.ended is not None:  # it ended while it was claimed
            release = self.release(connection.client_id, connection.connection_id, tuple(connection.rooms))
            self._context.tasks.spawn(self._finish_release(release), "release")

    async def _finish_release(self, release: Awaitable[Report]) -> None:
        await (await release)
