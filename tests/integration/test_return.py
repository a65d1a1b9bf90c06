"""Redis comes back: the same, empty, flushed, promoted. The registry is whole again, and traffic went on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from fastapi_websocket_stabilizer import PresenceEvent, WebSocketConnectionManager
from tests.integration.cluster import (
    LEASE_S,
    REPLACED,
    Managers,
    Socket,
    channels,
    counter,
    everyone_hears,
    first_row,
    hears,
    join,
    keys_with,
    knows,
    register,
)
from tests.integration.test_faults import count_is
from tests.integration.test_redis_away import is_away, not_degraded, now_s
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

MANY = 10_000


# Many connections


class Traffic:
    """A member of a room who is spoken to all the time, and how long each word takes."""

    def __init__(self, speaker: WebSocketConnectionManager, listener: WebSocketConnectionManager) -> None:
        self.speaker, self.listener = speaker, listener
        self.took_s: list[float] = []

    async def run(self) -> None:
        socket = await join(self.listener, "listener", "traffic")
        number = 0
        while True:
            number += 1
            began_s = now_s()
            await self.speaker.broadcast(str(number), room="traffic")
            await eventually(partial(self._was_heard, socket, str(number)))
            self.took_s.append(now_s() - began_s)
            await asyncio.sleep(0.01)

    def _was_heard(self, socket: Socket, word: str) -> bool:
        return socket.received[-1:] == [word]


async def lists(manager: WebSocketConnectionManager, wanted: int) -> bool:
    return await manager.cluster_connection_count() == wanted


@pytest.mark.alone
@pytest.mark.later
async def test_ten_thousand_connections_are_back_within_ten_seconds_beside_traffic(
    own_managers: Managers, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"lease_ttl_s": 10.0, "renew_interval_s": 1.0, "redis_timeout_s": 3.0}
    server.kill()
    node = await own_managers.start(**settings)
    for start in range(0, MANY, 500):
        await asyncio.gather(*(register(node, f"client {n}") for n in range(start, start + 500)))
    server.start()
    near = await own_managers.start(**settings)
    began_s = now_s()
    await eventually(lambda: lists(near, MANY), 15, what="all are registered")
    first_s = now_s() - began_s
    traffic = Traffic(near, near)
    talking = asyncio.create_task(traffic.run())
    await eventually(lambda: len(traffic.took_s) > 50)
    quiet, traffic.took_s = traffic.took_s, []
    refused = counter(node, "leases_refused")
    began_s = now_s()
    with server.client() as client:
        client.flushall()
    await eventually(lambda: counter(node, "leases_refused") > refused, what="it was noticed")
    await eventually(lambda: lists(near, MANY + 1), 15, what="all are registered again")
    again_s, during = now_s() - began_s, sorted(traffic.took_s)
    talking.cancel()
    await asyncio.wait([talking])
    with capsys.disabled():
        print(
            f"\n{MANY} connections: registered {first_s:.1f} s after a start without Redis, {again_s:.1f} s "
            f"after FLUSHALL; a word beside it took {during[len(during) // 2] * 1000:.1f} ms (median), "
            f"{during[-1] * 1000:.0f} ms (worst of {len(during)}), in peace {max(quiet) * 1000:.0f} ms (worst)"
        )
    assert first_s < 10 + 2 * 1.0  # a beat until it is noticed
    assert again_s < 10 + 2 * 1.0
    assert during[len(during) * 9 // 10] < 0.5
    assert during[-1] < 3.0


# Empty


@pytest.mark.parametrize("fault", ["flushed", "restarted"])
async def test_everything_is_listed_again_by_a_server_that_was_emptied(
    own_managers: Managers, server: RedisServer, fault: str
) -> None:
    nodes = await own_managers.start_many(2)
    events: list[PresenceEvent] = []
    sockets = [await join(node, f"client {number}", "room") for number, node in enumerate(nodes)]
    for node in nodes:
        node.on_presence(events.append)
    for _ in range(3):
        if fault == "flushed":
            with server.client() as client:
                client.flushall()
        else:
            server.restart_empty()
        for node in nodes:
            await knows(node, "client 0", "client 1")
            await eventually(lambda n=node: count_is(n, "room", 2))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    await eventually(lambda: len(channels(server.url, own_managers.namespace)) == 6)
    assert (await nodes[0].broadcast("hello", room="room")).nodes == 2
    await everyone_hears(sockets, "hello")
    assert [event for event in events if event.kind.endswith("left")] == []
    with server.client() as client:
        secret = f"{own_managers.namespace}:{{nodes}}:secret"
        await eventually(lambda: client.exists(secret), what="the secret was offered again")
    token = await nodes[0].issue_reconnect_token("client 0")
    assert await (await own_managers.start()).validate_reconnect_token(token) == "client 0"


# Promoted


@asynccontextmanager
async def replicated(
    server: RedisServer, namespace: str
) -> AsyncIterator[tuple[TcpProxy, RedisServer, Managers]]:
    """Give an address that stands for the primary, a replica that is in step with it, and who uses them."""
    with RedisServer(first_row()) as replica:
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(server.port))
            await eventually(lambda: client.info("replication")["master_link_status"] == "up")
        async with TcpProxy("127.0.0.1", server.port) as proxy:
            managers = Managers(f"redis://127.0.0.1:{proxy.port}", namespace)
            try:
                yield proxy, replica, managers
            finally:
                await managers.close()


async def promote(proxy: TcpProxy, replica: RedisServer) -> None:
    """Have the address stand for the replica, which is a primary already."""
    proxy.cut()
    proxy._target = "127.0.0.1", replica.port
    proxy.resume()


def detach(replica: RedisServer) -> None:
    """Have a replica miss all that its primary does from now on."""
    with replica.client() as client:
        client.replicaof("NO", "ONE")


async def test_what_a_promoted_replica_missed_is_made_good(server: RedisServer, namespace: str) -> None:
    """Its lease was replicated: only the change of server says that anything may be missing."""
    async with replicated(server, namespace) as (proxy, replica, managers):
        node = await managers.start(lease_ttl_s=20.0, renew_interval_s=0.5)
        near = await managers.start(lease_ttl_s=20.0, renew_interval_s=0.5)
        node_id = node.statistics().node_id
        kept, gone = await register(node, "kept"), await register(node, "gone")
        for connection in (kept, gone):
            await connection.join("left")
        await in_step(replica, f"{namespace}:{{{node_id}}}:memberships", 2)
        detach(replica)
        await gone.close()
        await kept.leave("left")
        await kept.join("joined")
        new = await join(node, "new", "joined")
        moved = await join(near, "kept")
        await eventually(lambda: kept.ended is not None)
        await promote(proxy, replica)
        await eventually(lambda: not_degraded(node))
        await knows(near, "kept", "new")
        await eventually(lambda: count_is(near, "joined", 1))
        await eventually(lambda: count_is(near, "left", 0))
        assert [entry.node for entry in await near.presence("kept")] == [near.statistics().node_id]
        assert node.statistics().node_id == node_id
        await eventually(lambda: not keys_with(replica.url, gone.connection_id))
        await eventually(lambda: near.send_to_client("new", "hello"))  # when the bus of its node is back, too
        await hears(new, "hello")
        assert moved.is_open


async def in_step(replica: RedisServer, key: str, wanted: int) -> None:
    with replica.client() as client:
        await eventually(lambda: client.hlen(key) == wanted)


@pytest.mark.alone
async def test_a_claim_that_a_promoted_replica_missed_keeps_its_rank(
    server: RedisServer, namespace: str
) -> None:
    async with replicated(server, namespace) as (proxy, replica, managers):
        node, near = await managers.start_many(2, lease_ttl_s=20.0, renew_interval_s=0.5)
        old = await join(node, "alice")
        await in_step(replica, f"{namespace}:{{{node.statistics().node_id}}}:connections", 1)
        detach(replica)
        new = await join(near, "alice")
        await eventually(lambda: old.closed_with == REPLACED)
        await promote(proxy, replica)
        await eventually(
            lambda: not keys_with(replica.url, f"{node.statistics().node_id}.1"), what="repaired"
        )
        for manager in (node, near):
            await eventually(lambda m=manager: m.send_to_client("alice", "hello"))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        await hears(new, "hello", "hello")
        assert new.is_open


async def test_a_store_whose_epoch_changed_is_asked_about_everything(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start()
    await join(node, "alice", "room")
    with server.client() as client:
        epoch = f"{own_managers.namespace}:{{nodes}}:epoch"
        await eventually(lambda: client.exists(epoch))
        leases: Any = node._registry.lease
        await eventually(lambda: bool(leases._epoch))
        client.delete(epoch, *client.scan_iter("*:client:alice"), *client.scan_iter("*:room:room"))
    await knows(node, "alice")
    await eventually(lambda: is_member(node, "alice", "room"))
    assert counter(node, "leases_refused") == 0


async def is_member(node: WebSocketConnectionManager, client_id: str, room: str) -> bool:
    return client_id in [member.client_id for member in await node.room_members(room)]


# A blip


async def test_a_blip_costs_no_claim(
    own_managers: Managers, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await own_managers.start(lease_ttl_s=8.0)
    # Each beat publishes what metrics show with the command that writes a claim.
    monkeypatch.setattr(node._registry.telemetry, "publish", partial(asyncio.sleep, 0))
    alice = await register(node, "alice")
    commands_before = claims(server)
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    await eventually(lambda: not is_away(node) and counter(node, "redis_batches") > 0)
    beats = counter(node, "redis_commands")
    await eventually(lambda: counter(node, "redis_commands") > beats + 6)
    assert claims(server) == commands_before
    assert (counter(node, "leases_refused"), alice.ended) == (0, None)


def claims(server: RedisServer) -> int:
    """Return how often a connection was written to the index of its node."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_hset", {}).get("calls", 0))


async def test_nobody_is_swept_by_the_first_who_is_back(own_managers: Managers, server: RedisServer) -> None:
    """An outage longer than the lease: every lease in Redis has lapsed when the first node is back."""
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        near = await own_managers.start()
        far = await own_managers.start(redis_url=f"redis://127.0.0.1:{proxy.port}", redis_timeout_s=0.5)
        await join(near, "near")
        await join(far, "far")
        proxy.cut()
        server.freeze()
        await eventually(lambda: is_away(near))
        began_s = now_s()
        await eventually(lambda: now_s() - began_s > LEASE_S)
        server.thaw()
        await eventually(lambda: not is_away(near))
        proxy.resume()
        await knows(near, "near", "far")
        await far.graceful_shutdown(1.0)
