"""Signed envelopes on a real Redis: what others publish, or publish again, reaches nobody."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import redis
import redis.asyncio

from fastapi_websocket_stabilizer import (
    ConfigurationError,
    Publisher,
    SyncPublisher,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.redis.bus import ADVICE
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind, Part, pack
from fastapi_websocket_stabilizer.wire.messages import Form
from fastapi_websocket_stabilizer.wire.signatures import Keyring
from tests.integration.cluster import (
    Managers,
    Publishing,
    Socket,
    channels,
    counter,
    hears,
    join,
    register,
)
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

NEW, OLD, OTHER = "new key " * 4, "old key " * 4, "other key " * 4
DROPS = ("bus_unsigned", "bus_forged", "bus_replayed", "bus_malformed")
LONG_LEASE: dict[str, Any] = {"lease_ttl_s": 30, "renew_interval_s": 10}


def drops(node: WebSocketConnectionManager) -> tuple[int, ...]:
    return tuple(counter(node, name) for name in DROPS)


class Attacker:
    """Hears and publishes everything, and knows no key."""

    def __init__(self, managers: Managers) -> None:
        self._managers = managers
        self.publishing = Publishing(managers.url)
        self.heard: list[tuple[str, bytes]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear all channels of the registry."""
        async with (
            redis.asyncio.Redis.from_url(self._managers.url) as client,
            client.pubsub() as subscriber,
        ):
            await subscriber.psubscribe(f"{self._managers.namespace}:*")
            await subscriber.get_message(timeout=5)
            reading = asyncio.create_task(self._read(subscriber))
            yield
            reading.cancel()
            await asyncio.wait([reading])

    async def _read(self, subscriber: Any) -> None:
        async for message in subscriber.listen():
            if message["type"] == "pmessage":
                self.heard.append((message["channel"].decode(), message["data"]))

    async def repeat(self, channel: str | None = None) -> int:
        """Publish again everything that was heard, or publish all of it on one channel."""
        heard = tuple(self.heard)
        for original, data in heard:
            await self.publishing.publish(channel or original, data)
        return len(heard)


@pytest.fixture
async def attacker(managers: Managers) -> AsyncIterator[Attacker]:
    attacker = Attacker(managers)
    async with attacker.listening():
        yield attacker


async def start_two(managers: Managers, **settings: Any) -> list[WebSocketConnectionManager]:
    return await managers.start_many(2, envelope_keys=[NEW], **{**LONG_LEASE, **settings})


async def say_everything(here: WebSocketConnectionManager, alice: str = "alice") -> list[str]:
    """Send in every way there is; return what a client ``alice`` in the room ``room`` must hear."""
    assert await here.send_to_client(alice, "direct")
    assert await here.send_to_client(alice, "confirmed", confirm=5)
    assert await here.send_to_clients([alice, "bob", "nobody"], "to several") == 2
    await here.broadcast("to all")
    await here.broadcast("to all, confirmed", confirm=0.5)
    await here.broadcast("to the room", room="room")
    await here.broadcast("to rooms", room=["room", "other"])
    return ["direct", "confirmed", "to several", "to all", "to all, confirmed", "to the room", "to rooms"]


async def test_every_way_to_send_works_between_nodes_with_keys(managers: Managers) -> None:
    here, there = await start_two(managers)
    alice, bob = await join(there, "alice", "room"), await join(here, "bob")
    said = await say_everything(here)
    await hears(alice, *said)
    await here.join("alice", "later")
    await here.broadcast("later", room="later")
    await hears(alice, *said, "later")
    await hears(bob, "to several", "to all", "to all, confirmed")
    successor = await join(here, "alice")
    await eventually(lambda: alice.closed_with is not None, what="the evict")
    await there.disconnect("alice", reason="asked")
    assert successor.closed_with is not None
    assert drops(here) == drops(there) == (0, 0, 0, 0)


