"""Killed and frozen replicas, a Redis that is lost in every way, and callers that are cancelled at any moment."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import redis.asyncio

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConfigurationError,
    Connection,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.redis.connection import ConnectionFactory
from fastapi_websocket_stabilizer.backends.redis.pipeline import Pipeline, no_earlier_sends
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from tests.integration.cluster import (
    LEASE_S,
    REPLACED,
    SMALL_LEASE,
    Managers,
    Replica,
    channels,
    client_ids,
    connections_to,
    counter,
    everyone_hears,
    hears,
    join,
    keys_with,
    knows,
    register,
)
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

CONNECTIONS = 3
"""Of a node to its Redis: commands, lease, bus."""
SETTLED_S = LEASE_S + 6  # a lease, two beats and the sweep, on a busy machine


def proxied(proxy: TcpProxy) -> dict[str, Any]:
    """Settings of a node behind a proxy that gives up soon and keeps its lease through a short outage."""
    url = f"redis://127.0.0.1:{proxy.port}"
    return {"redis_url": url, "redis_timeout_s": 0.5, "lease_ttl_s": 8.0}


@asynccontextmanager
async def node_behind_proxy(
    managers: Managers, server: RedisServer, **settings: Any
) -> AsyncIterator[tuple[WebSocketConnectionManager, TcpProxy]]:
    """Start a node whose network to Redis can be cut; it is mended and the node shut down at the end."""
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        node = await managers.start(**{**proxied(proxy), **settings})
        try:
            yield node, proxy
        finally:
            proxy.cut()
            proxy.resume()
            await node.graceful_shutdown(1.0)


# Processes


async def test_clients_of_a_killed_replica_vanish_everywhere_and_leave_once(replicas: list[Replica]) -> None:
    *survivors, victim = replicas
    before = [len(await survivor.call("events")) for survivor in survivors]
    node_id = (await victim.call("statistics"))["node_id"]
    async with victim.client("k-alice", "k-room") as alice, victim.client("k-bob", "k-room") as bob:
        await alice.greeted()
        await bob.greeted()
        victim.process.kill()
        for survivor in survivors:
            await eventually(lambda s=survivor: is_empty(s), SETTLED_S, what="the dead are not listed")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        await eventually(lambda: not keys_with(victim.url, node_id), SETTLED_S, what="swept")
    news = [
        event
        for survivor, start in zip(survivors, before, strict=True)
        for event in (await survivor.call("events"))[start:]
    ]
    assert sorted((event["kind"], event["client_id"]) for event in news) == [
        ("left", "k-alice"),
        ("left", "k-bob"),
        ("room_left", "k-alice"),
        ("room_left", "k-bob"),
    ]


async def is_empty(replica: Replica) -> bool:
    return not await replica.call("clients") and not await replica.call("room_members", room="k-room")


async def test_a_frozen_replica_comes_back_as_another_node_and_serves_nothing_stale(
    replicas: list[Replica],
) -> None:
    victim, other, _ = replicas
    former = await victim.call("statistics")
    async with victim.client("f-moved") as old, victim.client("f-stayed") as stayed:
        await old.greeted()
        await stayed.greeted()
        victim.process.freeze()
        await eventually(lambda: is_swept(victim.url, former["node_id"]), SETTLED_S, what="swept")
        async with other.client("f-moved") as new:
            await new.greeted()
            await other.call("broadcast", message="only for those who hold their place")
            victim.process.thaw()
            await eventually(lambda: old.closed_with == REPLACED, what="the old socket is closed")
            assert old.received == ["registered"]
            for replica in replicas:
                await eventually(lambda r=replica: lists(r, "f-moved", "f-stayed"), what="both listed")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                assert await replica.call("send_to_client", client_id="f-moved", message="hello")
            await eventually(lambda: new.received[-3:] == ["hello"] * 3)
            assert new.is_open
            assert stayed.is_open
    after = await victim.call("statistics")
    assert after["node_id"] != former["node_id"]
    assert after["counters"]["leases_refused"] == former["counters"]["leases_refused"] + 1


async def is_swept(url: str, node_id: str) -> bool:
    return not await asyncio.to_thread(keys_with, url, node_id)


async def lists(replica: Replica, *wanted: str) -> bool:
    return set(await replica.call("clients")) == set(wanted)


@pytest.mark.parametrize("successor_at", [0, 1], ids=["same replica", "other replica"])
async def test_the_handler_of_a_replaced_socket_does_not_hurt_the_successor(
    replicas: list[Replica], successor_at: int
) -> None:
    name = f"h-{successor_at}"
    async with replicas[0].client(name, style="old") as old, AsyncRoom() as room:
        await old.greeted()
        new = await room.enter(replicas[successor_at].client(name, style="old"))
        await new.greeted()
        await eventually(lambda: handler_ended(replicas[0], name), what="the old handler has disconnected")
        assert old.closed_with == REPLACED
        await new.socket.send("still there?")
        await hears(new, "registered", "still there?")
        for replica in replicas:
            assert await replica.call("is_connected", client_id=name)


class AsyncRoom:
    """One client entered late and left with the block."""

    async def __aenter__(self) -> "AsyncRoom":
        self._manager: Any = None
        return self

    async def enter(self, manager: Any) -> Any:
        self._manager = manager
        return await manager.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self._manager.__aexit__(*error)


async def handler_ended(replica: Replica, name: str) -> bool:
    return name in await replica.call("ended")


# Redis


async def test_everything_is_listed_again_after_redis_restarted_empty(
    own_managers: Managers, server: RedisServer
) -> None:
    nodes = await own_managers.start_many(2)
    sockets = [await join(node, f"client {number}", "room") for number, node in enumerate(nodes)]
    server.restart_empty()
    for node in nodes:
        await knows(node, "client 0", "client 1")
        await eventually(lambda n=node: count_is(n, "room", 2))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    await eventually(lambda: len(channels(server.url, own_managers.namespace)) == 6)
    await nodes[0].broadcast("hello", room="room")
    await everyone_hears(sockets, "hello")
    token = await nodes[0].issue_reconnect_token("client 0")
    assert await nodes[1].validate_reconnect_token(token) == "client 0"


async def count_is(manager: WebSocketConnectionManager, room: str, wanted: int) -> bool:
    return await manager.room_count(room) == wanted


async def test_messages_arrive_again_after_redis_killed_the_subscriptions(
    own_managers: Managers, server: RedisServer
) -> None:
    nodes = await own_managers.start_many(2)
    sockets = [await join(node, f"client {number}", "room") for number, node in enumerate(nodes)]
    with server.client() as client:
        client.client_kill_filter(_type="pubsub")
    await eventually(lambda: len(channels(server.url, own_managers.namespace)) == 6, what="subscribed again")
    await nodes[0].broadcast("to all")
    await nodes[1].broadcast("to the room", room="room")
    await nodes[0].send_to_client("client 1", "to one")
    await hears(sockets[0], "to all", "to the room")
    await hears(sockets[1], "to all", "to the room", "to one")
    assert all(counter(node, "bus_reconnects") == 1 for node in nodes)


@pytest.mark.parametrize("fault", ["cut", "blackhole"])
async def test_local_sends_go_on_while_redis_is_gone(
    own_managers: Managers, server: RedisServer, fault: str
) -> None:
    async with node_behind_proxy(own_managers, server, on_backend_loss="refuse") as (node, proxy):
        alice = await join(node, "alice")
        getattr(proxy, fault)()
        with pytest.raises(BackendUnavailableError):
            await node.broadcast("lost")
        assert await node.send_to_client("alice", "hello")
        assert await node.send_to_clients(["alice"], "again") == 1
        await hears(alice, "hello", "again")


async def test_calls_work_again_after_a_blackhole(own_managers: Managers, server: RedisServer) -> None:
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        near = await own_managers.start()
        alice, bob = await join(node, "alice"), await join(near, "bob")
        proxy.blackhole()
        with pytest.raises(BackendUnavailableError):
            await node.presence("bob")
        proxy.resume()
        await eventually(lambda: node.is_connected("bob"))
        await eventually(lambda: near.send_to_client("alice", "hello"))
        await node.send_to_client("bob", "hello")
        await everyone_hears([alice, bob], "hello")


async def test_what_was_given_up_does_not_come_late_behind_what_was_sent_after_it(
    own_managers: Managers, server: RedisServer
) -> None:
    there = await own_managers.start(lease_ttl_s=8.0)
    bob = await join(there, "bob", "lobby")
    async with node_behind_proxy(own_managers, server) as (here, proxy):
        proxy.throttle(50_000)
        given_up = [here.broadcast("late" * 50_000, room="lobby"), here.send_to_client("bob", "late")]
        await asyncio.gather(*given_up)  # its connection is given up, with most of it on its way

        async def newer_is_heard() -> bool:
            await here.broadcast("newer")
            return "newer" in bob.received

        await eventually(newer_is_heard, what="a newer message came through a newer connection")
        proxy.resume()
        await eventually(lambda: proxy.connections == CONNECTIONS, what="the former connection is over")
        assert (await here.broadcast("last")).nodes == 2
        await eventually(lambda: "last" in bob.received)
        assert {message[:5] for message in bob.received} == {"newer", "last"}


async def test_a_command_that_was_given_up_is_not_carried_out_behind_a_newer_one(
    server: RedisServer, namespace: str
) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        commands = Pipeline(
            ConnectionFactory(f"redis://127.0.0.1:{proxy.port}", 0.5), Counters(), "test", no_earlier_sends
        )
        await commands.start()
        proxy.throttle(50_000)
        with pytest.raises(BackendUnavailableError):
            await commands.send("SET", namespace, "late" * 50_000, idempotent=False)

        async def newer_is_there() -> bool:
            with suppress(BackendUnavailableError):
                await commands.send("SET", namespace, "newer", idempotent=False)
            with server.client() as client:
                return bool(client.get(namespace) == "newer")

        await eventually(newer_is_there, what="a newer command came through a newer connection")
        proxy.resume()
        await eventually(lambda: proxy.connections == 1, what="the former connection is over")
        assert await commands.send("GET", namespace, idempotent=True) == b"newer"
        await commands.stop()


async def test_clients_that_left_during_an_outage_are_not_listed_after_it(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        near = await own_managers.start()
        connections = [await register(node, f"client {number}") for number in range(20)]
        await connections[0].join("room")
        proxy.cut()
        await asyncio.gather(*(connection.close() for connection in connections))
        proxy.resume()
        await knows(near)
        await eventually(lambda: count_is(near, "room", 0))
        await eventually(lambda: not keys_with(server.url, f"{node.statistics().node_id}."))


async def test_a_socket_that_was_outranked_during_an_outage_comes_back_to_no_room(
    own_managers: Managers, server: RedisServer
) -> None:
    """Nobody is told that a client came, and left again, who had only been there before."""
    async with node_behind_proxy(own_managers, server, **SMALL_LEASE) as (node, proxy):
        near = await own_managers.start()
        told: list[tuple[str, str]] = []
        for manager in (node, near):
            manager.on_presence(lambda event: told.append((event.kind, event.node)))
        former_id, outranked = node.statistics().node_id, await join(node, "alice", "room")
        proxy.cut()
        await knows(near)
        await join(near, "alice", "room")
        proxy.resume()
        await eventually(lambda: not outranked.is_open, what="the old socket is closed")
        await eventually(lambda: not keys_with(server.url, former_id), what="its node_id is swept")
        here = near.statistics().node_id
        in_room = [(kind, node_id) for kind, node_id in told if kind.startswith("room")]
        there = [("room_joined", former_id), ("room_left", former_id)]
        assert sorted(in_room) == sorted([*there, ("room_joined", here)])


async def test_what_redis_refused_a_node_that_stops_is_removed_by_a_survivor(
    own_managers: Managers, server: RedisServer
) -> None:
    survivor, node = await own_managers.start_many(2)
    alice = await register(node, "alice")
    await alice.join("room")
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-eval", "-evalsha")
        assert (await node.graceful_shutdown(1.0)).closed_count == 1
        admin.execute_command("ACL", "SETUSER", "default", "+eval", "+evalsha")
    await eventually(
        lambda: not keys_with(server.url, f"{node.statistics().node_id}."), what="no key of it is left"
    )
    assert await survivor.room_count("room") == 0


async def test_a_room_is_left_and_reported_though_the_caller_gave_up(managers: Managers) -> None:
    node = await managers.start()
    left: list[str | None] = []
    node.on_presence(lambda event: left.append(event.room) if event.kind == "room_left" else None)
    alice = await register(node, "alice")
    await alice.join("room")
    leaving = asyncio.create_task(alice.leave("room"))
    await asyncio.sleep(0)
    assert not alice.rooms  # its first step is done, and Redis is asked
    leaving.cancel()
    await eventually(lambda: left == ["room"], what="the leave is reported")


async def test_a_room_that_was_left_during_an_outage_is_left_after_it(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server, on_backend_loss="refuse") as (node, proxy):
        near = await own_managers.start()
        alice = await register(node, "alice")
        await alice.join("room")
        proxy.cut()
        with pytest.raises(BackendUnavailableError):
            await alice.leave("room")
        proxy.resume()
        await eventually(lambda: count_is(near, "room", 0), what="nobody is listed in the room")


async def test_whoever_joins_twice_at_once_during_an_outage_is_told_twice(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server, on_backend_loss="refuse") as (node, proxy):
        alice = await register(node, "alice")
        proxy.blackhole()
        joins = await asyncio.gather(alice.join("room"), alice.join("room"), return_exceptions=True)
        assert [type(answer) for answer in joins] == [BackendUnavailableError] * 2


@pytest.mark.alone
async def test_reclaiming_goes_on_after_redis_was_lost_in_the_middle_of_it(
    own_managers: Managers, server: RedisServer
) -> None:
    names = [f"client {number}" for number in range(2_000)]
    async with node_behind_proxy(own_managers, server, lease_ttl_s=LEASE_S) as (node, proxy):
        for name in names:
            await register(node, name)
        forget(server, node.statistics().node_id)
        await eventually(lambda: counter(node, "leases_refused") == 1)
        index = f"{own_managers.namespace}:{{{node.statistics().node_id}}}:connections"
        async with redis.asyncio.Redis.from_url(server.url) as client:
            await eventually(lambda: client.hlen(index))
        proxy.cut()
        failures = counter(node, "redis_failures")
        await eventually(lambda: counter(node, "redis_failures") > failures)
        proxy.resume()
        near = await own_managers.start()
        await knows(near, *names)


def forget(server: RedisServer, node_id: str) -> None:
    """Make Redis forget a node's lease, as a failover does."""
    with server.client() as client:
        (leases,) = client.scan_iter("*:leases", count=10_000)
        assert client.zrem(leases, node_id) == 1


