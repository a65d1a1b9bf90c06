"""A cluster that changes: primaries come, go and are away while nodes start; slots are moved by the servers."""

import asyncio
from collections.abc import Callable
from time import monotonic

import pytest

from fastapi_websocket_stabilizer import BackendUnavailableError, Publisher
from fastapi_websocket_stabilizer.backends.redis.doctor.diagnosis import Level
from fastapi_websocket_stabilizer.backends.redis.doctor.examination import examine
from tests.integration.cluster import Managers, counter, join
from tests.integration.test_topologies import FAILOVER_S, SURVIVING, Crowd, binary_of, crowd_at
from tests.support.clusters import RedisCluster
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(
    180
)  # servers of a cluster are started, moved and removed: 15 s on an idle machine


async def move_all(crowd: Crowd, move: Callable[[int, RedisServer], None], target: RedisServer) -> None:
    for slot in crowd.important.values():
        await asyncio.to_thread(move, slot, target)


async def test_servers_that_move_slots_themselves_leave_nobody_deaf(namespace: str) -> None:
    with RedisCluster(binary_of("valkey-9.1")) as cluster:
        async with crowd_at(cluster.url, namespace) as crowd:
            async with crowd.talking():
                for target in cluster.servers:
                    for slot in crowd.important.values():
                        if cluster.owner(slot) is not target:
                            await asyncio.to_thread(cluster.migrate, slot, target)
                await crowd.is_well()
            await crowd.is_well()
            assert all(counter(node, "bus_moves") for node in crowd.nodes)


@pytest.mark.parametrize("server", ["valkey-9.1", "redis-6.2"])
async def test_a_primary_is_added_and_removed_under_traffic(server: str, namespace: str) -> None:
    with RedisCluster(binary_of(server)) as cluster:
        async with crowd_at(cluster.url, namespace) as crowd:
            async with crowd.talking():
                newcomer = await asyncio.to_thread(cluster.add)
                await move_all(crowd, cluster.move, newcomer)
                await crowd.is_well()
                await move_all(crowd, cluster.move, cluster.servers[1])
                await asyncio.to_thread(cluster.remove, newcomer)
                await crowd.is_well()
            await crowd.is_well()


async def test_nodes_and_publishers_start_while_another_primary_is_down(namespace: str) -> None:
    with RedisCluster(binary_of("valkey-9.1")) as cluster:
        async with crowd_at(cluster.url, namespace) as crowd:
            needed = {cluster.owner_of(crowd.keys.all), cluster.owner_of(crowd.keys.leases)}
            victim = next(server for server in cluster.servers if server not in needed)
            victim.kill()
            late = await crowd.managers.start(**SURVIVING)

            async def is_heard_by_all() -> bool:
                return (await late.broadcast("from the late one")).nodes == 3

            await eventually(is_heard_by_all, timeout_s=20, what="the late node is one of three")
            async with Publisher(cluster.url, namespace=namespace) as publisher:
                assert await publisher.broadcast("from outside") == 3
            victim.start()
            await join(late, "carol", "lobby")
            await eventually(lambda: crowd.here.send_to_client("carol", "hello"), timeout_s=20)


@pytest.mark.alone
async def test_a_cluster_that_says_nothing_is_given_up_in_time(namespace: str) -> None:
    with RedisCluster(binary_of("valkey-9.1")) as cluster:
        for server in cluster.servers:
            server.freeze()
        managers, began_s = Managers(cluster.url, namespace), monotonic()
        await managers.start(redis_timeout_s=1.0)  # degraded
        publisher = Publisher(cluster.url, namespace=namespace, timeout_s=1.0)
        with pytest.raises(BackendUnavailableError):
            await publisher.broadcast("to nobody")
        assert monotonic() - began_s < 4.0  # each has a second, however many servers are to be asked
        await managers.close()


@pytest.mark.parametrize("server", ["valkey-9.1", "redis-6.2"])
async def test_another_connection_of_the_bus_is_no_gap(server: str, namespace: str) -> None:
    with RedisCluster(binary_of(server)) as cluster:
        async with crowd_at(cluster.url, namespace) as crowd:
            for number in range(20):  # rooms on every primary
                await join(crowd.here, f"client {number}", f"room {number}")
            await eventually(crowd.hears_all_kinds, timeout_s=FAILOVER_S)
            assert [counter(node, name) for node in crowd.nodes for name in ("bus_gaps", "degraded")] == [
                0
            ] * 4
            cluster.owner_of(crowd.keys.all).kill_pubsub()
            await eventually(lambda: counter(crowd.here, "bus_gaps") == 1, what="a real one is told")
            await eventually(crowd.hears_all_kinds, timeout_s=FAILOVER_S)


NAMES = {
    "host names": (
        "--cluster-announce-hostname",
        "localhost",
        "--cluster-preferred-endpoint-type",
        "hostname",
    ),
    "no host names": ("--cluster-preferred-endpoint-type", "hostname"),
    "unknown": ("--cluster-preferred-endpoint-type", "unknown-endpoint"),
    "IPv6": ("--bind", "127.0.0.1", "::1", "--cluster-announce-ip", "::1"),
}


@pytest.mark.parametrize("name", NAMES)
async def test_servers_may_be_named_in_any_way(name: str, namespace: str) -> None:
    with RedisCluster(binary_of("valkey-9.1"), arguments=NAMES[name]) as cluster:
        url = cluster.url.replace("127.0.0.1", "[::1]") if name == "IPv6" else cluster.url
        async with crowd_at(url, namespace) as crowd:
            async with crowd.talking():
                await move_all(crowd, cluster.move, cluster.servers[0])
                await move_all(crowd, cluster.move, cluster.servers[1])
                await crowd.is_well()
            await crowd.is_well()
        findings = [finding for finding in await examine(url) if finding.level is Level.CHANGE]
        assert findings == []
