"""Sentinel and Redis Cluster under traffic: slots move, primaries die and freeze, and nobody stays deaf."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from traceback import format_exception

import pytest
from redis.crc import key_slot

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    BroadcastFailedError,
    ConfigurationError,
    Publisher,
    SyncPublisher,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.redis import RedisBackend
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.backends.redis.pipeline import no_earlier_sends
from fastapi_websocket_stabilizer.backends.redis.ports import Listener
from fastapi_websocket_stabilizer.backends.redis.probes import Canaries
from fastapi_websocket_stabilizer.backends.redis.topology import Cluster
from fastapi_websocket_stabilizer.backends.redis.urls import parse
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from tests.integration.cluster import Managers, Socket, counter, join, knows, register
from tests.integration.test_own_sockets import hear_besides_chatter, send_secrets
from tests.support.certificates import Certificates, make_certificates
from tests.support.clusters import RedisCluster
from tests.support.process import free_port
from tests.support.requirements import missing
from tests.support.sentinels import SentinelGroup
from tests.support.servers import Missing, RedisServer
from tests.support.topologies import TOPOLOGIES, allow_least
from tests.support.waiting import eventually
from tests.support.watchers import ignore, watcher

CLUSTERS = ("valkey-9.1", "redis-7.0", "redis-6.2")
SURVIVING = {"lease_ttl_s": 8.0, "renew_interval_s": 0.5, "redis_timeout_s": 2.0}
"""Settings of a node that keeps its lease through a failover."""
FAILOVER_S = 20.0  # seconds; two on an idle machine


def binary_of(server: str) -> Path:
    found = TOPOLOGIES[server].find()
    return missing(found.reason) if isinstance(found, Missing) else found


@pytest.fixture(scope="module", params=CLUSTERS)
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """Three primaries; slots are moved between them, but nobody is hurt."""
    with RedisCluster(binary_of(request.param)) as cluster:
        yield cluster


@pytest.fixture(params=["valkey-9.1", "redis-6.2"])
def mortal_cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """Three primaries with a replica each: one may be killed."""
    with RedisCluster(binary_of(request.param), replicas=1) as cluster:
        yield cluster


@pytest.fixture
def sentinels() -> Iterator[SentinelGroup]:
    with SentinelGroup(binary_of("redis-7.0")) as group:
        yield group


class Crowd:
    """Two nodes of one registry, a client on each, both in a room, and numbered messages to them."""

    def __init__(self, url: str, namespace: str) -> None:
        self.managers = Managers(url, namespace)
        self.keys = Keys(namespace)
        self.numbers = count()
        self.sent: dict[str, int] = {}

    async def start(self) -> None:
        self.here, self.there = await self.managers.start_many(2, **SURVIVING)
        self.sockets = [await join(self.here, "alice", "lobby"), await join(self.there, "bob", "lobby")]

    @property
    def nodes(self) -> list[WebSocketConnectionManager]:
        return [self.here, self.there]

    @property
    def important(self) -> dict[str, int]:
        """Slots that messages and leases depend on."""
        inboxes = [self.keys.inbox(NodeId(node.statistics().node_id)) for node in self.nodes]
        keys = [self.keys.all, self.keys.leases, self.keys.room("lobby"), self.keys.client("bob"), *inboxes]
        return {key: key_slot(key.encode()) for key in keys}

    async def say(self, kind: str) -> None:
        """Send one message and remember it, whatever becomes of it."""
        text = f"{kind} {next(self.numbers)}"
        with suppress(BackendUnavailableError, BroadcastFailedError):
            match kind:
                case "direct":
                    await self.here.send_to_client("bob", text)
                case "room":
                    await self.there.broadcast(text, room="lobby")
                case "all":
                    await self.here.broadcast(text)

    async def talk(self, kind: str) -> None:
        while True:
            await self.say(kind)
            await asyncio.sleep(0.002)

    @asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        """Keep all kinds of messages flowing meanwhile."""
        tasks = [asyncio.create_task(self.talk(kind)) for kind in ("direct", "room", "all")]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def is_well(self) -> None:
        """Everybody hears every kind of message again, within a few seconds; nobody was sent anything twice."""
        await eventually(self.hears_all_kinds, timeout_s=FAILOVER_S, what="all kinds of messages arrive")
        for socket in self.sockets:
            self.heard_each_once_and_in_order(socket)
        await knows(self.here, "alice", "bob")

    async def hears_all_kinds(self) -> bool:
        results = []
        for kind, sockets in (("direct", self.sockets[1:]), ("room", self.sockets), ("all", self.sockets)):
            text = f"{kind} {next(self.numbers)}"
            if kind == "direct":
                assert await self.here.send_to_client("bob", text)
            elif kind == "room":
                await self.there.broadcast(text, room="lobby")
            else:
                await self.here.broadcast(text)
            results.append((text, sockets))
        await asyncio.sleep(0.05)
        return all(text in socket.received for text, sockets in results for socket in sockets)

    @staticmethod
    def heard_each_once_and_in_order(socket: Socket) -> None:
        for kind in ("direct", "room", "all"):
            numbers = [int(text.split()[1]) for text in socket.received if str(text).startswith(kind)]
            assert numbers == sorted(set(numbers)), kind


@asynccontextmanager
async def crowd_at(url: str, namespace: str) -> AsyncIterator[Crowd]:
    crowd = Crowd(url, namespace)
    try:
        await crowd.start()
        yield crowd
    finally:
        await crowd.managers.close()


# Cluster


async def test_slots_move_under_traffic_and_nobody_stays_deaf(cluster: RedisCluster, namespace: str) -> None:
    async with crowd_at(cluster.url, namespace) as crowd:
        async with crowd.talking():
            for _ in range(2):
                for slot in crowd.important.values():
                    owner = cluster.owner(slot)
                    target = cluster.servers[(cluster.servers.index(owner) + 1) % 3]
                    await asyncio.to_thread(cluster.move, slot, target)
        await crowd.is_well()
        await eventually(lambda: all(counter(node, "bus_moves") for node in crowd.nodes))
        assert sum(counter(node, "redis_redirected") for node in crowd.nodes) > 0


async def test_commands_of_a_slot_are_executed_once_and_in_order_while_it_moves(
    cluster: RedisCluster, namespace: str
) -> None:
    topology = Cluster(parse(cluster.url), 3.0, Counters())
    commands, others = (
        topology.commands("test", no_earlier_sends),
        topology.commands("others", no_earlier_sends),
    )
    await commands.start()
    await others.start()
    lists = [f"{namespace}:{{{number}}}" for number in range(3)]
    replies: list[asyncio.Future[int]] = []

    async def push() -> None:
        while True:
            for _ in range(20):
                number = len(replies) // len(lists)
                replies.extend(commands.send("RPUSH", key, number, idempotent=False) for key in lists)
            await asyncio.sleep(0)

    async def learn() -> None:
        """Hear of each move on another connection, while commands are in flight on the first."""
        while True:
            await asyncio.gather(*(others.send("LLEN", key, idempotent=True) for key in lists))

    tasks = [asyncio.create_task(push()), asyncio.create_task(learn())]
    for key in lists * 2:
        slot = key_slot(key.encode())
        target = cluster.servers[(cluster.servers.index(cluster.owner(slot)) + 1) % 3]
        await asyncio.to_thread(cluster.move, slot, target)
    for task in tasks:
        task.cancel()
    lengths = await asyncio.gather(*replies)
    assert lengths == [number // len(lists) + 1 for number in range(len(lengths))]
    await commands.stop()
    await others.stop()
    await topology.stop()


async def test_a_cluster_may_be_found_later(cluster: RedisCluster, namespace: str) -> None:
    silent = f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.servers[2].port}"
    topology, heard = Cluster(parse(silent), 3.0, Counters()), list[bytes]()
    commands, keys = topology.commands("test", no_earlier_sends), Keys(namespace)
    canaries = Canaries(keys, commands, topology.publish_command, Counters(), ignore)
    channels = topology.channels(
        Listener(lambda _, data: heard.append(data), ignore, ignore, ignore), canaries
    )
    name = f"{namespace}:all"
    commands.serve()
    channels.serve()
    channels.want(name)
    now = commands.send("TIME", idempotent=True)  # before anybody has said who owns what
    assert len(await now) == 2
    await eventually(lambda: channels.is_connected)
    await channels.subscribe(name)
    publish = topology.publishing(keys, commands).command
    assert await commands.send(publish, name, "hello", idempotent=False) == 1
    await eventually(lambda: heard == [b"hello"])
    await channels.stop()
    await commands.stop()
    await topology.stop()


async def test_each_connection_of_the_bus_has_a_canary(cluster: RedisCluster, namespace: str) -> None:
    managers = Managers(cluster.url, namespace)
    node = await managers.start()
    for number in range(20):  # rooms on every primary
        await join(node, f"client {number}", f"room {number}")
    lag = node.statistics().bus_lag_seconds.count
    await eventually(lambda: node.statistics().bus_lag_seconds.count >= lag + 6, what="two beats' canaries")
    assert counter(node, "canaries_missed") == 0
    for server in cluster.servers:
        server.kill_pubsub()
    await eventually(lambda: counter(node, "bus_reconnects") >= 3)
    await eventually(lambda: node.statistics().bus_connected)
    missed = counter(
        node, "canaries_missed"
    )  # on the connections that were killed, if a beat fell in between
    lag = node.statistics().bus_lag_seconds.count
    await eventually(lambda: node.statistics().bus_lag_seconds.count >= lag + 6, what="and again")
    assert counter(node, "canaries_missed") == missed
    await managers.close()


async def test_what_goes_to_an_inbox_keeps_the_order_of_the_calls(
    cluster: RedisCluster, namespace: str
) -> None:
    async with crowd_at(cluster.url, namespace) as crowd:
        socket = Socket()
        carol = await register(crowd.here, "carol", socket)
        calls: list[asyncio.Future[object]] = []
        for number in range(100):
            calls.append(asyncio.ensure_future(crowd.here.broadcast("all")))  # the others stay behind it
            calls.append(asyncio.ensure_future(crowd.here.send_to_client("carol", f"{2 * number}")))
            calls.append(asyncio.ensure_future(carol.send(f"{2 * number + 1}")))
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        expected = [f"{number}" for number in range(200)]
        await eventually(lambda: [text for text in socket.received if text != "all"] == expected)


async def test_no_server_sees_a_message_to_a_socket_of_the_sending_node(
    cluster: RedisCluster, namespace: str
) -> None:
    managers = Managers(cluster.url, namespace)
    here, there = await managers.start_many(2)
    alice, carol, bob = Socket(), Socket(), await join(there, "bob")
    own = await register(here, "alice", alice)
    await register(here, "carol", carol)
    wanted: tuple[list[str], list[str]] = ([], [])
    async with AsyncExitStack() as stack:
        seen = [await stack.enter_async_context(commands_at(server.port)) for server in cluster.servers]
        await send_secrets(here, own, "bob", wanted=wanted)
        await there.broadcast("last")
        await eventually(lambda: any(b"last" in line for lines in seen for line in lines))
    # Not the word alone: scripts that a batch carries in full have it, too.
    assert [line for lines in seen for line in lines if re.search(rb"secret \d+ ", line)] == []
    await hear_besides_chatter((alice, [*wanted[0], "last"]), (carol, [*wanted[1], "last"]))
    await eventually(lambda: "mixed 59" in bob.received)
    await managers.close()


@asynccontextmanager
async def commands_at(port: int) -> AsyncIterator[list[bytes]]:
    """Keep every command that a server carries out (``MONITOR``)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"
    commands: list[bytes] = []

    async def read() -> None:
        while line := await reader.readline():
            commands.append(line)

    reading = asyncio.create_task(read())
    yield commands
    reading.cancel()
    await asyncio.wait([reading])
    writer.close()


