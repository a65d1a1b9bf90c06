"""Presence, rooms, tokens and leases in Redis. Idempotent calls are retried after a lost connection.

The index line of an entry is written *before* the entry, so that a sweep finds every entry. Both are in the same
pipeline. In a cluster they may be on different servers, so the line is confirmed before the entry is sent.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Sequence
from functools import partial

from ...exceptions import InvalidCursorError
from ...names import ConnectionId, NodeId, node_of
from ..ports import Claim, Claimed, Entry, IndexEntry, Removed, Renewal
from . import reading, scripts
from .command import Argument
from .connection import WrongTypeError
from .guard import RedisClock
from .keys import Keys
from .ports import CommandConnection
from .reading import Reader
from .scripts import Script

SCAN_CURSORS = 2**64
"""Upper bound of HSCAN cursors; Redis rejects larger ones."""


class IndexLine:
    """A line of a node's index, queued for Redis at construction."""

    def __init__(self, pipeline: CommandConnection, key: str, field: str, value: str) -> None:
        self._pipeline, self._key, self._line = pipeline, key, (field, value)
        self._written = self._write()

    def _write(self) -> "asyncio.Future[int]":
        return self._pipeline.set_field(self._key, *self._line)

    async def is_written(self) -> None:
        """Return when the line is written. Raise Redis' error: a full server may reject the line only."""
        try:
            await self._reply()
        except WrongTypeError:  # a foreign key
            self._pipeline.separate(self._key)
            await self._pipeline.send("UNLINK", self._key, idempotent=True)
            self._written = self._write()
            await self._reply()

    async def _reply(self) -> None:
        if not self._written.done():  # it is, where commands are ordered and the entry was written
            await asyncio.shield(self._written)  # other lines may share it
        self._written.result()


class RedisPresence:
    """``ports.PresenceStore``."""

    def __init__(self, keys: Keys, pipeline: CommandConnection, reader: Reader) -> None:
        self._keys, self._pipeline, self._reader = keys, pipeline, reader

    async def claim(self, claim: Claim) -> Claimed:
        name, top = claim.connection_id, claim.top
        arguments = name, top, claim.stamp, claim.replaces, claim.entry, claim.visit
        if not claim.sid:
            return await self._enter(claim, scripts.CLIENT_CLAIM, *arguments)
        return await self._enter(claim, scripts.SESSION_CLAIM, *arguments, claim.sid, claim.former)

    async def claim_if_free(self, claim: Claim, dead: Sequence[ConnectionId] = ()) -> Claimed:
        arguments = claim.connection_id, claim.top, claim.entry
        if not claim.sid:
            return await self._enter(claim, scripts.CLIENT_CLAIM_IF_FREE, *arguments, *dead)
        return await self._enter(claim, scripts.SESSION_CLAIM_IF_FREE, *arguments, claim.former, *dead)

    async def release(self, client_id: str, connection_id: ConnectionId) -> Removed:
        keys = [self._keys.client(client_id), self._keys.unreported(client_id)]
        call = self._pipeline.call(scripts.CLIENT_RELEASE, keys, connection_id, idempotent=True)
        was_there, joined, left = await call
        return Removed(bool(was_there), joined.decode(), left.decode())

    async def update(self, client_id: str, connection_id: ConnectionId, entry: bytes) -> bool:
        keys = [self._keys.client(client_id)]
        call = self._pipeline.call(scripts.PRESENCE_UPDATE, keys, connection_id, entry, idempotent=True)
        return bool(await call)

    async def reported(self, place: IndexEntry, *kinds: str) -> None:
        await self._pipeline.send("HDEL", self._noted_in(place), *map(place.event, kinds), idempotent=True)

    async def begun(self, places: Sequence[IndexEntry]) -> None:
        by_key: dict[str, list[str]] = {}
        for place in places:
            by_key.setdefault(self._noted_in(place), []).append(place.event("joined"))
        if self._pipeline.is_ordered:  # one server, so one script for all slots
            arguments: list[Argument] = []
            for events in by_key.values():
                arguments += (len(events), *events)
            await self._pipeline.call(scripts.PRESENCE_CONFIRM, by_key, *arguments, idempotent=True)
            return
        await asyncio.gather(
            *(self._pipeline.send("HDEL", key, *events, idempotent=True) for key, events in by_key.items())
        )

    def _noted_in(self, place: IndexEntry) -> str:
        return self._keys.unreported(place.client_id if place.room is None else place.room)

    async def entries(self, client_ids: Sequence[str]) -> list[list[Entry]]:
        calls = [self._pipeline.send("HGETALL", self._keys.client(c), idempotent=True) for c in client_ids]
        return [self._ranked(await self._reader.reply(call, [])) for call in calls]

    def _ranked(self, reply: list[bytes]) -> list[Entry]:
        return sorted(self._reader.each(reading.entry, reply), key=lambda entry: entry.stamp, reverse=True)

    async def _enter(self, claim: Claim, script: Script, *arguments: Argument) -> Claimed:
        index = self._keys.connections(node_of(claim.connection_id))
        line = IndexLine(self._pipeline, index, claim.connection_id, claim.client_id)
        if not self._pipeline.is_ordered:
            await line.is_written()
        keys = [self._keys.client(claim.client_id), self._keys.unreported(claim.client_id)]
        if claim.sid:
            keys.append(self._keys.sessions(claim.client_id))
        reply: list[bytes] = await self._pipeline.call(script, keys, *arguments, idempotent=True)
        await line.is_written()
        stamp, joined, visit, *rest = reply
        has_left, superseded = (int(rest.pop(0)), int(rest.pop(0))) if claim.sid else (0, 0)
        others = [ConnectionId(other.decode()) for other in rest]
        former, outranked = tuple(others[:superseded]), tuple(others[superseded:])
        return Claimed(int(stamp), bool(int(joined)), outranked, visit.decode(), former, bool(has_left))