async def test_every_mix_of_ways_keeps_its_order(managers: Managers) -> None:
    here, there = await start_two(managers)
    alice, bob = Socket(), Socket()
    own = await register(here, "alice", alice)
    await register(there, "bob", bob)
    calls = []
    for number in range(40):
        ways = [
            here.send_to_clients(["alice", "bob"], str(number)),
            here.broadcast(str(number)),
            here.send_to_client("bob", str(number)),
            own.send(str(number)),
        ]
        for way in ways:
            calls.append(asyncio.ensure_future(way))
            await asyncio.sleep(0)
    await asyncio.gather(*calls)
    numbers = list(map(str, range(40)))
    await hears(bob, *[number for number in numbers for _ in range(3)])
    await hears(alice, *[number for number in numbers for _ in range(3)])


def forged(kind: Kind, **changes: Any) -> Envelope:
    return Envelope(NodeId("attacker"), 1, 0, kind, **changes)


async def test_a_forged_publish_reaches_nobody(managers: Managers, caplog: pytest.LogCaptureFixture) -> None:
    here, there = await start_two(managers)
    alice = Socket()
    connection = await register(there, "alice", alice)
    await connection.join("room")
    keys, publishing = Keys(managers.namespace), Publishing(managers.url)
    strangers = Keyring([OTHER], keys.inbox_prefix)
    node = there.statistics().node_id
    part = Part(["alice"], Form.TEXT, "forged")
    close = '{"do": "close", "code": 1000, "reason": "forged"}'
    envelopes = [
        forged(Kind.BROADCAST, body="forged"),
        forged(Kind.BROADCAST, targets=("room",), body="forged"),
        forged(Kind.DIRECT, parts=(part,)),
        forged(Kind.EVICT, targets=(connection.connection_id,)),
        forged(Kind.REQUEST, targets=("alice",), form=Form.JSON, body=close),
        forged(Kind.REPLY, form=Form.JSON, body="[]", ask=1),
        forged(Kind.SOCKET, targets=("alice", connection.connection_id), body="forged"),
    ]
    channels = [keys.all, keys.room("room"), keys.inbox(NodeId(node))]
    for channel in channels:
        for envelope in envelopes:
            await publishing.publish(channel, pack(envelope))
            await publishing.publish(channel, strangers.pack(envelope, channel, 2**50))
    everything = len(channels) * len(envelopes)
    await eventually(lambda: drops(there) == (everything, everything, 0, 0), what="all dropped and counted")
    await here.broadcast("still here", room="room")
    await hears(alice, "still here")
    assert alice.is_open
    advice = [r.getMessage() for r in caplog.records if "envelope dropped" in r.getMessage()]
    assert set(advice) == {ADVICE["bus_unsigned"], ADVICE["bus_forged"]}
    assert NEW not in caplog.text


async def test_a_publish_that_is_repeated_reaches_nobody(managers: Managers, attacker: Attacker) -> None:
    here, there = await start_two(managers)
    alice, bob = await join(there, "alice", "room"), await join(here, "bob", "room")
    said = await say_everything(here)
    await here.join("alice", "later")
    await here.leave("alice", "later")
    await hears(alice, *said)
    before = len(bob.received)
    published = await attacker.repeat()
    assert published >= len(said)
    nodes = [here.statistics().node_id, there.statistics().node_id]
    keys = Keys(managers.namespace)
    for channel in [keys.all, keys.room("room"), *(keys.inbox(NodeId(node)) for node in nodes)]:
        await attacker.repeat(channel)
    await here.broadcast("last")
    await hears(alice, *said, "last")
    assert len(bob.received) == before + 1
    assert counter(there, "bus_replayed") > 0
    assert counter(there, "bus_forged") > 0
    assert not (await there.room_members("later")).members


async def test_a_repetition_after_the_bus_was_lost_reaches_nobody(
    managers: Managers, attacker: Attacker
) -> None:
    here, there = await start_two(managers)
    alice = await join(there, "alice", "room")
    said = await say_everything_to(here, alice)
    with redis.Redis.from_url(managers.url) as client:
        client.client_kill_filter(_type="pubsub")
    await eventually(lambda: counter(there, "bus_reconnects") == 1 and is_back(there), what="back")
    await attacker.repeat()
    await eventually(lambda: counter(there, "bus_replayed") >= len(attacker.heard), what="all dropped")
    await here.broadcast("last")
    await hears(alice, *said, "last")


def is_back(node: WebSocketConnectionManager) -> bool:
    return node.statistics().bus_connected


