"""Presence, rooms, tokens and leases in Redis. Every script is idempotent, so a lost connection is retried.

The index of what a sweep must undo is written *before* the entry it is about: in the same pipeline, or in a
cluster, where they may be on different servers, confirmed before the entry is sent.
"""

from collections.abc import Sequence

from ...names import ConnectionId, NodeId, node_of
from ...ports import Claim, Claimed, Entry, Membership, Renewal
from . import scripts
from .duties import Commands
from .keys import Keys


class RedisPresence:
    """``ports.PresenceStore``."""

    def __init__(self, keys: Keys, pipeline: Commands) -> None:
        self._keys, self._pipeline = keys, pipeline

    async def claim(self, claim: Claim) -> Claimed:
        await self._write_index(claim)
        return _claimed(
            await self._pipeline.call(
                scripts.CLIENT_CLAIM,
                [self._keys.client(claim.client_id)],
                claim.connection_id,
                claim.top,
                claim.stamp,
                claim.replaces,
                claim.entry,
                idempotent=True,
            )
        )

    async def claim_if_free(self, claim: Claim) -> Claimed:
        await self._write_index(claim)
        return _claimed(
            await self._pipeline.call(
                scripts.CLIENT_CLAIM_IF_FREE,
                [self._keys.client(claim.client_id)],
                claim.connection_id,
                claim.top,
                claim.entry,
                idempotent=True,
            )
        )

    async def release(self, client_id: str, connection_id: ConnectionId) -> bool:
        key = self._keys.client(client_id)
        return bool(await self._pipeline.call(scripts.CLIENT_RELEASE, [key], connection_id, idempotent=True))

    async def entries(self, client_ids: Sequence[str]) -> list[list[Entry]]:
        calls = [self._pipeline.send("HGETALL", self._keys.client(c), idempotent=True) for c in client_ids]
        return [_entries(await call) for call in calls]

    async def _write_index(self, claim: Claim) -> None:
        key = self._keys.connections(node_of(claim.connection_id))
        written = self._pipeline.send("HSET", key, claim.connection_id, claim.client_id, idempotent=True)
        if not self._pipeline.is_ordered:
            await written


def _claimed(reply: list[bytes]) -> Claimed:
    stamp, before, *others = reply
    return Claimed(int(stamp), not int(before), tuple(ConnectionId(other.decode()) for other in others))


def _entries(reply: list[bytes]) -> list[Entry]:
    entries = []
    for connection_id, value in zip(reply[::2], reply[1::2], strict=True):
        stamp, _, entry = value.partition(b" ")
        entries.append(Entry(ConnectionId(connection_id.decode()), int(stamp), entry))
    return sorted(entries, key=lambda entry: entry.stamp, reverse=True)


class RedisRooms:
    """``ports.RoomStore``."""

    def __init__(self, keys: Keys, pipeline: Commands) -> None:
        self._keys, self._pipeline = keys, pipeline

    async def join(self, room: str, client_id: str, connection_id: ConnectionId, stay: int = 0) -> bool:
        node = node_of(connection_id)
        written = self._pipeline.send(
            "HSET",
            self._keys.memberships(node),
            f"{connection_id} {room}",
            f"{stay} {client_id}",
            idempotent=True,
        )
        if not self._pipeline.is_ordered:
            await written
        keys = [self._keys.room(room), self._keys.room_counts(room)]
        call = self._pipeline.call(scripts.ROOM_JOIN, keys, connection_id, client_id, node, idempotent=True)
        return bool(await call)

    async def leave(self, room: str, connection_id: ConnectionId) -> bool:
        keys = [self._keys.room(room), self._keys.room_counts(room)]
        node = node_of(connection_id)
        return bool(await self._pipeline.call(scripts.ROOM_LEAVE, keys, connection_id, node, idempotent=True))

    async def members(self, room: str, cursor: str, limit: int) -> tuple[list[tuple[ConnectionId, str]], str]:
        # HSCAN gives a small hash (up to hash-max-listpack-entries) whole, whatever COUNT says: the cursor
        # also remembers after which member of such an answer to go on.
        scan, _, last = cursor.partition(">")
        key = self._keys.room(room)
        reply = await self._pipeline.send("HSCAN", key, scan or "0", "COUNT", limit, idempotent=True)
        pairs = [item.decode() for item in reply[1]]
        found = sorted((ConnectionId(c), i) for c, i in zip(pairs[::2], pairs[1::2], strict=True) if c > last)
        if len(found) > limit:
            return found[:limit], f"{scan or '0'}>{found[limit - 1][0]}"
        return found, "" if reply[0] == b"0" else reply[0].decode()

    async def counts(self, room: str) -> dict[NodeId, int]:
        reply = await self._pipeline.send("HGETALL", self._keys.room_counts(room), idempotent=True)
        return {NodeId(node.decode()): int(n) for node, n in zip(reply[::2], reply[1::2], strict=True)}