async def test_a_half_moved_slot_is_served_by_both_servers(cluster: RedisCluster, namespace: str) -> None:
    async with crowd_at(cluster.url, namespace) as crowd:
        slot = key_slot(crowd.keys.client("bob").encode())
        source = cluster.owner(slot)
        target = next(server for server in cluster.servers if server is not source)
        await asyncio.to_thread(cluster.begin_move, slot, source, target)
        async with crowd.talking():
            await asyncio.sleep(0.1)  # any moment of it will do
            await crowd.is_well()
        assert counter(crowd.here, "redis_redirected") > 0
        assert counter(crowd.here, "bus_moves") == 0
        await asyncio.to_thread(cluster.finish_move, slot, source, target)
        await crowd.is_well()


@pytest.mark.parametrize("victim", ["all", "leases"])
async def test_a_killed_primary_is_replaced_under_traffic(
    mortal_cluster: RedisCluster, namespace: str, victim: str
) -> None:
    async with crowd_at(mortal_cluster.url, namespace) as crowd:
        key = {"all": crowd.keys.all, "leases": crowd.keys.leases}[victim]
        async with crowd.talking():
            await eventually(lambda: len(crowd.sockets[1].received) > 50)
            former = await dies(mortal_cluster, key)
        await crowd.is_well()
        former.start()  # it comes back as a replica of the server that took its place
        await crowd.is_well()


