"""Limits of release 1.1 with mock sockets: memory, eviction, concurrent sends and closes."""

import asyncio
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    MemoryEvictionPolicy,
    MemoryLimitExceededError,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from tests.support.waiting import eventually

from .support import BrokenSocket, FakeSocket, GatedSocket, Gauge, MeasuredSocket, register, register_all

BLOB = {"blob": "x" * 10_000}
ROOM_FOR_TWO = 25_000
FIRST_IN = [MemoryEvictionPolicy.FIFO, MemoryEvictionPolicy.OLDEST, "fifo", "oldest", "OLDEST"]


def limited(**settings: Any) -> WebSocketConnectionManager:
    return WebSocketConnectionManager(WebSocketConfig(**settings))


async def test_memory_usage_of_nobody_is_zero() -> None:
    usage = limited().get_memory_usage()
    assert usage == {"total_memory": 0, "connection_count": 0, "per_connection_average": 0.0}


async def test_memory_usage_counts_metadata_and_user_data() -> None:
    manager = limited()
    await register(manager, "alice", FakeSocket(), BLOB)
    await register(manager, "bob", FakeSocket())
    await manager.set_user_data("bob", "blob", "y" * 10_000)
    usage = manager.get_memory_usage()
    assert set(usage) == {"total_memory", "connection_count", "per_connection_average"}
    assert (20_000 < usage["total_memory"] < 30_000, usage["connection_count"]) == (True, 2)
    assert usage["per_connection_average"] == usage["total_memory"] / 2


async def test_memory_usage_falls_when_a_client_leaves() -> None:
    manager = limited()
    await register(manager, "alice", FakeSocket(), BLOB)
    await manager.disconnect("alice")
    assert manager.get_memory_usage()["total_memory"] == 0


async def test_connection_over_its_memory_limit_is_refused() -> None:
    manager = limited(max_memory_per_connection=5_000)
    with pytest.raises(MemoryLimitExceededError):
        await register(manager, "alice", FakeSocket(), BLOB)
    await register(manager, "bob", FakeSocket(), {"small": 1})
    assert manager.get_active_connections() == ["bob"]


async def test_user_data_over_the_connection_limit_is_refused_and_not_kept() -> None:
    manager = limited(max_memory_per_connection=5_000)
    alice = FakeSocket()
    await register(manager, "alice", alice)
    await manager.set_user_data("alice", "name", "Alice")
    for key in ("name", "blob"):
        with pytest.raises(MemoryLimitExceededError):
            await manager.set_user_data("alice", key, "x" * 10_000)
    assert await manager.get_user_data("alice", "name") == "Alice"
    assert await manager.get_user_data("alice", "blob") is None
    assert (manager.get_memory_usage()["total_memory"] < 5_000, alice.closes) == (True, [])


async def test_connection_larger_than_all_memory_is_refused() -> None:
    manager = limited(max_total_memory=5_000)
    with pytest.raises(MemoryLimitExceededError):
        await register(manager, "alice", FakeSocket(), BLOB)
    assert manager.get_connection_count() == 0


async def test_total_memory_stays_under_its_limit() -> None:
    manager = limited(max_total_memory=ROOM_FOR_TWO)
    for number in range(10):
        await register(manager, f"client-{number}", FakeSocket(), BLOB)
        assert manager.get_memory_usage()["total_memory"] <= ROOM_FOR_TWO
    assert manager.get_connection_count() == 2


@pytest.mark.parametrize("policy", FIRST_IN)
async def test_first_in_policies_evict_the_oldest_however_active(policy: Any) -> None:
    manager = limited(max_total_memory=ROOM_FOR_TWO, memory_eviction_policy=policy)
    alice, bob = FakeSocket(), FakeSocket()
    await register(manager, "alice", alice, BLOB)
    await register(manager, "bob", bob, BLOB)
    await manager.send_to_client("alice", "you are active")
    await register(manager, "carol", FakeSocket(), BLOB)
    assert sorted(manager.get_active_connections()) == ["bob", "carol"]
    assert (len(alice.closes), bob.closes) == (1, [])


