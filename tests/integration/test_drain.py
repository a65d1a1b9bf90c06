"""Drain, in this process: what a manager, its sockets and the other nodes see of it."""

import asyncio
import json
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    ConfigurationError,
    Connection,
    DrainingError,
    NodeInfo,
    NotStartedError,
    ShutdownError,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from tests.integration.cluster import Managers, Socket, StalledSocket, client_ids, counter, knows, register
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

MARGIN_S = 1.0
"""What two busy cores may add to a deadline."""


async def crowd(manager: WebSocketConnectionManager, count: int) -> list[Socket]:
    sockets = [Socket() for _ in range(count)]
    for number, socket in enumerate(sockets):
        await register(manager, f"client-{number}", socket)
    return sockets


def hint_ms(socket: Socket) -> int:
    """Return when the client is told to come back; it must have been closed by a drain."""
    assert socket.closed_with is not None
    code, reason = socket.closed_with
    assert code == 1012
    assert len(reason.encode()) < 123
    assert list(json.loads(reason)) == ["reconnect_in_ms"]
    return int(json.loads(reason)["reconnect_in_ms"])


async def seen_by(other: WebSocketConnectionManager, node_id: str) -> NodeInfo:
    return next(node for node in await other.nodes() if node.node_id == node_id)


# --- what happens -------------------------------------------------------------------------------------------


@pytest.fixture
def manager() -> WebSocketConnectionManager:
    return WebSocketConnectionManager(WebSocketConfig(log_level="ERROR"))


async def test_every_client_is_closed_with_a_time_to_come_back(manager: WebSocketConnectionManager) -> None:
    sockets = await crowd(manager, 100)
    report = await manager.drain(over=1.0)
    assert (report.closed_count, report.failed_count) == (100, 0)
    assert len({hint_ms(socket) for socket in sockets}) > 50
    assert counter(manager, "connections_drained") == 100
    assert manager.get_connection_count() == 0


async def test_clients_are_closed_one_after_the_other_over_the_window(
    manager: WebSocketConnectionManager,
) -> None:
    await crowd(manager, 100)
    left: list[int] = []

    async def watch() -> None:
        while manager.get_connection_count():
            left.append(manager.get_connection_count())
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    report = await manager.drain(over=1.2)
    await watching
    assert 0.5 < report.duration_seconds < 1.2 + MARGIN_S
    assert len(set(left)) > 20


async def test_registry_forgets_them_and_the_others_see_the_node_drain(managers: Managers) -> None:
    leaving, other = await managers.start_many(2)
    await crowd(leaving, 60)
    own_id = leaving.statistics().node_id
    draining = asyncio.create_task(leaving.drain(over=2.0))
    await eventually(lambda: _is_draining(other, own_id), what="the other sees it drain")
    assert await client_ids(other) != set()  # while it does, and not when it has
    await draining
    assert await client_ids(other) == set()
    assert (await seen_by(other, own_id)).connections == 0


async def _is_draining(other: WebSocketConnectionManager, node_id: str) -> bool:
    return (await seen_by(other, node_id)).draining


async def test_drained_client_may_connect_elsewhere_at_once(managers: Managers) -> None:
    leaving, other = await managers.start_many(2)
    sockets = await crowd(leaving, 40)
    moved: list[Socket] = []

    @leaving.on_disconnect
    async def move(connection: Connection, code: int, reason: str) -> None:
        moved.append(Socket())
        await register(other, connection.client_id, moved[-1])

    await leaving.drain(over=1.0)
    await knows(other, *(f"client-{number}" for number in range(40)))
    assert all(socket.is_open for socket in moved)
    assert {socket.closed_with[0] for socket in sockets if socket.closed_with} == {1012}
    assert await client_ids(other, leaving.statistics().node_id) == set()


async def test_what_waits_in_the_outbox_is_written_before_the_close(
    manager: WebSocketConnectionManager,
) -> None:
    socket = StalledSocket()
    connection = await register(manager, "slow", socket)
    sends = [asyncio.create_task(connection.send(text)) for text in ("first", "second", "third")]
    await eventually(lambda: connection.writer.queued_bytes > 0)
    draining = asyncio.create_task(manager.drain(over=5.0))
    await eventually(lambda: connection.ended is not None)
    socket.gate.set()
    report = await draining
    await asyncio.gather(*sends, return_exceptions=True)
    assert (socket.received, report.closed_count) == (["first", "second", "third"], 1)
    hint_ms(socket)