async def dies(cluster: RedisCluster, key: str) -> RedisServer:
    """Kill the primary of a key; return when another one has its slots."""
    victim = cluster.owner_of(key)
    victim.kill()
    await eventually(lambda: cluster.owner_of(key) is not victim, timeout_s=FAILOVER_S, what="a promotion")
    return victim


async def test_a_frozen_primary_is_replaced_under_traffic(
    mortal_cluster: RedisCluster, namespace: str
) -> None:
    async with crowd_at(mortal_cluster.url, namespace) as crowd:
        victim = mortal_cluster.owner_of(crowd.keys.room("lobby"))
        async with crowd.talking():
            await eventually(lambda: len(crowd.sockets[1].received) > 50)
            victim.freeze()
            await crowd.is_well()
            victim.thaw()
        await crowd.is_well()


async def test_a_primary_that_comes_back_empty_is_noticed_without_traffic(
    cluster: RedisCluster, namespace: str
) -> None:
    async with crowd_at(cluster.url, namespace) as crowd:
        backend = RedisBackend(crowd.managers.config(**SURVIVING), watcher(), Counters())
        await backend.start(NodeId("idle"))
        before = backend.run_id
        with cluster.servers[1].client() as client:
            client.shutdown(nosave=True)
        await eventually(lambda: not cluster.servers[1].process.is_running)
        cluster.servers[1].start()
        await eventually(lambda: backend.run_id not in (before, ""))
        await backend.stop()