async def say_everything_to(here: WebSocketConnectionManager, alice: Socket) -> list[str]:
    said = ["direct", "to all", "to the room"]
    assert await here.send_to_client("alice", "direct")
    await here.broadcast("to all")
    await here.broadcast("to the room", room="room")
    await hears(alice, *said)
    return said


async def a_moment_of(url: str) -> None:
    """Wait until Redis' clock has gone further than estimates of it are apart."""
    with redis.Redis.from_url(url) as client:
        began = client.time()
        await eventually(lambda: client.time() > (began[0], began[1] + 50_000) or client.time()[0] > began[0])


@pytest.mark.parametrize(
    "is_new", [True, False], ids=["a node that has just started", "a node that was there"]
)
async def test_a_repetition_reaches_nobody_on_a_node_where_they_came_later(
    managers: Managers, attacker: Attacker, is_new: bool
) -> None:
    here, there = await start_two(managers)
    late = there if is_new else await managers.start(envelope_keys=[NEW], **LONG_LEASE)
    said = await say_everything_to(here, await join(there, "alice", "room"))
    await a_moment_of(managers.url)
    if is_new:
        late = await managers.start(envelope_keys=[NEW], **LONG_LEASE)
    # The client has moved to another node, and joins the room there.
    alice = await join(late, "alice", "room")
    inbox = Keys(managers.namespace).inbox(NodeId(late.statistics().node_id))
    for channel, data in tuple(attacker.heard):
        await attacker.publishing.publish(inbox if channel.endswith("inbox") else channel, data)
    await eventually(lambda: counter(late, "bus_replayed") >= len(said), what="all dropped")
    await here.broadcast("last")
    await hears(alice, "last")


async def test_a_direct_message_that_is_repeated_on_another_channel_reaches_nobody(
    managers: Managers, attacker: Attacker
) -> None:
    here, there = await start_two(managers)
    alice = await join(there, "alice", "room", "x}:inbox")
    # Nothing was said before on the other channels, so what comes there has no place behind anything.
    assert await here.send_to_client("alice", "direct")
    assert await here.send_to_clients(["alice", "bob"], "to several") == 1
    await eventually(lambda: len(attacker.heard) == 2, what="heard")
    keys = Keys(managers.namespace)
    for _, data in tuple(attacker.heard):
        for channel in (keys.all, keys.room("room"), keys.room("x}:inbox")):
            await attacker.publishing.publish(channel, data)
    await eventually(lambda: counter(there, "bus_forged") == 6, what="all dropped")
    await hears(alice, "direct", "to several")


async def test_a_direct_message_that_is_repeated_after_the_lease_lapsed_reaches_nobody(
    managers: Managers, attacker: Attacker
) -> None:
    here, there = await managers.start_many(2, envelope_keys=[NEW])
    alice, former = await join(there, "alice"), there.statistics().node_id
    assert await here.send_to_client("alice", "direct")
    keys = Keys(managers.namespace)
    with redis.Redis.from_url(managers.url) as client:
        client.zrem(keys.leases, former)
    await eventually(lambda: there.statistics().node_id != former, what="another node_id")
    inbox = keys.inbox(NodeId(there.statistics().node_id))
    await eventually(lambda: inbox in channels(managers.url, managers.namespace), what="its inbox")
    await attacker.repeat(inbox)
    await eventually(lambda: counter(there, "bus_replayed") >= 1, what="dropped")
    assert await here.send_to_client("alice", "last", confirm=5)
    await hears(alice, "direct", "last")


async def test_keys_are_rotated_without_a_message_lost(managers: Managers) -> None:
    for before, after in pairwise([[OLD], [OLD, NEW], [NEW, OLD], [NEW]]):
        old = await managers.start(envelope_keys=before, **LONG_LEASE)
        new = await managers.start(envelope_keys=after, **LONG_LEASE)
        alice, bob = await join(old, "alice", "room"), await join(new, "bob", "room")
        for node in (old, new):
            assert await node.send_to_client("alice", "direct", confirm=5)
            assert await node.send_to_client("bob", "direct", confirm=5)
            await node.broadcast("to all", confirm=5)
            await node.broadcast("to the room", room="room", confirm=5)
        for socket in (alice, bob):
            await hears(socket, *["direct", "to all", "to the room"] * 2)
        await new.disconnect("alice")
        await old.disconnect("bob")
        assert drops(old) == drops(new) == (0, 0, 0, 0)
        await old.graceful_shutdown(1)
        await new.graceful_shutdown(1)