class RedisRooms:
    """``ports.RoomStore``."""

    def __init__(self, keys: Keys, pipeline: CommandConnection, reader: Reader) -> None:
        self._keys, self._pipeline, self._reader = keys, pipeline, reader

    async def join(self, place: IndexEntry, *, replaces: str = "", is_known: bool = False) -> bool:
        node, value = node_of(place.connection_id), f"{place.stay} {place.client_id}"
        index = self._keys.memberships(node)
        field, named = f"{place.connection_id} {place.room}", f"{place.numbered} {place.client_id}"
        line = IndexLine(self._pipeline, index, field, named)
        if not self._pipeline.is_ordered:
            await line.is_written()
        joined = "" if is_known else place.event("joined")
        arguments = place.connection_id, value, node, joined, replaces, node_of(ConnectionId(replaces))
        keys = self._keys_of(place)
        is_to_be_reported = await self._pipeline.call(scripts.ROOM_JOIN, keys, *arguments, idempotent=True)
        await line.is_written()
        return bool(is_to_be_reported)

    async def leave(self, place: IndexEntry) -> Removed:
        joined, left = await self._pipeline.call(
            scripts.ROOM_LEAVE,
            self._keys_of(place),
            place.connection_id,
            node_of(place.connection_id),
            place.stay,
            place.event("joined"),
            place.event("left"),
            idempotent=True,
        )
        return Removed(bool(left), place.stay_id if joined else "", place.stay_id if left else "")

    def _keys_of(self, place: IndexEntry) -> list[str]:
        room = place.room or ""
        return [self._keys.room(room), self._keys.room_counts(room), self._keys.unreported(room)]

    async def members(self, room: str, cursor: str, limit: int) -> tuple[list[tuple[ConnectionId, str]], str]:
        # HSCAN ignores COUNT and returns a small hash (up to hash-max-listpack-entries) whole. So the cursor
        # also has the last member of the page, after which the next page begins.
        scan, _, last = cursor.partition(">")
        if not re.fullmatch(r"[0-9]{0,20}", scan) or int(scan or 0) >= SCAN_CURSORS:
            raise InvalidCursorError(f"cursor must be page.cursor, got {cursor!r}")
        key = self._keys.room(room)
        call = self._pipeline.send("HSCAN", key, scan or "0", "COUNT", limit, idempotent=True)
        reply: tuple[bytes, list[bytes]] = await self._reader.reply(call, (b"0", []))
        found = sorted(pair for pair in self._reader.each(reading.member, reply[1]) if pair[0] > last)
        if len(found) > limit:
            return found[:limit], f"{scan or '0'}>{found[limit - 1][0]}"
        return found, "" if reply[0] == b"0" else reply[0].decode()

    async def is_empty(self, room: str) -> bool:
        call = self._pipeline.send("HLEN", self._keys.room(room), idempotent=True)
        return not await self._reader.reply(call, 0)

    async def counts(self, room: str) -> dict[NodeId, int]:
        call = self._pipeline.send("HGETALL", self._keys.room_counts(room), idempotent=True)
        return dict(self._reader.each(reading.count, await self._reader.reply(call, [])))