@pytest.mark.parametrize("emptied", range(3))
async def test_whichever_primary_is_emptied_the_registry_is_whole_again(
    cluster: RedisCluster, namespace: str, emptied: int
) -> None:
    managers, names = Managers(cluster.url, namespace), {f"client {number}" for number in range(20)}
    here, there = await managers.start_many(2, **SURVIVING)
    for name in names:  # on every primary
        await join(here, name, name, "lobby")
    await asyncio.to_thread(cluster.servers[emptied].flush)

    async def is_whole() -> bool:
        await knows(there, *names)
        rooms = [[member.client_id for member in await there.room_members(name)] for name in names]
        counts = [await there.room_count(name) for name in (*names, "lobby")]
        alone = [[name] for name in sorted(names)]
        return sorted(rooms) == alone and counts == [*([1] * len(names)), len(names)]

    await eventually(is_whole, what="everybody is in the registry and in the rooms")
    await managers.close()


# Sentinel


async def replaced(sentinels: SentinelGroup, former: RedisServer) -> None:
    await eventually(lambda: sentinels.primary is not former, timeout_s=FAILOVER_S, what="another primary")


async def test_a_killed_server_is_replaced_by_its_sentinels_under_traffic(
    sentinels: SentinelGroup, namespace: str
) -> None:
    async with crowd_at(sentinels.url, namespace) as crowd:
        async with crowd.talking():
            await eventually(lambda: len(crowd.sockets[1].received) > 50)
            former = sentinels.primary
            former.kill()
            await replaced(sentinels, former)
            await crowd.is_well()
        await crowd.is_well()