async def test_client_that_takes_nothing_does_not_keep_the_node(managers: Managers) -> None:
    leaving, other = await managers.start_many(2, write_timeout_s=30, close_timeout_s=30)
    sockets = [StalledSocket() for _ in range(5)]
    connections = [await register(leaving, f"stalled-{n}", socket) for n, socket in enumerate(sockets)]
    sends = [asyncio.create_task(connection.send("never read")) for connection in connections]
    await asyncio.sleep(0)
    report = await leaving.drain(over=1.0)
    assert (report.closed_count, report.failed_count) == (0, 5)
    assert report.duration_seconds < 1.0 + MARGIN_S
    assert await client_ids(other) == set()
    await eventually(lambda: counter(leaving, "close_timeouts") == 5, what="their closes are given up")
    for send in sends:
        send.cancel()


async def test_more_stalled_clients_than_may_be_closed_at_a_time_are_gone_in_time(
    manager: WebSocketConnectionManager,
) -> None:
    manager.config.max_concurrent_cleanup = 2
    manager.config.write_timeout_s = manager.config.close_timeout_s = 30
    connections = [await register(manager, f"stalled-{n}", StalledSocket()) for n in range(20)]
    sends = [asyncio.create_task(connection.send("never read")) for connection in connections]
    await asyncio.sleep(0)
    report = await manager.drain(over=1.0)
    assert (report.failed_count, manager.get_connection_count()) == (20, 0)
    assert report.duration_seconds < 1.0 + MARGIN_S
    await asyncio.gather(*sends, return_exceptions=True)


# --- newcomers ----------------------------------------------------------------------------------------------