@pytest.mark.parametrize("policy", [MemoryEvictionPolicy.LRU, "lru", "LRU"])
@pytest.mark.parametrize("activity", ["message", "pong"])
async def test_lru_evicts_the_one_silent_longest(policy: Any, activity: str) -> None:
    manager = limited(max_total_memory=ROOM_FOR_TWO, memory_eviction_policy=policy)
    alice, bob = FakeSocket(), FakeSocket()
    await register(manager, "alice", alice, BLOB)
    await register(manager, "bob", bob, BLOB)
    if activity == "message":
        await manager.send_to_client("alice", "you are active")
    else:
        await manager.handle_pong("alice")
    await register(manager, "carol", FakeSocket(), BLOB)
    assert sorted(manager.get_active_connections()) == ["alice", "carol"]
    assert (alice.closes, len(bob.closes)) == ([], 1)


async def test_lru_is_the_default_policy() -> None:
    manager = limited(max_total_memory=ROOM_FOR_TWO)
    await register(manager, "alice", FakeSocket(), BLOB)
    await register(manager, "bob", FakeSocket(), BLOB)
    await manager.handle_pong("alice")
    await register(manager, "carol", FakeSocket(), BLOB)
    assert sorted(manager.get_active_connections()) == ["alice", "carol"]


async def test_large_newcomer_evicts_as_many_as_it_needs() -> None:
    manager = limited(max_total_memory=ROOM_FOR_TWO, memory_eviction_policy="fifo")
    small = {"blob": "x" * 3_000}
    for name in ("alice", "bob", "carol", "dave", "erin"):
        await register(manager, name, FakeSocket(), small)
    await register(manager, "frank", FakeSocket(), {"blob": "x" * 13_000})
    assert "frank" in manager.get_active_connections()
    assert "alice" not in manager.get_active_connections()
    assert manager.get_memory_usage()["total_memory"] <= ROOM_FOR_TWO


async def test_broadcast_sends_to_no_more_sockets_at_once_than_allowed() -> None:
    manager, sending = limited(max_concurrent_broadcast=3), Gauge()
    sockets = {f"client-{number}": MeasuredSocket(sending=sending) for number in range(12)}
    await register_all(manager, **sockets)
    result = await manager.broadcast("hello")
    assert (result.succeeded, 1 < sending.peak <= 3) == (12, True)
    assert all(mock.texts == ["hello"] for mock in sockets.values())


async def test_shutdown_closes_no_more_sockets_at_once_than_allowed() -> None:
    manager, closing = limited(max_concurrent_cleanup=3), Gauge()
    await register_all(
        manager, **{f"client-{number}": MeasuredSocket(closing=closing) for number in range(12)}
    )
    report = await manager.graceful_shutdown()
    assert (report.closed_count, 1 < closing.peak <= 3) == (12, True)


async def test_broadcast_of_many_concurrent_calls_keeps_the_send_limit() -> None:
    manager, sending = limited(max_concurrent_broadcast=4), Gauge()
    await register_all(
        manager, **{f"client-{number}": MeasuredSocket(sending=sending) for number in range(6)}
    )
    results = await asyncio.gather(*(manager.broadcast(f"message {number}") for number in range(4)))
    assert (sum(result.succeeded for result in results), 1 < sending.peak <= 4) == (24, True)


async def test_broadcast_returns_after_the_slowest_send_ended() -> None:
    manager, slow, quick = limited(), GatedSocket(), FakeSocket()
    await register_all(manager, slow=slow, quick=quick)
    call = asyncio.create_task(manager.broadcast("hello"))
    await eventually(lambda: slow.waiting == 1 and quick.texts == ["hello"])
    assert not call.done()
    slow.gate.set()
    assert ((await call).succeeded, slow.texts) == (2, ["hello"])


async def test_send_returns_after_a_slow_send_ended() -> None:
    manager, slow = limited(), GatedSocket()
    await register(manager, "slow", slow)
    call = asyncio.create_task(manager.send_to_client("slow", {"n": 1}))
    await eventually(lambda: slow.waiting == 1)
    assert not call.done()
    slow.gate.set()
    assert (await call, slow.jsons) == (True, [{"n": 1}])


async def test_recipient_that_fails_late_frees_its_place_for_the_others() -> None:
    manager = limited(max_concurrent_broadcast=1)
    await register_all(
        manager, alice=BrokenSocket(late=True), bob=FakeSocket(), carol=BrokenSocket(late=True)
    )
    result = await manager.broadcast("hello")
    assert (result.succeeded, sorted(result.errors)) == (1, [("alice", "gone"), ("carol", "gone")])
    assert manager.get_active_connections() == ["bob"]
