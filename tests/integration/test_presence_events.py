"""Joins and leaves are exact: each visit, and each stay in a room, is reported as begun once and as ended once."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

from fastapi_websocket_stabilizer import PresenceEvent, WebSocketConnectionManager
from fastapi_websocket_stabilizer.testing import RedisServer
from tests.integration.cluster import (
    BEAT_S,
    LEASE_S,
    Managers,
    Socket,
    client_ids,
    counter,
    join,
    knows,
    register,
)
from tests.integration.test_faults import proxied
from tests.integration.test_invariants import Ghost, noting
from tests.support.proxy import TcpProxy
from tests.support.waiting import eventually

SHUTDOWN_S = 15.0
"""A shutdown that waits for each answer of Redis for as long as it may takes about three."""
CROWD = [f"client {number}" for number in range(20)]
OUTAGES: list[Callable[[RedisServer], None]] = [RedisServer.flush, RedisServer.restart_empty]


def told(events: list[PresenceEvent]) -> Counter[str]:
    return Counter(event.kind for event in events)


def once(*kinds: str) -> Counter[str]:
    """Return what is reported when each of the crowd does these once."""
    return Counter(dict.fromkeys(kinds, len(CROWD)))


async def members(node: WebSocketConnectionManager) -> set[str]:
    return {member.client_id for member in (await node.room_members("room", limit=100)).members}


# Redis loses its content


@pytest.mark.parametrize("lose", OUTAGES, ids=["flushed", "restarted empty"])
async def test_content_that_redis_lost_is_no_event(
    own_managers: Managers, server: RedisServer, lose: Callable[[RedisServer], None]
) -> None:
    events: list[PresenceEvent] = []
    nodes = [noting(node, events) for node in await own_managers.start_many(2)]
    for number, name in enumerate(CROWD):
        await join(nodes[number % 2], name, "room")
    await asyncio.to_thread(lose, server)
    for node in nodes:
        await knows(node, *CROWD)
    await eventually(lambda: all_listed(nodes), what="the room is whole")
    assert told(events) == once("joined", "room_joined")
    await asyncio.gather(*(node.graceful_shutdown() for node in nodes))
    assert told(events) == once("joined", "room_joined", "left", "room_left")


async def all_listed(nodes: list[WebSocketConnectionManager]) -> bool:
    return all([await members(node) == set(CROWD) for node in nodes])


async def test_client_that_goes_before_it_is_claimed_again_has_left(
    own_managers: Managers, server: RedisServer
) -> None:
    events: list[PresenceEvent] = []
    node = noting(await own_managers.start(), events)
    connections = [await register(node, name) for name in CROWD]
    for connection in connections:
        await connection.join("room")
    server.flush()
    await asyncio.gather(*(connection.close() for connection in connections))
    await eventually(lambda: told(events) == once("joined", "room_joined", "left", "room_left"))


@pytest.mark.parametrize("way", ["leave", "close"])
async def test_room_that_is_left_while_it_is_claimed_again_is_left_once(
    own_managers: Managers, server: RedisServer, way: str
) -> None:
    events: list[PresenceEvent] = []
    node = noting(await own_managers.start(), events)
    connections = [await register(node, f"client {number}") for number in range(200)]
    await asyncio.gather(*(connection.join("room") for connection in connections))
    server.flush()
    await eventually(lambda: counter(node, "leases_refused") == 1)
    if way == "leave":
        await asyncio.gather(*(connection.leave("room") for connection in connections))
    else:
        await asyncio.gather(*(connection.close() for connection in connections))
    await eventually(lambda: told(events)["room_left"] >= len(connections), what="each left")
    await node.graceful_shutdown()
    assert told(events)["room_left"] == told(events)["room_joined"] == len(connections)


# Connects that are cut short


async def test_connect_that_is_cancelled_is_reported_as_joined_and_left_or_not_at_all(
    managers: Managers,
) -> None:
    events: list[PresenceEvent] = []
    node = noting(await managers.start(), events)
    for number in range(200):
        # Shorter than a claim takes, or about as long.
        within_s, socket = random.uniform(0, 0.002), Socket()
        try:
            async with asyncio.timeout(within_s):
                await node.connect(f"client {number}", socket)  # type: ignore[arg-type]  # a fake
        except TimeoutError:
            continue
        await node.disconnect(f"client {number}")
    await eventually(lambda: nothing_is_left(managers, node))
    joined = {event.client_id for event in events if event.kind == "joined"}
    left = {event.client_id for event in events if event.kind == "left"}
    assert joined == left
    assert len(events) == 2 * len(joined)


async def nothing_is_left(managers: Managers, node: WebSocketConnectionManager) -> bool:
    (own,) = await node.nodes()
    return not await client_ids(node) and own.connections == 0


# Nodes die


async def started_after_the_lapse(managers: Managers, policy: str) -> WebSocketConnectionManager:
    """Start a node that may not sweep the ghost before it has held its own lease for as long as that lasts."""
    observer = await managers.start(lease_ttl_s=30, renew_interval_s=BEAT_S)
    await eventually(lambda: is_alone(observer), 2 * LEASE_S, what="the ghost's lease lapsed")
    return await managers.start(on_client_overflow=policy)


async def is_alone(node: WebSocketConnectionManager) -> bool:
    return len(await node.nodes()) == 1


async def settled(node: WebSocketConnectionManager) -> None:
    """Wait until a node repeats no evict any more."""
    await eventually(lambda: not node._registry.claims._displaced, what="no evict is repeated")


@pytest.mark.parametrize("policy", ["replace", "reject"])
async def test_client_that_came_back_before_the_sweep_and_went_has_left_once(
    managers: Managers, policy: str
) -> None:
    ghost, events = Ghost(managers), list[PresenceEvent]()
    await ghost.leave_behind("alice", room="room")
    node = noting(await started_after_the_lapse(managers, policy), events)
    await register(node, "alice")
    await settled(node)
    await node.disconnect("alice")
    await eventually(lambda: counter(node, "nodes_swept") == 1, what="swept")
    assert told(events) == {"left": 1, "room_left": 1}


@pytest.mark.parametrize("policy", ["replace", "reject"])
async def test_client_that_came_back_before_the_sweep_and_stays_has_not_left(
    managers: Managers, policy: str
) -> None:
    ghost, events = Ghost(managers), list[PresenceEvent]()
    await ghost.leave_behind("alice")
    node = noting(await started_after_the_lapse(managers, policy), events)
    await register(node, "alice")
    await settled(node)
    await eventually(lambda: counter(node, "nodes_swept") == 1, what="swept")
    assert told(events) == {}
    await node.disconnect("alice")
    assert told(events) == {"left": 1}


async def test_join_whose_node_died_before_it_reported_it_is_reported_by_the_sweep(
    managers: Managers,
) -> None:
    ghost, events = Ghost(managers), list[PresenceEvent]()
    node = noting(await managers.start(), events)
    await ghost.leave_behind("alice", room="room", is_reported=False)
    await eventually(lambda: counter(node, "nodes_swept") == 1, what="swept")
    assert [event.kind for event in events] == ["room_joined", "room_left", "joined", "left"]


async def test_hook_that_takes_longer_than_the_lease_runs_on_one_node(managers: Managers) -> None:
    ghost, events = Ghost(managers), list[PresenceEvent]()
    nodes = await managers.start_many(3)

    async def slowly(event: PresenceEvent) -> None:
        events.append(event)
        await asyncio.sleep(2 * LEASE_S)

    for node in nodes:
        node.on_presence(slowly)
    await ghost.leave_behind("alice")
    await eventually(
        lambda: sum(counter(node, "nodes_swept") for node in nodes) == 1, 6 * LEASE_S, what="swept"
    )
    assert told(events) == {"left": 1}


async def test_shutdown_that_cuts_slow_hooks_short_leaves_the_rest_to_a_survivor(managers: Managers) -> None:
    events: list[PresenceEvent] = []
    node, survivor = await managers.start_many(2)

    async def slowly(event: PresenceEvent) -> None:
        events.append(event)
        await asyncio.sleep(LEASE_S)

    survivor.on_presence(events.append)
    node.on_presence(lambda event: None)  # without a hook the next beat confirms what began
    for name in CROWD:
        await join(node, name, "room")
    node.on_presence(slowly)
    await node.graceful_shutdown(0.2)
    await eventually(lambda: told(events) == once("left", "room_left"), 10 * LEASE_S, what="each left once")


async def test_shutdown_does_not_wait_for_slow_hooks_of_releases_that_redis_had_not_answered(
    own_managers: Managers, server: RedisServer
) -> None:
    """They are left to a survivor. Otherwise each of the crowd would delay the shutdown by one hook."""
    events: list[PresenceEvent] = []
    survivor = await own_managers.start()
    survivor.on_presence(events.append)

    async def slowly(event: PresenceEvent) -> None:
        events.append(event)
        await asyncio.sleep(2 * SHUTDOWN_S / len(CROWD))

    async with TcpProxy("127.0.0.1", server.port) as proxy:
        node = await own_managers.start(**proxied(proxy))
        node.on_presence(lambda event: None)
        for name in CROWD:
            await join(node, name, "room")
        node.on_presence(slowly)
        proxy.blackhole()
        shutdown = asyncio.create_task(node.graceful_shutdown(0.2))
        pending = node._registry.claims._unreleased
        await eventually(lambda: len(pending) == 2 * len(CROWD), what="no release was answered")
        proxy.resume()
        async with asyncio.timeout(SHUTDOWN_S):
            await shutdown
    await eventually(lambda: told(events) == once("left", "room_left"), 30 * LEASE_S, what="each left once")
    await asyncio.sleep(2 * LEASE_S)
    assert told(events) == once("left", "room_left")


async def test_hook_that_hangs_does_not_stop_the_releases_that_redis_had_not_answered(
    own_managers: Managers, server: RedisServer
) -> None:
    observer = await own_managers.start()
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        node = await own_managers.start(**proxied(proxy))
        for name in ("alice", "bob"):
            await join(node, name)

        async def hangs(_: PresenceEvent) -> None:
            await asyncio.Event().wait()

        node.on_presence(hangs)
        for name in ("alice", "bob"):
            proxy.cut()
            await node.disconnect(name)
            await eventually(lambda: bool(node._registry.claims._unreleased), what="the release has failed")
            proxy.resume()
            await knows(observer, *{"alice", "bob"} - {"alice", name})
        await node.graceful_shutdown(0.2)


async def test_without_hooks_what_began_is_confirmed_with_the_next_beat(
    own_managers: Managers, server: RedisServer
) -> None:
    (node,) = await own_managers.start_many(1)
    for name in CROWD:
        await join(node, name, "room")

    def noted() -> int:
        with server.client() as client:
            return sum(client.hlen(key) for key in client.scan_iter("*:unreported"))

    assert noted() > 0
    await eventually(lambda: noted() == 0, what="the beat confirms what began")
    await node.graceful_shutdown()
    assert noted() == 0