class DeafSocket(Socket):
    """A peer that takes no close."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await asyncio.Event().wait()


async def test_newcomer_that_takes_no_close_does_not_keep_its_handler() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(log_level="ERROR", close_timeout_s=0.1))
    await manager.drain(over=0.1)
    async with asyncio.timeout(5):
        with pytest.raises(DrainingError):
            await register(manager, "late", DeafSocket())
        websocket: Any = DeafSocket()
        with pytest.raises(DrainingError):
            await manager.serve(websocket, "late")


async def test_newcomer_is_refused_during_a_drain_and_after(manager: WebSocketConnectionManager) -> None:
    await crowd(manager, 30)
    draining = asyncio.create_task(manager.drain(over=2.0))
    await asyncio.sleep(0)
    for _ in range(2):
        newcomer = Socket()
        with pytest.raises(DrainingError):
            await register(manager, "newcomer", newcomer)
        hint_ms(newcomer)
        await draining
    assert counter(manager, "connections_rejected") == 2


async def test_client_whose_claim_is_under_way_is_drained_too(server: RedisServer, namespace: str) -> None:
    managers = Managers(server.url, namespace)
    leaving = await managers.start(lease_ttl_s=30, renew_interval_s=5)
    server.process.freeze()  # claims wait
    sockets = [Socket() for _ in range(5)]
    connecting = [asyncio.create_task(register(leaving, f"late-{n}", s)) for n, s in enumerate(sockets)]
    await eventually(lambda: leaving.get_connection_count() == 5)
    draining = asyncio.create_task(leaving.drain(over=2.0))
    await asyncio.sleep(0)
    server.process.thaw()
    await draining
    await asyncio.gather(*connecting, return_exceptions=True)
    assert [socket.is_open for socket in sockets] == [False] * 5
    assert await client_ids(leaving) == set()
    await managers.close()


# --- twice, hurried, cancelled, stopped -----------------------------------------------------------------------


async def test_drain_of_an_empty_node_returns_at_once(manager: WebSocketConnectionManager) -> None:
    report = await manager.drain(over=30.0)
    assert (report.closed_count, report.failed_count) == (0, 0)
    assert report.duration_seconds < 0.5


async def test_second_drain_joins_the_first(manager: WebSocketConnectionManager) -> None:
    await crowd(manager, 20)
    first, second = await asyncio.gather(manager.drain(over=1.0), manager.drain(over=30.0))
    assert (first.closed_count, second.closed_count) == (20, 20)
    assert (await manager.drain(over=30.0)).closed_count == 0


@pytest.mark.alone
async def test_second_drain_with_less_time_hurries_the_first(manager: WebSocketConnectionManager) -> None:
    await crowd(manager, 300)
    slow = asyncio.create_task(manager.drain(over=60.0))
    await eventually(lambda: manager.get_connection_count() < 300)
    report = await manager.drain(over=0.5)
    assert report.duration_seconds < 0.5 + MARGIN_S
    assert ((await slow).closed_count, manager.get_connection_count()) == (300, 0)


async def test_caller_who_is_cancelled_does_not_end_the_drain(manager: WebSocketConnectionManager) -> None:
    sockets = await crowd(manager, 20)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await manager.drain(over=1.0)
    await eventually(lambda: manager.get_connection_count() == 0)
    assert (await manager.drain(over=1.0)).failed_count == 0
    assert all(hint_ms(socket) >= 0 for socket in sockets)


async def test_shutdown_during_a_drain_closes_the_rest_with_1001(manager: WebSocketConnectionManager) -> None:
    sockets = await crowd(manager, 200)
    draining = asyncio.create_task(manager.drain(over=60.0))
    await eventually(lambda: manager.get_connection_count() < 200)
    shutdown = await manager.graceful_shutdown(timeout=5.0)
    drained = await draining
    codes = [socket.closed_with[0] for socket in sockets if socket.closed_with is not None]
    assert (codes.count(1001), codes.count(1012)) == (shutdown.closed_count, drained.closed_count)
    assert (len(codes), shutdown.failed_count, drained.failed_count) == (200, 0, 0)
    assert shutdown.duration_seconds < 5.0


async def test_shutdown_after_a_drain_finds_nothing_to_close(managers: Managers) -> None:
    leaving, other = await managers.start_many(2)
    await crowd(leaving, 10)
    await leaving.drain(over=1.0)
    report = await leaving.graceful_shutdown()
    assert (report.closed_count, report.failed_count) == (0, 0)
    assert [node.node_id for node in await other.nodes()] == [other.statistics().node_id]


async def test_drained_manager_that_is_shut_down_and_started_takes_clients_again(
    managers: Managers,
) -> None:
    manager = await managers.start()
    await manager.drain(over=1.0)
    await manager.graceful_shutdown()
    await manager.start()
    await register(manager, "back")
    assert not (await seen_by(manager, manager.statistics().node_id)).draining


@pytest.mark.parametrize("over", [0, -1.0, float("nan"), float("inf")])
async def test_time_that_makes_no_sense_is_refused(manager: WebSocketConnectionManager, over: Any) -> None:
    with pytest.raises(ConfigurationError, match="over must be a positive number of seconds"):
        await manager.drain(over=over)
    await register(manager, "still welcome")


# --- Redis is away ------------------------------------------------------------------------------------------


async def test_drain_without_redis_ends_in_time_and_leaves_no_ghost(
    server: RedisServer, own_managers: Managers
) -> None:
    leaving, other = await own_managers.start_many(2, lease_ttl_s=60, renew_interval_s=0.4, redis_timeout_s=1)
    sockets = await crowd(leaving, 50)
    server.process.freeze()
    report = await leaving.drain(over=3.0)
    assert report.duration_seconds < 3.0 + MARGIN_S
    assert all(hint_ms(socket) >= 0 for socket in sockets)
    server.process.thaw()
    await knows(other)


# --- out of place -------------------------------------------------------------------------------------------


async def test_drain_is_for_managers_that_are_started(managers: Managers) -> None:
    manager = managers.make()
    with pytest.raises(NotStartedError):
        await manager.drain(over=1.0)
    await manager.start()
    await manager.graceful_shutdown()
    with pytest.raises(ShutdownError):
        await manager.drain(over=1.0)
