"""The registry in one process. tests/contract has what it shares with Redis; here is what a model can say."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.backends import memory, memory_clock
from fastapi_websocket_stabilizer.backends.log_ports import LogKind, LogName
from fastapi_websocket_stabilizer.backends.memory import MemoryBackend, MemoryHub
from fastapi_websocket_stabilizer.backends.ports import Claim, Claimed, IndexEntry
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.registry.continuity import Lost, resumed
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.wire.channels import ALL, Channel
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind

NODE, CLIENT = NodeId("node"), "alice"
MONOTONIC_NS = time.monotonic_ns


def backend(
    hub: MemoryHub | None = None, node: NodeId = NODE, counters: Counters | None = None
) -> MemoryBackend:
    return MemoryBackend(hub or MemoryHub(), node, lambda *_: None, counters or Counters())


def claim_of(number: int, top: int, **changes: Any) -> Claim:
    return replace(Claim(CLIENT, ConnectionId(f"node.{number}"), top, b"entry"), **changes)


# Stamps


@dataclass
class Socket:
    """One socket of the client: the id it has now and the rank it was given."""

    connection_id: ConnectionId
    stamp: int = 0


@dataclass
class Registry:
    """Sockets that claim one client, in whatever order, and who should hold it: the ``top`` that came last."""

    top: int
    store: MemoryBackend = field(default_factory=backend)
    sockets: list[Socket] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    async def claim(self) -> Claimed:
        """A new socket comes."""
        socket = Socket(ConnectionId(f"node.{next(self.numbers)}"))
        self.sockets.append(socket)
        claimed = await self.store.claim(Claim(CLIENT, socket.connection_id, self.top, b""))
        socket.stamp = claimed.stamp
        return claimed

    async def repeat(self, socket: Socket) -> Claimed:
        """The reply to its claim was lost, and the very same command is sent again."""
        return await self.store.claim(Claim(CLIENT, socket.connection_id, self.top, b""))

    async def reclaim(self, socket: Socket) -> Claimed:
        """Its node comes back after a freeze and presents the old rank under a new id."""
        former, socket.connection_id = socket.connection_id, ConnectionId(f"again.{next(self.numbers)}")
        claim = Claim(CLIENT, socket.connection_id, self.top, b"", socket.stamp, former)
        return await self.store.claim(claim)

    async def release(self, socket: Socket) -> bool:
        self.sockets.remove(socket)
        return bool((await self.store.release(CLIENT, socket.connection_id)).left)

    @property
    def winners(self) -> list[ConnectionId]:
        return [socket.connection_id for socket in self.sockets[-self.top :]][::-1]

    async def holders(self) -> list[ConnectionId]:
        [entries] = await self.store.entries([CLIENT])
        return [entry.connection_id for entry in entries[: self.top]]


actions = st.tuples(st.sampled_from(["claim", "claim", "repeat", "reclaim"]), st.integers(0, 9))


@given(st.lists(actions, max_size=25), st.integers(1, 3))
async def test_newest_sockets_hold_the_client_whatever_is_repeated(
    steps: list[tuple[str, int]], top: int
) -> None:
    registry = Registry(top)
    for action, number in steps:
        if action == "claim" or not registry.sockets:
            claimed = await registry.claim()
        else:
            socket = registry.sockets[number % len(registry.sockets)]
            claimed = await getattr(registry, action)(socket)
        assert await registry.holders() == registry.winners
        assert set(claimed.others).isdisjoint(registry.winners)
        assert len(claimed.others) == max(0, len(registry.sockets) - top)


@given(st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=5), st.integers(1, 3))
async def test_claims_with_stamps_commute(order: list[int], repeats: list[int], top: int) -> None:
    """A registry that lost everything ends with the same winners, whichever node comes back first."""
    store = backend()
    for number in [*order, *repeats]:
        await store.claim(claim_of(number, top, stamp=1000 + number))
    [entries] = await store.entries([CLIENT])
    assert [entry.stamp for entry in entries[:top]] == [1004, 1003, 1002][:top]


@given(st.lists(st.sampled_from(["claim", "release"]), max_size=25))
async def test_first_and_last_are_told_exactly(steps: list[str]) -> None:
    registry = Registry(top=1)
    for step in steps:
        if step == "claim":
            was_empty = not registry.sockets
            assert (await registry.claim()).first is was_empty
        elif registry.sockets:
            is_last = await registry.release(registry.sockets[0])
            assert is_last is (not registry.sockets)


async def test_repeated_claim_keeps_its_rank_below_a_newer_socket() -> None:
    """Redis ran the claim, the reply got lost, a newer socket claimed, and the command was sent again."""
    store = backend()
    older = await store.claim(claim_of(1, 1))
    newer = await store.claim(claim_of(2, 1))
    again = await store.claim(claim_of(1, 1))
    assert (newer.others, again.stamp, again.others) == (("node.1",), older.stamp, ("node.1",))


async def test_stamps_grow_though_the_clock_stands_still_or_steps_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_clock, "AHEAD_US", 0)
    store, stamps = backend(), []
    for number, now_ns in enumerate([5_000_000, 5_000_000, 1_000_000]):
        monkeypatch.setattr(time, "monotonic_ns", lambda now_ns=now_ns: now_ns)
        stamps.append((await store.claim(claim_of(number, 1))).stamp)
    assert stamps == [5000, 5001, 5002]


# Processes that follow one another


def start_process(monkeypatch: pytest.MonkeyPatch, running_s: int) -> None:
    """Begin again on a machine that has been up for ``running_s``."""
    clock_ns, began_ns = MONOTONIC_NS, MONOTONIC_NS() - running_s * 1_000_000_000
    monkeypatch.setattr(time, "monotonic_ns", lambda: clock_ns() - began_ns)
    monkeypatch.setattr(memory_clock, "AHEAD_US", memory_clock.ahead_us())


def test_pause_between_two_clocks_does_not_put_the_ids_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    before_us, clock_ns, pauses_ns = memory_clock.ahead_us(), MONOTONIC_NS, [0, 5_000_000_000, 0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: clock_ns() - pauses_ns.pop())
    assert abs(memory_clock.ahead_us() - before_us) < 1_000_000


async def test_cursor_from_a_machine_that_has_been_up_for_longer_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = LogName(LogKind.ROOM, "chat:1")
    start_process(monkeypatch, running_s=1_000_000)
    former = backend()
    await former.logs.begin("chat:")
    t_us = int(former.heard_to_s * 1_000_000)
    start_process(monkeypatch, running_s=1_000)
    later = backend()
    await later.logs.begin("chat:")
    assert resumed(0, t_us, await later.logs.read(log)) == Lost("reset")


# Places


async def test_full_client_refuses_the_newcomer_and_names_the_holders() -> None:
    store = backend()
    for number in (1, 2):
        assert (await store.claim_if_free(claim_of(number, 2))).stamp
    assert await store.claim_if_free(claim_of(3, 2)) == Claimed(0, first=False, others=(
        ConnectionId("node.1"), ConnectionId("node.2"),
    ))  # fmt: skip


async def test_repeated_claim_is_not_refused_because_of_itself() -> None:
    store = backend()
    await store.claim_if_free(claim_of(1, 1))
    assert (await store.claim_if_free(claim_of(1, 1))).stamp


# Rooms


async def test_page_shows_every_member_that_stays() -> None:
    """``RoomPage``: a member that stays in the room through all pages is on one of them at least once."""
    rooms = backend().rooms
    for number in range(4):
        await rooms.join(IndexEntry(ConnectionId(f"node.{number}"), CLIENT, "x"))
    first, cursor = await rooms.members("x", "", 2)
    await rooms.leave(IndexEntry(ConnectionId("node.0"), CLIENT, "x"))
    second, _ = await rooms.members("x", cursor, 2)
    assert {connection_id for connection_id, _ in first + second} >= {"node.1", "node.2", "node.3"}


@given(st.integers(0, 7), st.integers(1, 4))
async def test_pages_together_are_the_room(size: int, limit: int) -> None:
    rooms, seen, cursor = backend().rooms, [], ""
    for number in range(size):
        await rooms.join(IndexEntry(ConnectionId(f"node.{number}"), CLIENT, "x"))
    while True:
        page, cursor = await rooms.members("x", cursor, limit)
        assert len(page) <= limit
        seen += page
        if not cursor:
            break
    assert seen == [(f"node.{number}", CLIENT) for number in range(size)]


# Tokens


async def test_oldest_token_is_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_TOKENS", 2)
    counters = Counters()
    store = backend(counters=counters)
    for digest in "abc":
        await store.issue(digest, CLIENT, 60_000)
    assert [await store.redeem(digest, CLIENT) for digest in "abc"] == [False, True, True]
    assert counters.tokens_dropped == 1


async def test_expired_tokens_make_room_uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 0
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns)
    hub, counters = MemoryHub(), Counters()
    store = backend(hub, counters=counters)
    for digest in "ab":
        await store.issue(digest, CLIENT, 1000)
    now_ns = 1_000_000_000
    assert await store.redeem("b", CLIENT) is False
    await store.issue("c", CLIENT, 1000)
    assert (list(hub.tokens), counters.tokens_dropped) == (["c"], 0)


# Bus


async def test_managers_of_one_hub_hear_each_other() -> None:
    hub, heard = MemoryHub(), list[tuple[str, Channel]]()
    for name in ("a", "b"):
        MemoryBackend(
            hub, NodeId(name), lambda channel, *_, name=name: heard.append((name, channel)), Counters()
        )
    envelope = Envelope(NODE, 1, 0, Kind.BROADCAST)
    took = await backend(hub).publish(ALL, envelope)
    assert (took, heard) == (3, [("a", ALL), ("b", ALL)])


async def test_renamed_node_hears_under_its_new_id_only() -> None:
    store = backend()
    await store.rename(NodeId("other"))
    envelope = Envelope(NODE, 1, 0, Kind.EVICT)
    assert [await store.publish_node(NodeId(node), envelope) for node in ("node", "other")] == [0, 1]