class RedisTokens:
    """``ports.TokenStore``."""

    def __init__(self, keys: Keys, pipeline: Commands) -> None:
        self._keys, self._pipeline = keys, pipeline

    async def issue(self, digest: str, client_id: str, ttl_ms: int) -> None:
        await self._pipeline.send(
            "SET", self._keys.token(digest, client_id), client_id, "PX", ttl_ms, idempotent=True
        )

    def issue_now(self, digest: str, client_id: str, ttl_ms: int) -> None:
        self._pipeline.send(
            "SET", self._keys.token(digest, client_id), client_id, "PX", ttl_ms, idempotent=True
        )

    async def redeem(self, digest: str, client_id: str) -> bool:
        # Never sent twice: a reply that got lost would have eaten the token, and the second would say so.
        reply = await self._pipeline.send("GETDEL", self._keys.token(digest, client_id), idempotent=False)
        return reply is not None and reply.decode() == client_id

    async def share_secret(self, offer: bytes) -> bytes:
        self._pipeline.send("SET", self._keys.secret, offer, "NX", idempotent=True)
        secret: bytes = await self._pipeline.send("GET", self._keys.secret, idempotent=True)
        return secret


class RedisNodes:
    """``ports.NodeStore``; renewal has a connection of its own, so that no traffic can delay it."""

    def __init__(self, keys: Keys, pipeline: Commands, lease_pipeline: Commands) -> None:
        self._keys, self._pipeline, self._leases = keys, pipeline, lease_pipeline

    async def register(self, node: NodeId, info: bytes, ttl_ms: int) -> None:
        keys = [self._keys.leases, self._keys.info(node)]
        await self._leases.call(scripts.NODE_REGISTER, keys, node, ttl_ms, info, idempotent=True)

    async def renew(self, node: NodeId, info: bytes, ttl_ms: int) -> Renewal:
        keys = [self._keys.leases, self._keys.dead, self._keys.info(node)]
        held, now_ms, live, lapsed = await self._leases.call(
            scripts.NODE_RENEW, keys, node, ttl_ms, info, idempotent=True
        )
        remaining = {
            NodeId(n.decode()): int(float(at)) - now_ms for n, at in zip(live[::2], live[1::2], strict=True)
        }
        return Renewal(bool(held), remaining, tuple(NodeId(n.decode()) for n in lapsed))

    async def infos(self, nodes: Sequence[NodeId]) -> list[tuple[bytes | None, int]]:
        calls = [
            (
                self._pipeline.send("GET", self._keys.info(node), idempotent=True),
                self._pipeline.send("HLEN", self._keys.connections(node), idempotent=True),
            )
            for node in nodes
        ]
        return [(await info, await connections) for info, connections in calls]

    async def fence(self, node: NodeId, ttl_ms: int) -> bool:
        keys = [self._keys.leases, self._keys.dead]
        return bool(await self._pipeline.call(scripts.NODE_FENCE, keys, node, ttl_ms, idempotent=False))

    async def abandon(self, node: NodeId, ttl_ms: int) -> bool:
        keys = [self._keys.leases, self._keys.dead]
        return bool(await self._pipeline.call(scripts.NODE_ABANDON, keys, node, ttl_ms, idempotent=False))

    async def extend_fence(self, node: NodeId, ttl_ms: int) -> None:
        await self._pipeline.call(scripts.NODE_FENCE_EXTEND, [self._keys.dead], node, ttl_ms, idempotent=True)

    async def connections(self, node: NodeId, cursor: str, limit: int) -> tuple[list[Membership], str]:
        return await self._lines(self._keys.connections(node), cursor, limit)

    async def memberships(self, node: NodeId, cursor: str, limit: int) -> tuple[list[Membership], str]:
        return await self._lines(self._keys.memberships(node), cursor, limit)

    async def _lines(self, key: str, cursor: str, limit: int) -> tuple[list[Membership], str]:
        reply = await self._pipeline.send("HSCAN", key, cursor or "0", "COUNT", limit, idempotent=True)
        lines = [_line(f.decode(), c.decode()) for f, c in zip(reply[1][::2], reply[1][1::2], strict=True)]
        return lines, "" if reply[0] == b"0" else reply[0].decode()

    async def forget(self, node: NodeId, lines: Sequence[Membership]) -> None:
        calls = []
        for key, names in (
            (
                self._keys.memberships(node),
                [f"{x.connection_id} {x.room}" for x in lines if x.room is not None],
            ),
            (self._keys.connections(node), [x.connection_id for x in lines if x.room is None]),
        ):
            if names:
                calls.append(self._pipeline.send("HDEL", key, *names, idempotent=True))
        for call in calls:
            await call

    async def retire(self, node: NodeId) -> None:
        keys = self._keys.memberships(node), self._keys.connections(node), self._keys.info(node)
        for gone in [self._pipeline.send("UNLINK", key, idempotent=True) for key in keys]:
            await gone  # in a cluster they are elsewhere, and as long as one is there somebody must sweep
        self._pipeline.send("ZREM", self._keys.leases, node, idempotent=True)
        await self._pipeline.send("ZREM", self._keys.dead, node, idempotent=True)


def _line(field: str, value: str) -> Membership:
    connection_id, separator, room = field.partition(" ")
    if not separator:
        return Membership(ConnectionId(connection_id), value, None)
    stay, _, client_id = value.partition(" ")
    return Membership(ConnectionId(connection_id), client_id, room, int(stay))