class RedisTokens:
    """``ports.TokenStore``."""

    def __init__(self, keys: Keys, pipeline: CommandConnection, reader: Reader) -> None:
        self._keys, self._pipeline, self._reader = keys, pipeline, reader

    async def issue(self, digest: str, client_id: str, ttl_ms: int) -> None:
        await self._pipeline.send(
            "SET", self._keys.token(digest, client_id), client_id, "PX", ttl_ms, idempotent=True
        )

    def issue_now(self, digest: str, client_id: str, ttl_ms: int) -> None:
        self._pipeline.send(
            "SET", self._keys.token(digest, client_id), client_id, "PX", ttl_ms, idempotent=True
        )

    async def redeem(self, digest: str, client_id: str) -> bool:
        # Never retried: after a lost reply the token is gone, and a second GETDEL would report it as unknown.
        call = self._pipeline.send("GETDEL", self._keys.token(digest, client_id), idempotent=False)
        return bool(await self._reader.reply(call, None) == client_id.encode())

    async def revoke(self, digest: str, client_id: str) -> None:
        await self._pipeline.send("UNLINK", self._keys.token(digest, client_id), idempotent=True)

    async def share_secret(self, offer: bytes) -> bytes:
        keys = [self._keys.secret]
        secret: bytes = await self._pipeline.call(scripts.AGREE, keys, offer, idempotent=True)
        return secret