# Cancellation


@pytest.mark.alone
async def test_nobody_gets_the_reply_of_a_cancelled_caller(managers: Managers) -> None:
    reader, holder = await managers.start_many(2)
    for number in range(100):
        await register(holder, f"client {number}", number=number)

    async def read(number: int) -> None:
        ((entry),) = await reader.presence(f"client {number}")
        assert entry.metadata == {"number": number}

    async def read_for_ever(number: int) -> None:
        while True:
            await read(number)
            await holder.send_to_client(f"client {number}", "hello")

    chance = random.Random(7)
    victims = [asyncio.create_task(read_for_ever(number % 100)) for number in range(300)]
    for victim in chance.sample(victims, len(victims)):
        victim.cancel()
        await asyncio.gather(*(read(chance.randrange(100)) for _ in range(5)))
    ends = await asyncio.gather(*victims, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}


async def test_nothing_is_kept_of_a_request_that_is_cancelled_or_cannot_be_sent(
    own_managers: Managers, server: RedisServer
) -> None:
    node, there = await own_managers.start_many(2, on_backend_loss="refuse")
    await register(there, "bob")
    chance = random.Random(7)
    for _ in range(300):
        call = asyncio.create_task(node.join("bob", "room"))
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    assert node._state.replies._open == {}
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-publish")
        with pytest.raises((BackendUnavailableError, ConfigurationError)):
            await node.leave("bob", "room")
        client.execute_command("ACL", "SETUSER", "default", "+publish")
    assert node._state.replies._open == {}


