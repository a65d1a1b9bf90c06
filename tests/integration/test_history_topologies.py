"""Histories in Redis Cluster and behind Sentinels: slots move and primaries die while stored messages flow."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.crc import key_slot

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    History,
    Mailbox,
    Publisher,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from tests.faults.verbs import frozen
from tests.integration.cluster import Managers, Socket, counter, hears, join
from tests.integration.test_topologies import FAILOVER_S, SURVIVING, binary_of, dies, replaced
from tests.support.clusters import RedisCluster
from tests.support.sentinels import SentinelGroup
from tests.support.waiting import eventually

STORED: dict[str, Any] = {
    **SURVIVING,
    "history": {"chat:": History()},
    "history_for_all": History(),
    "mailbox": Mailbox(messages=10_000, bytes=8_000_000),
}


@pytest.fixture(scope="module", params=["valkey-9.1", "redis-6.2"])
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """Three primaries; slots are moved between them. The older one has classic Pub/Sub."""
    with RedisCluster(binary_of(request.param)) as cluster:
        yield cluster


@pytest.fixture
def mortal_cluster() -> Iterator[RedisCluster]:
    with RedisCluster(binary_of("valkey-9.1"), replicas=1) as cluster:
        yield cluster


@pytest.fixture
def sentinels() -> Iterator[SentinelGroup]:
    with SentinelGroup(binary_of("redis-7.0")) as group:
        yield group


class Talk:
    """Two nodes with a member each, and numbered messages that were stored."""

    def __init__(self, here: WebSocketConnectionManager, sockets: list[Socket]) -> None:
        self.here, self.sockets = here, sockets
        self.stored: list[str] = []
        self.number = 0

    async def say(self) -> bool:
        """Store one message; return whether that is known."""
        text, self.number = f"{self.number}", self.number + 1
        with suppress(BackendUnavailableError):
            if await self.store(text):
                self.stored.append(text)
                return True
        return False

    async def store(self, text: str) -> int | None:
        return (await self.here.broadcast(text, room="chat:1")).id

    async def on(self) -> None:
        while True:
            await self.say()
            await asyncio.sleep(0.002)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def has_arrived(self) -> None:
        """Wait until the last message is everywhere; all that were stored are, in order and once."""
        await eventually(self.say, timeout_s=FAILOVER_S, what="messages are stored")
        last = self.stored[-1]
        await eventually(lambda: all(s.received[-1:] == [last] for s in self.sockets), timeout_s=FAILOVER_S)
        for socket in self.sockets:
            numbers = [int(text) for text in socket.received]
            assert numbers == sorted(set(numbers))
            assert set(self.stored) <= set(socket.received)


class Letters(Talk):
    """Numbered messages to one client, which has a socket on each node."""

    async def store(self, text: str) -> int | None:
        return (await self.here.send_to_client("alice", text, store=True)).id


@asynccontextmanager
async def talk_at(url: str, namespace: str) -> AsyncIterator[Talk]:
    managers = Managers(url, namespace)
    here, there = await managers.start_many(2, **STORED)
    try:
        yield Talk(here, [await join(here, "alice", "chat:1"), await join(there, "bob", "chat:1")])
    finally:
        await managers.close()


@asynccontextmanager
async def letters_at(url: str, namespace: str) -> AsyncIterator[Talk]:
    managers = Managers(url, namespace)
    here, there = await managers.start_many(2, **STORED, max_connections_per_client=2)
    try:
        yield Letters(here, [await join(here, "alice"), await join(there, "alice")])
    finally:
        await managers.close()


async def test_no_stored_message_is_lost_or_repeated_while_its_slot_moves(
    cluster: RedisCluster, namespace: str
) -> None:
    slot = key_slot(Keys(namespace).room("chat:1").encode())
    async with talk_at(cluster.url, namespace) as talk:
        async with talk.flowing():
            for target in [*cluster.servers, cluster.servers[0]]:
                await asyncio.to_thread(cluster.move, slot, target)
        await talk.has_arrived()
        page = await talk.here.history("chat:1", limit=1000)
        assert [entry.message for entry in page][-1] == talk.stored[-1]


async def test_no_message_of_a_mailbox_is_lost_or_repeated_while_its_slot_moves(
    cluster: RedisCluster, namespace: str
) -> None:
    slot = key_slot(Keys(namespace).box_mark("alice").encode())
    async with letters_at(cluster.url, namespace) as letters:
        async with letters.flowing():
            for target in [*cluster.servers, cluster.servers[0]]:
                await asyncio.to_thread(cluster.move, slot, target)
        await letters.has_arrived()


async def test_killed_primary_loses_no_message_of_a_mailbox_that_a_node_has_received(
    mortal_cluster: RedisCluster, namespace: str
) -> None:
    async with letters_at(mortal_cluster.url, namespace) as letters:
        for _ in range(20):
            await letters.say()
        async with letters.flowing():
            await dies(mortal_cluster, Keys(namespace).box_mark("alice"))
        await letters.has_arrived()


async def test_messages_to_rooms_of_several_servers_arrive_once(
    cluster: RedisCluster, namespace: str
) -> None:
    rooms = [f"chat:{number}" for number in range(12)]
    assert len({cluster.owner_of(Keys(namespace).room(room)).port for room in rooms}) > 1
    managers = Managers(cluster.url, namespace)
    here, there = await managers.start_many(2, **STORED)
    sockets = [await join(here, "alice", *rooms), await join(there, "bob", *rooms[::2])]
    results = [await here.broadcast(f"{number}", room=rooms) for number in range(10)]
    async with Publisher(cluster.url, namespace=namespace) as publisher:
        published = await publisher.broadcast("10", room=rooms)
    assert published.ids.keys() == set(rooms) == results[0].ids.keys()
    await eventually(lambda: [len(socket.received) for socket in sockets] == [11, 11], what="all messages")
    for socket in sockets:
        assert sorted(socket.received, key=int) == [f"{number}" for number in range(11)]
    await managers.close()


async def test_message_to_rooms_of_which_one_cannot_store_it_is_completed_by_a_repetition(
    cluster: RedisCluster, namespace: str
) -> None:
    keys = Keys(namespace)
    frozen_one = next(each for each in cluster.servers if each is not cluster.owner_of(keys.leases))
    rooms = [f"chat:{number}" for number in range(12)]
    is_frozen = [cluster.owner_of(keys.room(room)) is frozen_one for room in rooms]
    reached, missed = rooms[is_frozen.index(False)], rooms[is_frozen.index(True)]
    managers = Managers(cluster.url, namespace)
    here, there = await managers.start_many(2, **STORED)
    sockets = [await join(here, "alice", reached), await join(there, "bob", missed)]
    async with frozen(frozen_one):
        with pytest.raises(BackendUnavailableError) as caught:
            await here.broadcast("order 42", room=[reached, missed], key="42")
        assert caught.value.outcome_unknown
        await hears(sockets[0], "order 42")

    async def is_complete() -> bool:
        with suppress(BackendUnavailableError):
            result = await here.broadcast("order 42", room=[reached, missed], key="42")
            return result.ids.keys() == {reached, missed}
        return False

    await eventually(is_complete, timeout_s=FAILOVER_S, what="the repetition")
    for room, socket in zip((reached, missed), sockets, strict=True):
        await hears(socket, "order 42")
        assert [entry.message for entry in await here.history(room)] == ["order 42"]
    await managers.close()


async def test_killed_primary_loses_nothing_that_a_node_has_received(
    mortal_cluster: RedisCluster, namespace: str
) -> None:
    async with talk_at(mortal_cluster.url, namespace) as talk:
        for _ in range(20):
            await talk.say()
        async with talk.flowing():
            await dies(mortal_cluster, Keys(namespace).room("chat:1"))
        await talk.has_arrived()


async def test_promotion_by_sentinels_loses_nothing_that_a_node_has_received(
    sentinels: SentinelGroup, namespace: str
) -> None:
    async with talk_at(sentinels.url, namespace) as talk:
        for _ in range(20):
            await talk.say()
        async with talk.flowing():
            former = sentinels.primary
            await asyncio.to_thread(former.kill)
            await replaced(sentinels, former)
        await talk.has_arrived()
        assert counter(talk.here, "history_lost_reset") == 0