class RedisNodes:
    """``ports.NodeStore``. Renewals have their own connection, so that other traffic cannot delay them."""

    def __init__(
        self,
        keys: Keys,
        pipeline: CommandConnection,
        lease_pipeline: CommandConnection,
        reader: Reader,
        clock: RedisClock | None = None,
    ) -> None:
        self._keys, self._pipeline, self._leases = keys, pipeline, lease_pipeline
        self._reader, self._clock = reader, clock

    async def learn_time(self) -> None:
        """Request Redis' time, which each later renewal returns."""
        if self._clock is not None:
            await self._clock.ask(self._leases)

    async def register(self, node: NodeId, info: bytes, ttl_ms: int) -> str:
        keys, offer = [self._keys.leases, self._keys.info(node), self._keys.epoch], secrets.token_hex(8)
        call = self._leases.call(scripts.NODE_REGISTER, keys, node, ttl_ms, info, offer, idempotent=True)
        epoch: bytes = await call
        return epoch.decode(errors="replace")

    async def renew(self, node: NodeId, info: bytes, ttl_ms: int) -> Renewal:
        keys = [
            self._keys.leases,
            self._keys.dead,
            self._keys.info(node),
            self._keys.epoch,
            self._keys.secret,
        ]
        asked_at_s = time.monotonic()
        held, now_ms, live, lapsed, epoch, secret = await self._leases.call(
            scripts.NODE_RENEW, keys, node, ttl_ms, info, secrets.token_hex(8), idempotent=True
        )
        if self._clock is not None:
            self._clock.learn(asked_at_s, now_ms / 1000)
        remaining = {n: deadline - now_ms for n, deadline in self._reader.each(reading.lease, live)}
        lapsed = tuple(self._reader.each(reading.node, lapsed, 1))
        shared = epoch.decode(errors="replace"), secret.decode()
        return Renewal(bool(held), remaining, lapsed, *shared, now_ms)

    async def live(self) -> dict[NodeId, int]:
        # No script, since Redis treats one as a write. In a cluster, TIME goes to the server with the leases.
        clock = self._pipeline.send("TIME", idempotent=True)
        leases = self._pipeline.send(
            "ZRANGEBYSCORE", self._keys.leases, "-inf", "+inf", "WITHSCORES", idempotent=True
        )
        seconds, microseconds = map(int, await clock)
        now_ms = seconds * 1000 + microseconds // 1000
        found = self._reader.each(reading.lease, await self._reader.reply(leases, []))
        return {node: deadline - now_ms for node, deadline in found if deadline > now_ms}

    async def infos(self, nodes: Sequence[NodeId]) -> list[tuple[bytes | None, int]]:
        calls = [
            (
                self._pipeline.send("GET", self._keys.info(node), idempotent=True),
                self._pipeline.send("HLEN", self._keys.connections(node), idempotent=True),
            )
            for node in nodes
        ]
        read = self._reader.reply
        return [(await read(info, None), await read(connections, 0)) for info, connections in calls]

    async def fence(self, node: NodeId, ttl_ms: int) -> bool:
        keys = [self._keys.leases, self._keys.dead]
        return bool(await self._pipeline.call(scripts.NODE_FENCE, keys, node, ttl_ms, idempotent=False))

    async def abandon(self, node: NodeId, ttl_ms: int) -> bool:
        keys = [self._keys.leases, self._keys.dead]
        return bool(await self._pipeline.call(scripts.NODE_ABANDON, keys, node, ttl_ms, idempotent=False))

    async def extend_fence(self, node: NodeId, ttl_ms: int) -> None:
        await self._pipeline.call(scripts.NODE_FENCE_EXTEND, [self._keys.dead], node, ttl_ms, idempotent=True)

    async def shorten(self, node: NodeId, ttl_ms: int) -> bool:
        call = self._pipeline.call(scripts.NODE_SHORTEN, [self._keys.leases], node, ttl_ms, idempotent=True)
        return bool(await call)

    async def connections(self, node: NodeId, cursor: str, limit: int) -> tuple[list[IndexEntry], str]:
        return await self._lines(node, self._keys.connections(node), cursor, limit)

    async def memberships(self, node: NodeId, cursor: str, limit: int) -> tuple[list[IndexEntry], str]:
        return await self._lines(node, self._keys.memberships(node), cursor, limit)

    async def _lines(self, node: NodeId, key: str, cursor: str, limit: int) -> tuple[list[IndexEntry], str]:
        call = self._pipeline.send("HSCAN", key, cursor or "0", "COUNT", limit, idempotent=True)
        reply: tuple[bytes, list[bytes]] = await self._reader.reply(call, (b"0", []))
        lines = self._reader.each(partial(reading.line, node), reply[1])
        return lines, "" if reply[0] == b"0" else reply[0].decode()

    async def index_sizes(self, node: NodeId) -> tuple[int, int]:
        keys = self._keys.connections(node), self._keys.memberships(node)
        connections, memberships = [self._pipeline.send("HLEN", key, idempotent=True) for key in keys]
        read = self._reader.reply
        return await read(connections, 0), await read(memberships, 0)

    async def forget(self, node: NodeId, lines: Sequence[IndexEntry]) -> None:
        calls = []
        for key, names in (
            (
                self._keys.memberships(node),
                [f"{x.connection_id} {x.room}" for x in lines if x.room is not None],
            ),
            (self._keys.connections(node), [x.connection_id for x in lines if x.room is None]),
        ):
            if names:
                self._pipeline.separate(key)
                calls.append(self._pipeline.send("HDEL", key, *names, idempotent=True))
        for call in calls:
            await call

    async def retire(self, node: NodeId) -> None:
        keys = self._keys.memberships(node), self._keys.connections(node), self._keys.info(node)
        for key in keys:
            self._pipeline.separate(key)
        for gone in [self._pipeline.send("UNLINK", key, idempotent=True) for key in keys]:
            await gone  # before ZREM: if an UNLINK fails, the node must stay under sweep
        self._pipeline.send("ZREM", self._keys.leases, node, idempotent=True)
        await self._pipeline.send("ZREM", self._keys.dead, node, idempotent=True)
