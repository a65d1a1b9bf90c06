"""Spans of OpenTelemetry over several nodes and a real Redis: a link from each node to each sampled sender."""

import asyncio
from typing import Any

import pytest
import redis.asyncio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from fastapi_websocket_stabilizer import (
    ConfigurationError,
    History,
    Mailbox,
    Publisher,
    SyncPublisher,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.runtime.tracing import MAX_LINKS
from fastapi_websocket_stabilizer.wire.channels import ALL
from fastapi_websocket_stabilizer.wire.envelopes import HEADER
from tests.integration.cluster import LEASE_S, Managers, Replica, Socket, hears, join, register
from tests.support.spans import Spans, id_of, linked
from tests.support.waiting import eventually

SOCKETS = 10
KEYS: dict[str, Any] = {"envelope_keys": ["a key of 32 bytes" * 2]}
STORED: dict[str, Any] = {"history": {"": History()}, "history_for_all": History(), "mailbox": Mailbox()}
SETTINGS = {"plain": {}, "signed": KEYS, "stored": STORED, "stored and signed": {**STORED, **KEYS}}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    return Spans(monkeypatch)


async def fan_outs(spans: Spans, count: int) -> list[ReadableSpan]:
    """Wait for the spans of fan-outs, and return them."""
    await eventually(lambda: len(spans.named("process")) >= count, what=f"{count} fan-outs")
    return spans.named("process")


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
async def test_broadcast_has_one_span_on_each_node_with_a_link_to_its_sender(
    managers: Managers, spans: Spans, settings: dict[str, Any]
) -> None:
    nodes = await managers.start_many(2, **settings)
    sockets = [await join(node, f"{i}-{n}", "room") for i, node in enumerate(nodes) for n in range(SOCKETS)]
    with spans.caller() as caller:
        await nodes[0].broadcast("hello", room="room")
    for socket in sockets:
        await hears(socket, "hello")
    found = await fan_outs(spans, 2)
    (sender,) = spans.named("send")
    assert sender.kind is SpanKind.PRODUCER
    assert sender.parent is not None
    assert sender.parent.span_id == caller.span_id
    assert sender.attributes is not None
    assert sender.attributes["messaging.destination.template"] == "room"
    assert sender.attributes["messaging.message.body.size"] == 5
    assert len(found) == 2
    for span in found:
        assert span.kind is SpanKind.CONSUMER
        assert span.parent is None
        assert linked(span) == [id_of(sender)]
        assert span.attributes is not None
        assert span.attributes["stabilizer.sockets"] == SOCKETS
        assert span.attributes["stabilizer.failed"] == 0
        assert span.attributes["messaging.batch.message_count"] == 1


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
async def test_message_to_a_client_of_another_node_has_a_span_there(
    managers: Managers, spans: Spans, settings: dict[str, Any]
) -> None:
    here, there = await managers.start_many(2, **settings)
    socket = await join(there, "alice")
    with spans.caller():
        assert await here.send_to_client("alice", "one")
        assert await here.send_to_clients(["alice", "nobody"], "two") == 1
        assert await here.send_to_client("alice", "three", confirm=5)
    await hears(socket, "one", "two", "three")
    found = await fan_outs(spans, 3)
    senders = [id_of(span) for span in spans.named("send client")]
    assert [linked(span) for span in found] == [[sender] for sender in senders]


async def test_message_to_a_mailbox_has_a_span_where_its_client_is(managers: Managers, spans: Spans) -> None:
    here, there = await managers.start_many(2, **STORED)
    socket = await join(there, "alice")
    with spans.caller():
        assert await here.send_to_client("alice", "one", store=True)
    await hears(socket, "one")
    (found,) = await fan_outs(spans, 1)
    assert linked(found) == [id_of(spans.named("send client")[0])]


async def test_messages_to_several_rooms_have_one_span_a_node(managers: Managers, spans: Spans) -> None:
    here, there = await managers.start_many(2)
    sockets = [await join(there, name, *name) for name in ("a", "b", "ab")]
    with spans.caller():
        await here.broadcast("hello", room=["a", "b"])
    for socket in sockets:
        await hears(socket, "hello")
    spread = [span for span in await fan_outs(spans, 1) if (span.attributes or {})["stabilizer.sockets"]]
    assert [(span.attributes or {})["stabilizer.sockets"] for span in spread] == [3]


async def test_caller_that_is_not_sampled_adds_nothing_to_an_envelope(
    managers: Managers, spans: Spans
) -> None:
    here, there = await managers.start_many(2)
    socket = await join(there, "alice")
    channel = Keys(managers.namespace).channel(ALL)
    async with redis.asyncio.Redis.from_url(managers.url) as client, client.pubsub() as subscriber:
        await subscriber.subscribe(channel)
        await subscriber.get_message(timeout=5)
        await here.broadcast("without a span")
        with spans.caller(sampled=False):
            await here.broadcast("not sampled")
            assert await here.send_to_client("alice", "to one")
        found = [await subscriber.get_message(timeout=5) for _ in range(2)]
    assert [message["data"][:1] for message in found if message is not None] == [HEADER, HEADER]
    await hears(socket, "without a span", "not sampled", "to one")
    assert spans.named("") == []


async def test_messages_of_one_batch_share_a_span_and_its_links_are_bounded(
    managers: Managers, spans: Spans
) -> None:
    """Direct sends of one tick share an envelope, and their receiver has one batch of it."""
    here, there = await managers.start_many(2)
    socket, count = await join(there, "alice"), MAX_LINKS + 10
    with spans.caller():
        await asyncio.gather(*(here.send_to_client("alice", str(number)) for number in range(count)))
    await hears(socket, *map(str, range(count)))
    (found,) = await fan_outs(spans, 1)
    senders = [id_of(span) for span in spans.named("send")]
    assert len(senders) == count
    assert set(linked(found)) <= set(senders)
    assert len(linked(found)) == MAX_LINKS
    assert found.attributes is not None
    assert found.attributes["stabilizer.links_dropped"] == 10
    assert found.attributes["messaging.batch.message_count"] == count


async def test_publishers_are_senders_too(managers: Managers, spans: Spans) -> None:
    (node,) = await managers.start_many(1)
    socket = await join(node, "alice", "room")
    async with Publisher(managers.url, namespace=managers.namespace) as publisher:
        with spans.caller():
            await publisher.broadcast("to all")
            await publisher.send_to_client("alice", "to one")
    with SyncPublisher(managers.url, namespace=managers.namespace) as sync, spans.caller():
        sync.broadcast("to the room", room="room")
        sync.send_to_client("alice", "to one again")
    await hears(socket, "to all", "to one", "to the room", "to one again")
    found = await fan_outs(spans, 4)
    assert [linked(span) for span in found] == [[id_of(span)] for span in spans.named("send")]


async def test_connecting_is_a_step_of_the_handshake(managers: Managers, spans: Spans) -> None:
    (node,) = await managers.start_many(1)
    await register(node, "before")
    with spans.caller() as caller:
        await register(node, "alice")
    (claim,) = spans.named("claim")
    assert claim.parent is not None
    assert claim.parent.span_id == caller.span_id


async def test_drain_and_sweep_and_recovery_are_spans_of_their_own(
    managers: Managers, spans: Spans, redis_url: str
) -> None:
    (node,) = await managers.start_many(1)
    replica = Replica(redis_url, managers.namespace, "other")
    try:
        await eventually(replica.is_ready, what="the replica")
        async with replica.client("ghost") as client:
            await client.greeted()
            replica.process.kill()
    finally:
        replica.stop()
    await eventually(lambda: spans.named("sweep"), 20 * LEASE_S, what="the sweep of a killed node")
    socket = Socket()
    await register(node, "alice", socket)
    async with redis.asyncio.Redis.from_url(managers.url) as client_of_redis:
        await client_of_redis.delete(Keys(managers.namespace).leases)
    await eventually(lambda: spans.named("recover"), 20 * LEASE_S, what="the recovery")
    with spans.caller():
        await node.drain(0.1)
    found = [*spans.named("drain"), *spans.named("sweep"), *spans.named("recover")]
    assert all(span.parent is None for span in found)
    assert len(spans.named("drain")) == 1


async def test_exception_of_a_send_is_in_its_span(spans: Spans) -> None:
    manager = WebSocketConnectionManager()
    with spans.caller(), pytest.raises(ConfigurationError, match="mailbox"):
        await manager.send_to_client("alice", "hello", store=True)
    (sender,) = spans.named("send")
    assert sender.status.status_code is StatusCode.ERROR
    assert [event.name for event in sender.events] == ["exception"]
