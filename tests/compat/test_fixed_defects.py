"""Defects of release 1.1 that 2.0 does not have, seen through mock sockets."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    ConnectionNotFoundError,
    MemoryLimitExceededError,
    ShutdownError,
    WebSocketConfig,
    WebSocketConnectionManager,
    WebSocketStabilizerError,
)
from tests.support.waiting import eventually

from .support import AnsweringSocket, FakeSocket, GatedSocket, register, register_all

BLOB = {"blob": "x" * 10_000}
ROOM_FOR_TWO = 25_000


def configured(**settings: Any) -> WebSocketConnectionManager:
    return WebSocketConnectionManager(WebSocketConfig(**settings))


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[WebSocketConnectionManager]:
    manager = configured(**settings)
    await manager.start()
    try:
        yield manager
    finally:
        await manager.graceful_shutdown()


async def replaced(manager: WebSocketConnectionManager) -> None:
    await register(manager, "alice", FakeSocket())


async def evicted(manager: WebSocketConnectionManager) -> None:
    await register_all(manager, bob=FakeSocket())
    await manager.set_user_data("bob", "blob", "x" * 10_000)
    await register(manager, "carol", FakeSocket(), BLOB)


async def timed_out(manager: WebSocketConnectionManager) -> None:
    manager.config.heartbeat_interval = manager.config.heartbeat_timeout = 0.02
    await manager.start()
    await eventually(lambda: manager.get_connection_count() == 0)


@pytest.mark.parametrize("end", [replaced, evicted, timed_out])
async def test_handler_of_an_ended_connection_disconnects_quietly_once(
    end: Callable[[WebSocketConnectionManager], Coroutine[Any, Any, None]],
) -> None:
    manager = configured(max_total_memory=ROOM_FOR_TWO, memory_eviction_policy="fifo")
    alice, registered, ended = FakeSocket(), asyncio.Event(), asyncio.Event()

    async def handler() -> None:
        await register(manager, "alice", alice, BLOB)
        registered.set()
        await ended.wait()
        await manager.disconnect("alice")
        with pytest.raises(ConnectionNotFoundError):
            await manager.disconnect("alice")

    handling = asyncio.create_task(handler())
    await registered.wait()
    await asyncio.create_task(end(manager))
    others = manager.get_active_connections()
    ended.set()
    await handling
    assert (manager.get_active_connections(), len(alice.closes)) == (others, 1)
    await manager.graceful_shutdown()


async def test_disconnect_elsewhere_still_ends_the_successor_of_a_replaced_socket() -> None:
    manager, old, new = configured(), FakeSocket(), FakeSocket()
    await asyncio.create_task(register(manager, "alice", old))
    await asyncio.create_task(register(manager, "alice", new))
    await manager.disconnect("alice")
    assert (manager.get_connection_count(), new.close_codes) == (0, [1000])


@pytest.mark.parametrize("client_id", ["a.b.c", "first.last@example.com", "...", "é.ü b/c", "*{}:."])
async def test_client_id_with_dots_survives_a_token(client_id: str) -> None:
    manager = configured()
    token = manager.generate_reconnect_token(client_id)
    assert token.count(".") == 3
    assert await manager.validate_reconnect_token(token) == client_id


async def test_connect_during_a_shutdown_is_refused() -> None:
    manager, alice = configured(), GatedSocket(stalls="close")
    await register(manager, "alice", alice)
    shutdown = asyncio.create_task(manager.graceful_shutdown())
    await eventually(lambda: alice.waiting == 1)
    with pytest.raises(ShutdownError):
        await register(manager, "bob", FakeSocket())
    alice.gate.set()
    assert ((await shutdown).closed_count, manager.get_connection_count()) == (1, 0)


async def test_connect_after_a_shutdown_is_refused_until_start() -> None:
    manager = configured()
    await manager.graceful_shutdown()
    with pytest.raises(ShutdownError):
        await register(manager, "alice", FakeSocket())
    await manager.start()
    await register(manager, "alice", FakeSocket())
    assert (await manager.graceful_shutdown()).closed_count == 1


async def test_stalled_client_does_not_delay_the_ping_of_another() -> None:
    stalled, other = GatedSocket(), FakeSocket()
    async with started(heartbeat_interval=0.02, heartbeat_timeout=30.0, num_shards=1) as manager:
        await register_all(manager, stalled=stalled, other=other)
        await eventually(lambda: stalled.waiting == 1 and len(other.jsons) >= 1, timeout_s=5.0)


async def test_timeout_longer_than_the_interval_is_waited_for() -> None:
    """The beats of an answering client are the clock."""
    silent = FakeSocket()
    async with started(heartbeat_interval=0.02, heartbeat_timeout=30.0) as manager:
        answering = AnsweringSocket(client_id="answering", manager=manager)
        await register_all(manager, silent=silent, answering=answering)
        await eventually(lambda: len(answering.jsons) >= 5)
        assert (sorted(manager.get_active_connections()), silent.closes) == (["answering", "silent"], [])


async def test_silent_client_goes_when_a_timeout_longer_than_the_interval_is_over() -> None:
    silent = FakeSocket()
    async with started(heartbeat_interval=0.02, heartbeat_timeout=0.1) as manager:
        await register(manager, "silent", silent)
        await eventually(lambda: len(silent.closes) == 1)
        assert manager.get_connection_count() == 0


async def test_ping_does_not_make_a_client_recently_used() -> None:
    alice, bob = FakeSocket(), FakeSocket()
    limits = {"heartbeat_interval": 0.02, "max_total_memory": ROOM_FOR_TWO, "num_shards": 1}
    async with started(heartbeat_timeout=30.0, memory_eviction_policy="lru", **limits) as manager:
        await register(manager, "alice", alice, BLOB)
        await register(manager, "bob", bob, BLOB)
        await manager.send_to_client("alice", "you are the most recent")
        await eventually(lambda: len(alice.jsons) > 0 and len(bob.jsons) > 0)
        await register(manager, "carol", FakeSocket(), BLOB)
        assert sorted(manager.get_active_connections()) == ["alice", "carol"]


@pytest.mark.parametrize("end", ["disconnect", "replace"])
async def test_slow_close_holds_up_no_other_client(end: str) -> None:
    manager, slow, other = configured(num_shards=1), GatedSocket(stalls="close"), FakeSocket()
    await register_all(manager, slow=slow, other=other)
    work = manager.disconnect("slow") if end == "disconnect" else register(manager, "slow", FakeSocket())
    ending = asyncio.create_task(work)
    await eventually(lambda: slow.waiting == 1)
    async with asyncio.timeout(1.0):
        await manager.send_to_client("other", "hello")
        await manager.broadcast("all")
        await manager.set_user_data("other", "name", "Other")
        await register(manager, "third", FakeSocket())
        await manager.disconnect("third")
    slow.gate.set()
    await ending
    assert (other.texts, other.closes) == (["hello", "all"], [])


async def test_close_may_call_the_manager() -> None:
    manager = configured(num_shards=1)

    class CallingSocket(FakeSocket):
        async def close(self, code: int = 1000, reason: str | None = None) -> None:
            await manager.broadcast("somebody leaves")
            await super().close(code, reason)

    alice, bob = CallingSocket(), FakeSocket()
    await register_all(manager, alice=alice, bob=bob)
    async with asyncio.timeout(1.0):
        await manager.disconnect("alice")
    assert (alice.close_codes, bob.texts) == ([1000], ["somebody leaves"])


async def test_shutdown_ends_in_time_when_a_close_hangs() -> None:
    manager, hanging = configured(), GatedSocket(stalls="close")
    await register_all(manager, hanging=hanging, alice=FakeSocket(), bob=FakeSocket())
    async with asyncio.timeout(1.5):
        report = await manager.graceful_shutdown(timeout=0.05)
    assert (report.closed_count, report.failed_count, manager.get_connection_count()) == (2, 1, 0)
    assert 0.04 < report.duration_seconds < 1.5


async def test_connect_measures_the_newcomer_only() -> None:
    measured = 0

    class Counted:
        def __sizeof__(self) -> int:
            nonlocal measured
            measured += 1
            return 100

    manager = configured(max_total_memory=10**9, max_memory_per_connection=10**6)
    for number in range(100):
        await register(manager, f"client-{number}", FakeSocket(), {"thing": Counted()})
    before = measured
    await register(manager, "newcomer", FakeSocket(), {"thing": Counted()})
    assert 1 <= measured - before <= 3


@pytest.mark.parametrize("enabled", [False, True])
async def test_enable_metrics_measures_fan_outs(enabled: bool) -> None:
    manager = configured(enable_metrics=enabled)
    await register_all(manager, alice=FakeSocket(), bob=FakeSocket())
    await manager.broadcast("hello")
    statistics = manager.statistics()
    assert (statistics.connections, statistics.counters["messages_sent"]) == (2, 2)
    assert statistics.fan_out_seconds.count == (1 if enabled else 0)


async def test_disabled_reconnect_refuses_both_token_calls() -> None:
    token = configured().generate_reconnect_token("alice")
    manager = configured(enable_reconnect=False)
    with pytest.raises(WebSocketStabilizerError):
        manager.generate_reconnect_token("alice")
    with pytest.raises(WebSocketStabilizerError):
        await manager.validate_reconnect_token(token)


@pytest.mark.parametrize("message", ["are you there?", {"kind": "beat", "n": 1}])
async def test_custom_heartbeat_sends_the_applications_message(message: str | dict[str, Any]) -> None:
    alice = FakeSocket()
    custom = {"heartbeat_type": "custom", "heartbeat_message": message}
    async with started(heartbeat_interval=0.02, heartbeat_timeout=30.0, **custom) as manager:
        await register(manager, "alice", alice)
        await eventually(lambda: len(alice.texts + alice.jsons) > 0)
    assert (alice.texts + alice.jsons)[0] == message


async def test_log_level_filters_one_managers_log(caplog: pytest.LogCaptureFixture) -> None:
    async def use(manager: WebSocketConnectionManager) -> list[int]:
        caplog.clear()
        await manager.start()
        await register(manager, "alice", FakeSocket())
        await manager.broadcast("hello")
        await manager.disconnect("alice")
        await manager.graceful_shutdown()
        return [
            entry.levelno for entry in caplog.records if entry.name.startswith("fastapi_websocket_stabilizer")
        ]

    quiet, loud = configured(log_level="ERROR"), configured(log_level="DEBUG")
    with caplog.at_level(logging.DEBUG, logger="fastapi_websocket_stabilizer"):
        heard, unheard = await use(loud), await use(quiet)
    assert (min(heard) < logging.WARNING, unheard) == (True, [])


async def test_memory_check_finds_data_that_grew_in_place() -> None:
    alice, bob, grown = FakeSocket(), FakeSocket(), bytearray()
    limits = {"max_total_memory": ROOM_FOR_TWO, "memory_eviction_policy": "fifo"}
    async with started(memory_check_interval=0.02, **limits) as manager:
        await register(manager, "alice", alice, BLOB)
        await register(manager, "bob", bob)
        await manager.set_user_data("bob", "history", grown)
        grown.extend(bytes(20_000))
        await eventually(lambda: manager.get_active_connections() == ["bob"])
    assert (len(alice.closes), bob.close_codes) == (1, [1001])


async def test_user_data_over_all_memory_is_refused_and_not_kept() -> None:
    manager, alice = configured(max_total_memory=5_000), FakeSocket()
    await register(manager, "alice", alice)
    await manager.set_user_data("alice", "name", "Alice")
    with pytest.raises(MemoryLimitExceededError):
        await manager.set_user_data("alice", "name", "x" * 10_000)
    assert await manager.get_user_data("alice", "name") == "Alice"
    assert (manager.get_active_connections(), alice.closes) == (["alice"], [])


async def test_user_data_makes_no_more_memory_than_allowed() -> None:
    """Whether the newcomer is refused or another evicted is the policy's business."""
    manager = configured(max_total_memory=ROOM_FOR_TWO, memory_eviction_policy="fifo")
    await register(manager, "alice", FakeSocket(), BLOB)
    await register(manager, "bob", FakeSocket(), BLOB)
    try:
        await manager.set_user_data("bob", "blob", "y" * 10_000)
    except MemoryLimitExceededError:
        assert await manager.get_user_data("bob", "blob") is None
    assert "bob" in manager.get_active_connections()
    assert 10_000 < manager.get_memory_usage()["total_memory"] <= ROOM_FOR_TWO