async def test_cancelled_connects_leave_nothing_behind(managers: Managers) -> None:
    # With a short lease, 300 connects on a busy machine may keep the event loop from an answer of Redis in time.
    node, near = await managers.start_many(2, lease_ttl_s=10.0)
    chance = random.Random(7)
    calls = [asyncio.create_task(join(node, f"client {number}", "room")) for number in range(300)]
    for call in chance.sample(calls, len(calls)):
        call.cancel()
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(end, asyncio.CancelledError) for end in ends) > 10
    # A join that was cancelled leaves its connection registered: it belongs to whoever connected it.
    for name in node.get_active_connections():
        await near.disconnect(name)
    await knows(near)
    await eventually(lambda: count_is(near, "room", 0))
    await eventually(lambda: not keys_with(managers.url, f"{node.statistics().node_id}."))


async def test_a_connect_that_is_cancelled_in_a_hook_is_released(managers: Managers) -> None:
    node = await managers.start()
    entered = asyncio.Event()

    @node.on_connect
    async def hang(connection: Connection) -> None:
        entered.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(register(node, "alice"))
    await entered.wait()
    call.cancel()
    await asyncio.wait([call])
    await knows(node)


# Connections and pipelines


async def test_connections_to_redis_do_not_grow_with_clients_or_calls(
    own_managers: Managers, server: RedisServer
) -> None:
    node, near = await own_managers.start_many(2)
    await register(near, "bob")
    before = connections_to(server)
    await asyncio.gather(*(join(node, f"client {number}", "room", f"room {number}") for number in range(200)))
    await asyncio.gather(*(node.send_to_client("bob", "hello") for _ in range(500)))
    await asyncio.gather(*(node.presence("bob") for _ in range(500)))
    assert connections_to(server) == before == 6


async def test_commands_of_one_tick_leave_in_one_pipeline(managers: Managers) -> None:
    node, near = await managers.start_many(2, lease_ttl_s=30, renew_interval_s=10)
    bob = await join(near, "bob")
    await node.send_to_client("bob", "0")
    batches, commands = counter(node, "redis_batches"), counter(node, "redis_commands")
    await asyncio.gather(*(node.send_to_client("bob", str(number)) for number in range(1, 101)))
    assert counter(node, "redis_batches") - batches == 1
    assert 1 <= counter(node, "redis_commands") - commands <= 100
    await hears(bob, *map(str, range(101)))


async def test_a_caller_that_gives_up_does_not_disturb_the_others_in_its_pipeline(managers: Managers) -> None:
    node, near = await managers.start_many(2)
    bob = await join(near, "bob")
    calls = [asyncio.create_task(node.send_to_client("bob", str(number))) for number in range(10)]
    await asyncio.sleep(0)
    calls[3].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [answer is True for answer in answers] == [number != 3 for number in range(10)]
    await eventually(lambda: len(bob.received) == 10)  # it had been sent: its outcome is only unknown
    assert await client_ids(near) == {"bob"}
