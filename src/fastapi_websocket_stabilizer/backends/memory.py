"""The registry in one process: plain dicts, with the semantics of the Redis backend's scripts.

Several managers may share a ``MemoryHub``. No call waits, so it works on any event loop and without ``start()``.
One lock makes each operation atomic, as a script on Redis is.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from ..names import ConnectionId, NodeId, node_of, visit_of
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters
from ..wire.channels import ALL, INBOX, Channel, box_of
from ..wire.envelopes import Envelope, Part
from ..wire.tokens import sha1
from . import memory_clock
from .memory_logs import MemoryLogContent, MemoryLogs
from .memory_revocations import MemoryRevocations
from .memory_rooms import MemoryRooms
from .memory_rosters import MemoryRosters, ShownRoom
from .memory_sessions import Held, MemorySessions
from .memory_workers import Groups, MemoryWorkers
from .ports import Claim, Claimed, Entry, IndexEntry, Listening, Receive, Removed, Renewal, former_in
from .revocations import Revocation

MAX_TOKENS = 1_000_000
"""Maximum number of unused reconnect tokens; the oldest is evicted."""


class MemoryHub:
    """The shared content, which is in Redis for the Redis backend."""

    def __init__(self) -> None:
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self.clients: dict[str, dict[ConnectionId, Entry]] = {}
        self.rooms: dict[str, dict[ConnectionId, IndexEntry]] = {}
        self.sids: dict[ConnectionId, tuple[str, str]] = {}
        """The session of each connection in ``clients``, and the one that it continues; "" for none."""
        self.unreported: dict[str, str] = {}
        self.tokens: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self.secret = b""
        self.leases: dict[NodeId, int] = {}
        self.fences: dict[NodeId, int] = {}
        self.infos: dict[NodeId, bytes] = {}
        self.index: dict[NodeId, dict[IndexEntry, None]] = {}
        self.lives: int = 1
        """The number of times that the content was created; returned as its epoch."""
        self.listeners: dict[NodeId, tuple[Receive, set[Channel]]] = {}
        self.logged: MemoryLogContent = MemoryLogContent()
        self.sessions: dict[str, dict[str, Held]] = {}
        self.shown: dict[str, ShownRoom] = {}
        self.revoked: dict[str, dict[Revocation, int]] = {}
        self.workers: Groups = {}

    def now_us(self) -> int:
        """Microseconds of the clock of every id, expiry and stamp."""
        return memory_clock.now_us()

    def now_ms(self) -> int:
        return self.now_us() // 1000

    def is_live(self, node: NodeId) -> bool:
        return self.leases.get(node, 0) > self.now_ms()


class MemoryBackend:
    """The backend of one node on a hub; also its bus and its stores, except those in ``memory_*``."""

    def __init__(self, hub: MemoryHub, node: NodeId, receive: Receive, counters: Counters) -> None:
        self._hub, self._node, self._receive, self._counters = hub, node, receive, counters
        self._subscribed: set[Channel] = set()
        self.bus = self.presence = self.nodes = self.tokens = self
        self.rooms: MemoryRooms = MemoryRooms(hub.rooms, hub.index, hub.unreported, hub.lock)
        self.logs: MemoryLogs = MemoryLogs(hub.logged, hub.now_us, self._publish)
        self.sessions: MemorySessions = MemorySessions(
            hub.sessions, hub.lock, hub.now_us, counters, self._write_index
        )
        self.rosters: MemoryRosters = MemoryRosters(
            hub.shown, hub.lock, hub.now_us, self._publish, self._write_index
        )
        self.revocations: MemoryRevocations = MemoryRevocations(hub.revoked, hub.lock, hub.now_us, counters)
        self.workers: MemoryWorkers = MemoryWorkers(hub.workers, hub.lock, hub.is_live)
        hub.listeners[node] = (receive, self._subscribed)

    async def start(self, node: NodeId) -> None:
        await self.rename(node)

    async def rename(self, node: NodeId) -> None:
        self._hub.listeners.pop(self._node, None)
        self._node = node
        self._hub.listeners[node] = (self._receive, self._subscribed)

    def start_later(self, node: NodeId) -> None:
        """Do nothing: memory is always available."""

    def beat(self) -> None:
        """Do nothing: the bus cannot lose a message."""

    async def stop(self) -> None:
        """Do nothing: a stopped manager still answers its getters, and can be started again."""

    @property
    def is_connected(self) -> bool:
        return True

    @property
    def is_deaf(self) -> bool:
        return False

    @property
    def is_ordered(self) -> bool:
        return True

    @property
    def run_id(self) -> str:
        return ""

    def listening(self, channel: Channel) -> Listening | None:
        return Listening("", 0) if channel == ALL or channel in self._subscribed else None

    @property
    def heard_to_s(self) -> float:
        return self._hub.now_us() / 1_000_000

    @property
    def queued_bytes(self) -> int:
        return 0

    # Bus

    async def publish(self, channel: Channel, envelope: Envelope) -> int:
        return self._publish(channel, envelope)

    def _publish(self, channel: Channel, envelope: Envelope) -> int:
        listeners = tuple(self._hub.listeners.items())
        nodes = [node for node, (_, channels) in listeners if channel == ALL or channel in channels]
        return self._deliver(channel, envelope, nodes)

    async def publish_node(self, node: NodeId, envelope: Envelope) -> int:
        return self._deliver(INBOX, envelope, [node])

    def publish_clients(
        self, envelope: Envelope, top: int, but: Sequence[NodeId] = ()
    ) -> "asyncio.Future[list[list[NodeId]]]":
        rows, shares = [], dict[NodeId, list[Part]]()
        for part in envelope.parts:
            newest = [self._newest_nodes(client_id, top) for client_id in part.targets]
            nodes = [[node for node in row if node not in but] for row in newest]
            for node in dict.fromkeys(node for row in nodes for node in row):
                targets = [c for c, row in zip(part.targets, nodes, strict=True) if node in row]
                shares.setdefault(node, []).append(part._replace(targets=targets))
            rows += nodes
        took = {n: self._deliver(INBOX, replace(envelope, parts=tuple(s)), [n]) for n, s in shares.items()}
        reply: asyncio.Future[list[list[NodeId]]] = running_loop().create_future()
        reply.set_result([[node for node in row if took[node]] for row in rows])
        return reply

    def _newest_nodes(self, client_id: str, top: int) -> list[NodeId]:
        return list(dict.fromkeys(node_of(entry.connection_id) for entry in self._ranked(client_id)[:top]))

    async def subscribe_room(self, room: str) -> None:
        self._subscribed.add(Channel("room", room))

    def unsubscribe_room(self, room: str) -> None:
        self._subscribed.discard(Channel("room", room))

    async def subscribe_box(self, client_id: str) -> None:
        self._subscribed.add(box_of(client_id))

    def unsubscribe_box(self, client_id: str) -> None:
        self._subscribed.discard(box_of(client_id))

    def _deliver(self, channel: Channel, envelope: Envelope, nodes: Sequence[NodeId]) -> int:
        listeners = [listener for node in nodes if (listener := self._hub.listeners.get(node))]
        for receive, _ in listeners:
            receive(channel, envelope, len(envelope.body))
        return len(listeners)

    # PresenceStore

    async def claim(self, claim: Claim) -> Claimed:
        with self._hub.lock:
            entries = self._hub.clients.setdefault(claim.client_id, {})
            own, joined = entries.get(claim.connection_id), f"{claim.connection_id}:joined"
            visit = next((entry.visit for entry in entries.values()), claim.visit)
            if not visit:
                visit = self._hub.unreported[joined] = visit_of(claim.connection_id)
            self._drop(entries, ConnectionId(claim.replaces))
            same = [e.connection_id for e in entries.values() if claim.stamp > 0 and e.stamp == claim.stamp]
            for former in same:  # the same socket under an earlier id
                self._drop(entries, former)
            superseded, is_superseded = self._superseded(claim, entries)
            stamp = own.stamp if own else _lowest(entries) if is_superseded else claim.stamp
            if stamp <= 0:
                now_us = self._hub.now_us()
                highest = max((e.stamp for e in entries.values() if e not in superseded), default=0)
                stamp = now_us + stamp if stamp else max(now_us, highest + 1)
            entries[claim.connection_id] = Entry(claim.connection_id, stamp, claim.entry, visit)
            self._hub.sids[claim.connection_id] = (claim.sid, claim.former)
            self._write_index(IndexEntry(claim.connection_id, claim.client_id, None))
            former_ids = self._demote(entries, superseded)
            ranked = [e.connection_id for e in self._ranked(claim.client_id)]
            ranked = [name for name in ranked if name not in former_ids]
            if is_superseded:
                ranked.remove(claim.connection_id)
            others = (*ranked[claim.top :], *[claim.connection_id] * is_superseded)
            has_left = claim.former != "" and claim.client_id in self._hub.sessions
            return Claimed(stamp, joined in self._hub.unreported, others, visit, former_ids, has_left)

    def _drop(self, entries: dict[ConnectionId, Entry], connection_id: ConnectionId) -> Entry | None:
        self._hub.sids.pop(connection_id, None)
        return entries.pop(connection_id, None)

    def _superseded(self, claim: Claim, entries: dict[ConnectionId, Entry]) -> tuple[list[Entry], bool]:
        """Return the entries of the former session, and whether another entry supersedes this claim."""
        if not claim.sid:
            return [], False
        sids = {name: self._hub.sids[name] for name in entries if name != claim.connection_id}
        superseded = [entries[name] for name, (sid, _) in sids.items() if sid and sid == claim.former]
        return superseded, any(former == claim.sid for _, former in sids.values())

    @staticmethod
    def _demote(entries: dict[ConnectionId, Entry], superseded: Sequence[Entry]) -> tuple[ConnectionId, ...]:
        for entry in superseded:
            if (stamp := _lowest(entries)) < entry.stamp:
                entries[entry.connection_id] = replace(entry, stamp=stamp)
        return tuple(entry.connection_id for entry in superseded)

    async def claim_if_free(self, claim: Claim, dead: Sequence[ConnectionId] = ()) -> Claimed:
        with self._hub.lock:
            entries = self._hub.clients.get(claim.client_id, {})
            superseded, _ = self._superseded(claim, entries)
            freed = (claim.connection_id, *dead, *(entry.connection_id for entry in superseded))
            holders = tuple(holder for holder in entries if holder not in freed)
            if len(holders) >= claim.top:
                return Claimed(0, first=False, others=holders)
            claimed = await self.claim(claim)
            return replace(claimed, others=())

    async def release(self, client_id: str, connection_id: ConnectionId) -> Removed:
        left = f"{connection_id}:left"
        with self._hub.lock:
            entries, unreported = self._hub.clients.get(client_id, {}), self._hub.unreported
            removed = self._drop(entries, connection_id)
            if not entries:
                self._hub.clients.pop(client_id, None)
            if removed is not None:
                unreported[left] = "" if entries else removed.visit
            joined = unreported.get(f"{connection_id}:joined", "")
            return Removed(left in unreported, joined, unreported.get(left, ""))

    async def update(self, client_id: str, connection_id: ConnectionId, entry: bytes) -> bool:
        with self._hub.lock:
            entries = self._hub.clients.get(client_id, {})
            if (found := entries.get(connection_id)) is not None:
                entries[connection_id] = replace(found, entry=entry)
                self._hub.sids[connection_id] = (self._hub.sids[connection_id][0], former_in(entry))
            return found is not None

    async def reported(self, place: IndexEntry, *kinds: str) -> None:
        with self._hub.lock:
            for kind in kinds:
                self._hub.unreported.pop(place.event(kind), None)

    async def begun(self, places: Sequence[IndexEntry]) -> None:
        for place in places:
            await self.reported(place, "joined")

    async def entries(self, client_ids: Sequence[str]) -> list[list[Entry]]:
        with self._hub.lock:
            return [self._ranked(client_id) for client_id in client_ids]

    def _ranked(self, client_id: str) -> list[Entry]:
        entries = self._hub.clients.get(client_id, {}).values()
        return sorted(entries, key=lambda entry: entry.stamp, reverse=True)

    def _write_index(self, line: IndexEntry) -> None:
        index = self._hub.index.setdefault(node_of(line.connection_id), {})
        index.pop(line, None)  # else an equal line of an earlier stay would keep its ``stay``
        index[line] = None

    # TokenStore

    async def issue(self, digest: str, client_id: str, ttl_ms: int) -> None:
        self.issue_now(digest, client_id, ttl_ms)

    def issue_now(self, digest: str, client_id: str, ttl_ms: int) -> None:
        with self._hub.lock:
            tokens, now_ms = self._hub.tokens, self._hub.now_ms()
            while tokens and next(iter(tokens.values()))[1] <= now_ms:
                tokens.popitem(last=False)
            tokens[digest] = (client_id, now_ms + ttl_ms)
            if len(tokens) > MAX_TOKENS:
                tokens.popitem(last=False)
                self._counters.tokens_dropped += 1

    async def redeem(self, digest: str, client_id: str) -> bool:
        with self._hub.lock:
            found, deadline_ms = self._hub.tokens.pop(digest, ("", 0))
        return found == client_id and self._hub.now_ms() < deadline_ms

    async def revoke(self, digest: str, client_id: str) -> None:
        with self._hub.lock:
            self._hub.tokens.pop(digest, None)

    async def share_secret(self, offer: bytes) -> bytes:
        with self._hub.lock:
            self._hub.secret = self._hub.secret or offer
            return self._hub.secret

    # NodeStore

    async def register(self, node: NodeId, info: bytes, ttl_ms: int) -> str:
        with self._hub.lock:
            self._hub.leases[node] = self._hub.now_ms() + ttl_ms
            self._hub.infos[node] = info
            return str(self._hub.lives)

    async def renew(self, node: NodeId, info: bytes, ttl_ms: int) -> Renewal:
        with self._hub.lock:
            now_ms = self._hub.now_ms()
            held = self._hub.leases.get(node, 0) > now_ms
            if held:
                await self.register(node, info, ttl_ms)
            live = await self.live()
            lapsed = [n for n, deadline in self._hub.leases.items() if deadline <= now_ms]
            lapsed += [n for n, deadline in self._hub.fences.items() if deadline <= now_ms]
            return Renewal(held, live, tuple(lapsed), str(self._hub.lives), sha1(self._hub.secret), now_ms)

    async def live(self) -> dict[NodeId, int]:
        with self._hub.lock:
            now_ms = self._hub.now_ms()
            return {n: deadline - now_ms for n, deadline in self._hub.leases.items() if deadline > now_ms}

    async def infos(self, nodes: Sequence[NodeId]) -> list[tuple[bytes | None, int]]:
        with self._hub.lock:
            return [
                (self._hub.infos.get(node), sum(line.room is None for line in self._hub.index.get(node, ())))
                for node in nodes
            ]

    async def fence(self, node: NodeId, ttl_ms: int) -> bool:
        with self._hub.lock:
            deadline_ms = max(self._hub.leases.get(node, 0), self._hub.fences.get(node, 0))
            if not deadline_ms or deadline_ms > self._hub.now_ms():
                return False
            self._hub.leases.pop(node, None)
            self._hub.fences[node] = self._hub.now_ms() + ttl_ms
            return True

    async def abandon(self, node: NodeId, ttl_ms: int) -> bool:
        with self._hub.lock:
            if self._hub.fences.get(node, 0) > self._hub.now_ms():
                return False
            self._hub.leases.pop(node, None)
            self._hub.fences[node] = self._hub.now_ms() + ttl_ms
            return True

    async def extend_fence(self, node: NodeId, ttl_ms: int) -> None:
        with self._hub.lock:
            if node in self._hub.fences:
                self._hub.fences[node] = self._hub.now_ms() + ttl_ms

    async def shorten(self, node: NodeId, ttl_ms: int) -> bool:
        with self._hub.lock:
            latest_ms = self._hub.now_ms() + ttl_ms
            is_longer = self._hub.leases.get(node, 0) > latest_ms
            if is_longer:
                self._hub.leases[node] = latest_ms
            return is_longer

    async def connections(self, node: NodeId, cursor: str, limit: int) -> tuple[list[IndexEntry], str]:
        return self._lines(node, are_rooms=False)

    async def memberships(self, node: NodeId, cursor: str, limit: int) -> tuple[list[IndexEntry], str]:
        return self._lines(node, are_rooms=True)

    def _lines(self, node: NodeId, *, are_rooms: bool) -> tuple[list[IndexEntry], str]:
        with self._hub.lock:
            return [x for x in self._hub.index.get(node, ()) if (x.room is not None) is are_rooms], ""

    async def index_sizes(self, node: NodeId) -> tuple[int, int]:
        return len(self._lines(node, are_rooms=False)[0]), len(self._lines(node, are_rooms=True)[0])

    async def forget(self, node: NodeId, lines: Sequence[IndexEntry]) -> None:
        with self._hub.lock:
            index = self._hub.index.get(node, {})
            for line in lines:
                index.pop(line, None)
            if not index:
                self._hub.index.pop(node, None)

    async def retire(self, node: NodeId) -> None:
        with self._hub.lock:
            self._hub.index.pop(node, None)
            self._hub.infos.pop(node, None)
            self._hub.fences.pop(node, None)
            self._hub.leases.pop(node, None)


def _lowest(entries: dict[ConnectionId, Entry]) -> int:
    """Return the lowest stamp that none of the entries has."""
    taken = {entry.stamp for entry in entries.values()}
    return next(stamp for stamp in range(1, len(taken) + 2) if stamp not in taken)