async def test_broadcast_makes_no_task_per_socket() -> None:
    manager, created = configured(), 0
    await register_all(manager, **{f"client-{number}": FakeSocket() for number in range(200)})

    def count(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        nonlocal created
        created += 1
        return asyncio.Task(coro, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(count)
    assert (await manager.broadcast({"text": "hello"})).succeeded == 200
    assert created < 10


async def test_mock_receives_a_datetime_and_stays() -> None:
    manager, alice, message = configured(), FakeSocket(), {"at": datetime(2026, 1, 2, tzinfo=UTC)}
    await register(manager, "alice", alice)
    assert (await manager.broadcast(message)).succeeded == 1
    assert (alice.jsons, alice.closes) == ([message], [])


async def test_bytes_go_to_send_bytes() -> None:
    manager, alice = configured(), FakeSocket()
    await register(manager, "alice", alice)
    assert await manager.send_to_client("alice", b"\x00\xff") is True
    assert alice == FakeSocket(binaries=[b"\x00\xff"])


async def test_eviction_spares_everybody_when_the_newcomer_can_never_fit() -> None:
    manager, alice = configured(max_total_memory=ROOM_FOR_TWO), FakeSocket()
    await register(manager, "alice", alice, BLOB)
    with pytest.raises(MemoryLimitExceededError):
        await register(manager, "whale", FakeSocket(), {"blob": bytearray(30_000)})
    assert (manager.get_active_connections(), alice.closes) == (["alice"], [])