async def test_a_frozen_server_is_replaced_and_nobody_stays_with_it(
    sentinels: SentinelGroup, namespace: str
) -> None:
    async with crowd_at(sentinels.url, namespace) as crowd:
        async with crowd.talking():
            await eventually(lambda: len(crowd.sockets[1].received) > 50)
            former = sentinels.primary
            former.freeze()
            await replaced(sentinels, former)
            await crowd.is_well()
            former.thaw()
        await crowd.is_well()


async def test_a_promotion_is_known_before_anything_times_out(
    sentinels: SentinelGroup, namespace: str
) -> None:
    managers = Managers(sentinels.url, namespace)
    patient = {
        "lease_ttl_s": 300.0,
        "renew_interval_s": 60.0,
        "redis_timeout_s": 60.0,
    }  # longer than the test
    async with Publisher(sentinels.url, namespace=namespace, timeout_s=60.0) as publisher:
        here, there = await managers.start_many(2, **patient)
        alice, bob = await join(here, "alice"), await join(there, "bob")
        assert await publisher.broadcast("before") == 2
        former = sentinels.primary
        former.freeze()
        sent = [here.send_to_client("bob", "direct"), publisher.send_to_client("alice", "outside")]
        waiting = [asyncio.ensure_future(call) for call in sent]
        await replaced(sentinels, former)
        await eventually(
            lambda: all(call.done() for call in waiting), what="nobody waits for the frozen server"
        )
        await asyncio.gather(*waiting, return_exceptions=True)

        async def all_hear() -> bool:
            with suppress(BackendUnavailableError):
                await here.broadcast("after")
                assert await there.send_to_client("alice", "direct")
                assert await publisher.send_to_client("bob", "outside")
            await asyncio.sleep(0.05)
            return "after" in bob.received and {"direct", "outside"} <= {*alice.received, *bob.received}

        await eventually(all_hear, what="everybody hears everybody through the other server")
        former.thaw()
        await managers.close()


async def test_primary_and_replica_are_exchanged_under_traffic(
    sentinels: SentinelGroup, namespace: str
) -> None:
    async with crowd_at(sentinels.url, namespace) as crowd:
        former = sentinels.primary
        async with crowd.talking():
            sentinels.failover()
            await replaced(sentinels, former)
            await crowd.is_well()
        await crowd.is_well()


async def test_one_sentinel_that_answers_is_enough(sentinels: SentinelGroup, namespace: str) -> None:
    sentinels.sentinels[0].process.freeze()
    sentinels.sentinels[1].process.kill()
    async with crowd_at(sentinels.url, namespace) as crowd:
        await crowd.is_well()


# What the servers refuse


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[str, Certificates]]:
    certificates, port = make_certificates(tmp_path), free_port()
    arguments = ("--tls-port", str(port), *certificates.server_arguments)
    with RedisServer(binary_of("redis-7.0"), arguments=arguments):
        yield f"rediss://127.0.0.1:{port}", certificates


