"""Each verb does what tests will believe it does, seen from the product's side."""

import asyncio
import json
from collections.abc import Callable

import pytest

from fastapi_websocket_stabilizer import BackendUnavailableError
from fastapi_websocket_stabilizer.testing import RedisServer
from tests.faults.verbs import Failover, Network, frozen, kill_replica, restart_replica, slow_reader
from tests.integration.cluster import Managers, Replica, counter, join, knows
from tests.support.waiting import eventually

BIG = "x" * 60_000
SOON: dict[str, float] = {"redis_timeout_s": 0.5, "lease_ttl_s": 8.0}


async def test_a_cut_network_loses_every_connection_and_a_mended_one_carries_again(
    managers: Managers, network: Network
) -> None:
    near, far = await managers.start(), await managers.start(redis_url=network.url, **SOON)
    alice = await join(far, "alice")
    async with network.is_cut():
        with pytest.raises(BackendUnavailableError):
            await far.presence("nobody")
    await eventually(lambda: near.send_to_client("alice", "hello"), what="reached again")
    await eventually(lambda: alice.received[-1:] == ["hello"])


async def test_a_network_that_swallows_bytes_says_nothing(managers: Managers, network: Network) -> None:
    near, far = await managers.start(), await managers.start(redis_url=network.url, **SOON)
    await join(near, "bob")
    async with network.swallows():
        with pytest.raises(BackendUnavailableError, match="no answer"):
            await far.presence("bob")
    await eventually(lambda: far.is_connected("bob"), what="answered again")


async def test_a_slow_network_delivers_late_but_all(managers: Managers, network: Network) -> None:
    near, far = await managers.start(), await managers.start(redis_url=network.url)
    alice = await join(far, "alice")
    began_s = asyncio.get_running_loop().time()
    async with network.is_slow(200_000):
        assert await near.send_to_client("alice", BIG)
        await eventually(lambda: alice.received == [BIG])
    assert asyncio.get_running_loop().time() - began_s > 0.2


async def test_a_frozen_redis_holds_calls_and_a_thawed_one_answers(
    managers: Managers, server: RedisServer
) -> None:
    node = await managers.start()
    async with frozen(server):
        asked = asyncio.create_task(node.is_connected("nobody"))
        await asyncio.sleep(0.05)
        assert not asked.done()
    assert await asked is False


async def test_a_flushed_and_a_restarted_redis_are_empty(managers: Managers, server: RedisServer) -> None:
    node = await managers.start()
    await join(node, "alice")
    for empty in (server.flush, server.restart_empty):
        await asyncio.to_thread(empty)
        await knows(node, "alice")


async def test_killing_subscribed_connections_leaves_the_others(
    managers: Managers, server: RedisServer
) -> None:
    node = await managers.start()
    alice = await join(node, "alice")
    server.kill_pubsub()
    await eventually(lambda: counter(node, "bus_reconnects") == 1)

    async def is_heard() -> bool:
        return (await node.broadcast("hello")).heard

    await eventually(is_heard, what="heard again")
    assert counter(node, "redis_failures") == 0
    assert "hello" in alice.received


async def test_a_failover_keeps_what_was_replicated(managers: Managers, failover: Failover) -> None:
    node = await managers.start(redis_url=failover.url, **SOON)
    await join(node, "alice")
    await failover.happens()
    await knows(node, "alice")


async def test_replicas_can_be_killed_frozen_and_started_again(
    start_replica: Callable[..., Replica],
) -> None:
    replica, other = start_replica("a"), start_replica("b")
    for each in (replica, other):
        await eventually(each.is_ready, timeout_s=20, what="ready")
    await kill_replica(replica)
    assert not replica.process.is_running
    await restart_replica(replica)
    async with frozen(replica):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await replica.call("ready")
    assert await replica.call("ready")


async def test_a_slow_reader_is_sent_away_and_may_read_why(start_replica: Callable[..., Replica]) -> None:
    replica = start_replica("a")
    await eventually(replica.is_ready, timeout_s=20, what="ready")
    with await asyncio.to_thread(slow_reader, replica, "slow") as slow:
        await eventually(lambda: replica.call("is_connected", client_id="slow"))
        for _ in range(40):
            await replica.call("send_to_client", client_id="slow", message=BIG)

        async def is_gone() -> bool:
            return bool((await replica.call("statistics"))["counters"]["slow_consumers"] == 1)

        await eventually(is_gone, what="counted as a slow consumer")
        assert json.dumps(BIG)[1:100].encode() in await asyncio.to_thread(slow.read_on)