async def test_a_node_without_keys_hears_and_is_not_heard(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    with_keys = await managers.start(envelope_keys=[NEW], **LONG_LEASE)
    without = await managers.start(**LONG_LEASE)
    alice, bob = await join(with_keys, "alice"), await join(without, "bob")
    caplog.clear()
    for _ in range(10):
        await without.send_to_client("alice", "unsigned")
        await without.broadcast("unsigned")
    await eventually(lambda: counter(with_keys, "bus_unsigned") == 20, what="20 dropped")
    assert await with_keys.send_to_client("bob", "signed")
    await eventually(lambda: bob.received[-1:] == ["signed"])
    assert alice.received == []
    told = [record for record in caplog.records if "set envelope_keys on every node" in record.getMessage()]
    assert len(told) == 1
    assert told[0].levelno == logging.WARNING


async def test_publishers_sign_and_are_heard(managers: Managers) -> None:
    node = await managers.start(envelope_keys=[NEW, OLD], **LONG_LEASE)
    alice = await join(node, "alice", "room")
    settings: dict[str, Any] = {"namespace": managers.namespace, "envelope_keys": [OLD]}
    async with Publisher(managers.url, **settings) as publisher:
        assert await publisher.send_to_client("alice", "1")
        assert await publisher.broadcast("2") == 1
        assert await publisher.broadcast("3", room="room") == 1

    def say() -> None:
        with SyncPublisher(managers.url, **settings) as publisher:
            assert publisher.send_to_client("alice", "4")
            assert publisher.broadcast("5") == 1
            assert publisher.broadcast("6", room="room") == 1

    await asyncio.to_thread(say)
    await hears(alice, *"123456")
    assert drops(node) == (0, 0, 0, 0)
    async with Publisher(managers.url, namespace=managers.namespace) as publisher:
        await publisher.send_to_client("alice", "unsigned")
    await eventually(lambda: counter(node, "bus_unsigned") == 1)


@pytest.mark.parametrize("made", [Publisher, SyncPublisher])
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_publisher_refuses_short_keys_and_does_not_show_them(made: Any, scheme: str) -> None:
    with pytest.raises(
        ConfigurationError, match="envelope_keys must be strings of at least 32 bytes"
    ) as raised:
        made(f"{scheme}://127.0.0.1:1", envelope_keys=["hunter2"])
    assert "hunter2" not in str(raised.value)


async def test_an_envelope_kept_for_longer_than_the_window_reaches_nobody(managers: Managers) -> None:
    node = await managers.start(envelope_keys=[NEW], **LONG_LEASE)
    alice = await join(node, "alice")
    keys, publishing = Keys(managers.namespace), Publishing(managers.url)
    keyring = Keyring([NEW], keys.inbox_prefix)
    with redis.Redis.from_url(managers.url) as client:
        seconds, microseconds = client.time()
    now_us = int(seconds) * 1_000_000 + int(microseconds)
    for number, age_s in enumerate((-40, 40, 0), start=1):
        envelope = Envelope(NodeId("n"), number, 0, Kind.BROADCAST, body=str(age_s))
        await publishing.publish(keys.all, keyring.pack(envelope, keys.all, now_us - age_s * 1_000_000))
    await eventually(lambda: counter(node, "bus_replayed") == 2)
    await eventually(lambda: alice.received == ["0"])


async def test_signed_messages_survive_a_restart_of_redis(
    server: RedisServer, own_managers: Managers
) -> None:
    here, there = await own_managers.start_many(2, envelope_keys=[NEW])
    alice = await join(there, "alice")
    assert await here.send_to_client("alice", "before")
    server.restart_empty()

    async def is_heard() -> bool:
        return await here.send_to_client("alice", "after")

    await eventually(is_heard, timeout_s=20)
    await eventually(lambda: alice.received[-1:] == ["after"])
    assert drops(there)[:2] == (0, 0)
