"""Counts by cause and code, and the last ends: exact, bounded, and without a label that a client chooses."""

import asyncio
from typing import Any

import pytest

from fastapi_websocket_stabilizer import CloseCause, WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.local.lifecycle import Ended
from tests.integration.cluster import Socket, StalledSocket, register
from tests.support.waiting import eventually
from tests.unit.fakes import text

QUIET: dict[str, Any] = {"log_level": "ERROR"}


def manager(**settings: Any) -> WebSocketConnectionManager:
    return WebSocketConnectionManager(WebSocketConfig(**QUIET | settings))


def ends(manager: WebSocketConnectionManager) -> list[tuple[str, str, int]]:
    return [(each.client_id, each.cause.value, each.code) for each in manager.recently_closed()]


async def test_every_cause_is_counted_from_the_start() -> None:
    statistics = manager().statistics()
    assert statistics.closed == {cause.value: 0 for cause in CloseCause}
    assert statistics.close_codes_sent == statistics.close_codes_received == {}


async def test_last_ends_are_bounded_and_the_newest_is_first() -> None:
    node = manager(closed_log_size=2)
    for number in range(3):
        connection = await register(node, f"client {number}")
        await connection.close(4000 + number, "bye")
    assert ends(node) == [("client 2", "released", 4002), ("client 1", "released", 4001)]
    assert node.statistics().closed["released"] == 3
    node.config.closed_log_size = 1
    await (await register(node, "client 3")).close()
    assert ends(node) == [("client 3", "released", 1000)]


async def test_codes_of_clients_and_of_the_application_make_no_labels() -> None:
    node = manager()
    for code in range(3000, 3050):
        connection = await register(node, "ada")
        connection.hung_up(code, "mine")
        await connection.close()
        await (await register(node, "bob")).close(code, "ours")
    await (await register(node, "bob")).close(4008, "slow")
    statistics = node.statistics()
    assert statistics.close_codes_received == {"other": 50}
    assert statistics.close_codes_sent == {"other": 50, "4008": 1}


async def test_an_end_says_how_long_it_was_open_and_silent_and_what_was_queued() -> None:
    node = manager()
    connection = await register(node, "ada", StalledSocket(), role="x")
    connection.heard()
    for _ in range(2):
        connection.push(text("waits"))
    await node.disconnect("ada", 4321, "enough")
    (closed,) = node.recently_closed()
    assert (closed.client_id, closed.connection_id, closed.node) == (
        "ada",
        connection.connection_id,
        node.statistics().node_id,
    )
    assert (closed.cause, closed.code, closed.reason) == (CloseCause.KICKED, 4321, "enough")
    assert 0 <= closed.silent_s <= closed.lasted_s
    assert closed.queued_bytes > 0


@pytest.mark.parametrize("shard", range(4))
async def test_outboxes_are_summed_and_the_largest_is_found_in_any_shard(shard: int) -> None:
    node = manager(heartbeat_interval=0.1, heartbeat_timeout=60.0, num_shards=4)
    await node.start()
    for number in range(20):
        connection = await register(node, f"client {number}", StalledSocket())
        for message in ("written", "x" * 100):
            connection.push(text(message))
    next(iter(node._state.shards.shards[shard].connections.values())).push(text("x" * 1000))
    queued = [connection.writer.queued_bytes for connection in node._state.shards]

    def gauges() -> tuple[float, float]:
        found = node._registry.telemetry.own().gauges
        return found["outbox_bytes"], found["outbox_largest_bytes"]

    await eventually(lambda: gauges() == (sum(queued), max(queued)), what="the sums of a round")
    await node.graceful_shutdown(0.0)


class HangingSocket(Socket):
    async def close(self, code: int = 1000, reason: str = "") -> None:
        await asyncio.Event().wait()


async def test_shutdown_without_time_for_a_close_counts_it_as_well() -> None:
    node = manager(max_concurrent_cleanup=1, close_timeout_s=60.0)
    await node.start()
    for name in ("ada", "bob", "cy"):
        await register(node, name, HangingSocket())
    await node.graceful_shutdown(0.0)
    assert sorted(ends(node)) == [(name, "shutdown", 1001) for name in ("ada", "bob", "cy")]
    assert node.statistics().counters["connections_closed"] == 3


async def test_client_that_said_nothing_was_silent_for_as_long_as_it_was_there() -> None:
    node = manager()
    await (await register(node, "ada")).close()
    (closed,) = node.recently_closed()
    assert closed.silent_s == closed.lasted_s


async def evicted(node: WebSocketConnectionManager) -> None:
    await register(node, "ada", notes="x" * 1000)
    await register(node, "bob", notes="x" * 1000)


async def replaced(node: WebSocketConnectionManager) -> None:
    await register(node, "ada")
    await register(node, "ada")


async def kicked(node: WebSocketConnectionManager) -> None:
    await register(node, "ada")
    await node.disconnect("ada", 4321)


async def slow(node: WebSocketConnectionManager) -> None:
    connection = await register(node, "ada", StalledSocket())
    for _ in range(9):
        await node.send_to_client("ada", "x" * 100)
    await eventually(lambda: connection.ended is Ended.SLOW)


class BrokenSocket(Socket):
    async def send_text(self, data: str) -> None:
        raise RuntimeError("broken")


async def write_failed(node: WebSocketConnectionManager) -> None:
    await register(node, "ada", BrokenSocket())
    await node.send_to_client("ada", "hi")


async def drained(node: WebSocketConnectionManager) -> None:
    await register(node, "ada")
    await node.drain(0.1)


async def shutdown(node: WebSocketConnectionManager) -> None:
    await register(node, "ada")
    await node.graceful_shutdown(1.0)


async def shutdown_without_time(node: WebSocketConnectionManager) -> None:
    await register(node, "ada", StalledSocket())
    await node.graceful_shutdown(0.0)


@pytest.mark.parametrize(
    ("end", "cause", "code"),
    [
        (evicted, "evicted", 1013),
        (replaced, "replaced", 1000),
        (kicked, "kicked", 4321),
        (slow, "slow", 4008),
        (write_failed, "write_failed", 1000),
        (drained, "drained", 1012),
        (shutdown, "shutdown", 1001),
        (shutdown_without_time, "shutdown", 1001),
    ],
)
async def test_node_that_ends_a_connection_says_why(end: Any, cause: str, code: int) -> None:
    node = manager(max_total_memory=2000, outbox_size=500, close_timeout_s=0.1)
    await node.start()
    await end(node)
    await eventually(lambda: ends(node) == [("ada", cause, code)], what=f"one end, {cause}")
    statistics = node.statistics()
    assert {name: count for name, count in statistics.closed.items() if count} == {cause: 1}
    assert statistics.counters["connections_closed"] == 1
    await node.graceful_shutdown(0.0)


async def test_client_that_answers_no_ping_has_timed_out() -> None:
    node = manager(heartbeat_interval=0.05, heartbeat_timeout=0.05)
    await node.start()
    await register(node, "ada")
    await eventually(lambda: ends(node) == [("ada", "timed_out", 4007)], what="the client has timed out")
    (closed,) = node.recently_closed()
    assert closed.silent_s >= 0.05
    await node.graceful_shutdown(0.0)