@pytest.mark.parametrize(
    ("query", "says"),
    [("", "ssl_ca_certs"), ("?ssl_ca_certs={0.authority}", "ssl_certfile")],
    ids=["unknown authority", "no client certificate"],
)
async def test_without_the_certificates_there_is_no_connection(
    tls: tuple[str, Certificates], namespace: str, query: str, says: str
) -> None:
    url, certificates = tls
    for _ in range(10):  # the server's word about a certificate often comes after it has closed
        manager = Managers(url + query.format(certificates), namespace).make()
        with pytest.raises(ConfigurationError, match=says):
            await manager.start()


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
async def test_neither_user_nor_password_is_in_an_error(
    scheme: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = ("hidden-user", "hidden-password")
    with RedisServer(binary_of("valkey-9.1")) as server, server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", hidden[0], "on", f">{hidden[1]}", "+ping"
        )  # INFO is refused by name
        service = "/main?sentinel_username=hidden-user&sentinel_password=hidden-password"
        url = f"{scheme}://{':'.join(hidden)}@127.0.0.1:{server.port}"
        url += service if "sentinel" in scheme else ""
        manager = Managers(url, namespace).make(on_backend_loss="refuse")
        with pytest.raises((ConfigurationError, BackendUnavailableError)) as caught:
            await manager.start()
    traceback = "".join(format_exception(caught.value))
    shown = f"{caught.value} {manager.config!r} {parse(url)!r} {caplog.text} {traceback}"
    assert not any(secret in shown for secret in hidden)
    assert "***" in shown


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        ("valkey-9.1", "server"),
        ("redis-7.0", "sentinel"),
        ("valkey-9.1", "cluster"),
        ("redis-6.2", "cluster"),
    ],
)
async def test_with_the_documented_rights_nothing_is_refused(server: str, kind: str, namespace: str) -> None:
    made = {"server": RedisServer, "sentinel": SentinelGroup, "cluster": RedisCluster}[kind](
        binary_of(server)
    )
    with made:
        servers = [made] if isinstance(made, RedisServer) else made.servers
        for each in servers:
            user = allow_least(each, namespace, kind, is_sharded=server != "redis-6.2")
        url = f"{made.url.partition('//')[0]}//{user}{made.url.partition('//')[2].rpartition('@')[2]}"
        async with crowd_at(url, namespace) as crowd:
            await crowd.is_well()
            token = await crowd.here.issue_reconnect_token("alice")
            assert await crowd.there.validate_reconnect_token(token) == "alice"
            await crowd.here.disconnect("bob")

        def say_in_a_thread() -> None:
            with SyncPublisher(url, namespace=namespace) as publisher:
                publisher.broadcast("hello")
                publisher.send_to_client("alice", "hello")

        await asyncio.to_thread(say_in_a_thread)
        for each in servers:
            with each.client() as client:
                assert client.acl_log() == []


# Publishers


@pytest.fixture(params=["redis-sentinel", "cluster-sharded", "cluster-classic", "unix-socket", "redis-tls"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    topology = TOPOLOGIES[request.param]
    found = topology.find()
    if isinstance(found, Missing):
        missing(found.reason)
    with topology.serve(found) as url:
        yield url


async def test_publishers_reach_everybody_by_the_same_url(url: str, namespace: str) -> None:
    async with crowd_at(url, namespace) as crowd, Publisher(url, namespace=namespace) as publisher:
        assert await publisher.send_to_clients(["alice", "bob", "nobody"], "one") == 2
        assert await publisher.broadcast("two", room="lobby") == 2
        assert await publisher.broadcast("three") == 2

        def say_in_a_thread() -> list[int]:
            with SyncPublisher(url, namespace=namespace) as publisher:
                return [
                    publisher.send_to_clients(["alice", "bob", "nobody"], "four"),
                    publisher.broadcast("five", room="lobby"),
                    publisher.broadcast("six", exclude_client="alice"),
                ]

        assert await asyncio.to_thread(say_in_a_thread) == [2, 2, 2]
        expected = {"one", "two", "three", "four", "five", "six"}
        await eventually(lambda: set(crowd.sockets[1].received) == expected)
        await eventually(lambda: set(crowd.sockets[0].received) == expected - {"six"})
        assert len(crowd.sockets[1].received) == len(expected)
