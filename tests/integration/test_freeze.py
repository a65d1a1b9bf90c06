"""Replicas that freeze, block, die together, or die while they sweep; and 200 of them at once."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import pytest

from fastapi_websocket_stabilizer.backends.ports import Claim
from fastapi_websocket_stabilizer.backends.redis import RedisBackend
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId, visit_of
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from tests.integration.cluster import (
    LEASE_S,
    REPLACED,
    Managers,
    Replica,
    counter,
    keys_with,
    knows,
)
from tests.integration.test_faults import SETTLED_S, is_swept, lists
from tests.integration.test_invariants import Ghost
from tests.integration.test_redis_away import now_s
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.support.watchers import watcher

INFO = b'{"name": "simulated", "version": "0", "started": 0, "draining": false}'


async def test_a_replica_whose_event_loop_was_blocked_is_treated_as_one_that_was_frozen(
    replicas: list[Replica],
) -> None:
    """A handler that computes for longer than the lease: 15 s of a lease of 10, here in proportion."""
    victim, other, _ = replicas
    former = await victim.call("statistics")
    async with victim.client("b-moved") as old, victim.client("b-stayed") as stayed:
        await old.greeted()
        await stayed.greeted()
        blocked = asyncio.create_task(victim.call("block", seconds=3 * LEASE_S))
        await eventually(lambda: is_swept(victim.url, former["node_id"]), SETTLED_S, what="swept")
        async with other.client("b-moved") as new:
            await new.greeted()
            await other.call("broadcast", message="only for those who hold their place")
            assert not blocked.done()
            await blocked
            await eventually(lambda: old.closed_with == REPLACED, what="the old socket is closed")
            assert old.received == ["registered"]
            for replica in replicas:
                await eventually(lambda r=replica: lists(r, "b-moved", "b-stayed"), what="both listed")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            await eventually(lambda: stayed.received[1:] == ["only for those who hold their place"])
            assert await victim.call("send_to_client", client_id="b-moved", message="hello")
            await eventually(lambda: new.received[-1] == "hello")
    after = await victim.call("statistics")
    assert after["node_id"] != former["node_id"]
    assert after["counters"]["leases_refused"] == former["counters"]["leases_refused"] + 1


@pytest.mark.parametrize("step_s", [-86_400.0, 86_400.0])
async def test_a_step_of_a_replicas_clock_changes_nothing(
    redis_url: str, namespace: str, step_s: float
) -> None:
    async with started(redis_url, namespace, 2) as (steps, stays):
        before = await steps.call("statistics")
        async with steps.client("alice", "room") as alice, stays.client("bob", "room") as bob:
            await alice.greeted()
            await bob.greeted()
            await steps.call("step_clock", seconds=step_s)
            began_s = now_s()
            while now_s() - began_s < 2 * LEASE_S:  # all the while, not only in the end
                assert await stays.call("clients") == await steps.call("clients") == ["alice", "bob"]
                assert await stays.call("send_to_client", client_id="alice", message="hello")
                assert await steps.call("send_to_client", client_id="bob", message="hello")
            async with steps.client("bob") as newer:  # the newest, whatever the clock of its node says
                await newer.greeted()
                await eventually(lambda: bob.closed_with == REPLACED)
                assert newer.is_open
            assert alice.is_open
        after = await steps.call("statistics")
        assert after["node_id"] == before["node_id"]
        assert after["counters"]["nodes_swept"] == 0


async def test_replicas_that_are_killed_together_and_started_again_leave_no_ghost(
    redis_url: str, namespace: str
) -> None:
    async with started(redis_url, namespace, 3) as replicas:
        former = [(await replica.call("statistics"))["node_id"] for replica in replicas]
        async with replicas[0].client("alice", "room") as alice, replicas[1].client("bob", "room") as bob:
            await alice.greeted()
            await bob.greeted()
            for replica in replicas:
                replica.process.kill()
        for replica in replicas:
            replica.start()
        for replica in replicas:
            await eventually(partial(lists, replica), 20, what="nobody is listed")
        async with replicas[2].client("alice", "room") as again:
            await again.greeted()
            for node_id in former:
                await eventually(partial(is_gone, redis_url, node_id), SETTLED_S, what="swept")
            for replica in replicas:
                assert await replica.call("clients") == ["alice"]
                assert await replica.call("room_members", room="room") == ["alice"]
            assert again.is_open
        left = await left_of(replicas, former)
        assert left["bob"] == 1
        assert left["alice"] <= 1  # none if she was back before the sweep


def is_gone(url: str, node_id: str) -> bool:
    return not keys_with(url, node_id)


async def left_of(replicas: list[Replica], nodes: list[str]) -> Counter[str]:
    """Return how often the replicas reported that a client of these nodes had left."""
    events = [event for replica in replicas for event in await replica.call("events")]
    return Counter(e["client_id"] for e in events if e["kind"] == "left" and e["node"] in nodes)


@asynccontextmanager
async def started(url: str, namespace: str, count: int) -> AsyncIterator[list[Replica]]:
    """Start replicas of a registry of their own."""
    with ExitStack() as stack:
        replicas = [Replica(url, namespace, f"replica-{number}") for number in range(count)]
        for replica in replicas:
            stack.callback(replica.stop)
        for replica in replicas:
            await eventually(replica.is_ready, 20)
        yield replicas


async def test_a_sweep_whose_sweeper_is_killed_half_way_is_finished_by_another(
    managers: Managers,
) -> None:
    names = [f"client {number}" for number in range(1_000)]
    hanging = Replica(managers.url, managers.namespace, "hangs", REPLICA_HANG_AFTER="300")
    try:
        await eventually(hanging.is_ready, 20)
        ghost = Ghost(managers)
        await ghost.leave_behind(*names)
        await eventually(lambda: has_events(hanging, 300), SETTLED_S, what="it sweeps, and hangs")
        first = await hanging.call("events")
        hanging.process.kill()
    finally:
        hanging.stop()
    heard: list[str] = []
    survivors = [managers.make() for _ in range(2)]
    for survivor in survivors:
        survivor.on_presence(lambda event: heard.append(event.event_id))
        await survivor.start()
    await eventually(lambda: not keys_with(managers.url, ghost.node), 60, what="swept to the end")
    await eventually(lambda: sum(counter(survivor, "nodes_swept") for survivor in survivors) >= 1)
    expected = {f"{visit_of(f'{ghost.node}.{number}')}:left" for number in range(len(names))}
    of_ghost = [event_id for event_id in heard if event_id in expected]
    assert len(of_ghost) == len(set(of_ghost)), "a survivor reported one twice"
    reported = {event["event_id"] for event in first} | set(of_ghost)
    assert reported == expected


async def has_events(replica: Replica, count: int) -> bool:
    return len(await replica.call("events")) >= count


@pytest.mark.alone
async def test_two_hundred_nodes_cost_redis_little(
    own_managers: Managers, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Renewals of 200 nodes, each with 50 connections, and the sweep of one of them by a real node."""
    count, connections, ttl_ms = 200, 50, 5_000
    ear = RedisBackend(own_managers.config(), watcher(), Counters())
    nodes = [NodeId(secrets.token_hex(8)) for _ in range(count)]
    await ear.start(nodes[0])
    for number, node in enumerate(nodes):
        await ear.nodes.register(node, INFO, 60_000)
        claims = [
            Claim(f"{number}-{n}", ConnectionId(f"{node}.{n}"), 1, b'{"since": 0, "metadata": {}}')
            for n in range(connections)
        ]
        await asyncio.gather(*map(ear.presence.claim, claims))
    renewals = await usec_of(server, ear, nodes, 60_000)
    survivor = await own_managers.start()
    await knows(survivor, *(f"{number}-{n}" for number in range(count) for n in range(connections)))
    await ear.nodes.register(nodes[-1], INFO, ttl_ms)  # the last word of a node that dies
    live = nodes[:-1]
    began_s = now_s()
    await eventually(lambda: counter(survivor, "nodes_swept") == 1, 20, what="the dead one is swept")
    swept_s = now_s() - began_s - ttl_ms / 1000
    for node in live:
        assert (await ear.nodes.renew(node, INFO, 60_000)).held
    with capsys.disabled():
        print(
            f"\n{count} nodes: a renewal costs Redis {renewals:.0f} µs, so a beat of 3 s takes "
            f"{renewals * count / 3e6:.2%} of a core; {connections} entries of a dead one were swept "
            f"{swept_s:.1f} s after its lease (beats of {own_managers.config().renew_interval_s:g} s)"
        )
    assert renewals * count / 3e6 < 0.05
    assert swept_s < 3
    await ear.stop()


async def usec_of(server: RedisServer, backend: RedisBackend, nodes: list[NodeId], ttl_ms: int) -> float:
    """Return what one renewal costs Redis in CPU, in µs, scripts in full as they are sent."""
    with server.client() as client:
        client.config_resetstat()
        for _ in range(5):
            for node in nodes:
                assert len((await backend.nodes.renew(node, INFO, ttl_ms)).live) == len(nodes)
        stats = client.info("commandstats")
    calls = [stats[name] for name in ("cmdstat_eval", "cmdstat_evalsha") if name in stats]
    return float(sum(call["usec"] for call in calls)) / (5 * len(nodes))
