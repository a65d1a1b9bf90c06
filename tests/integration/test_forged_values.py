"""Somebody else writes into our keys: what is not as we write it is skipped and counted, and no call fails of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import redis

from fastapi_websocket_stabilizer import (
    InvalidTokenError,
    WebSocketConnectionManager,
    WebSocketStabilizerError,
)
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.cli.operator import Operator
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.registration import registration_of
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind, pack
from fastapi_websocket_stabilizer.wire.messages import Form
from tests.integration.cluster import Managers, Publishing, Socket, counter, hears, join, register
from tests.support.waiting import eventually

ODD: list[bytes] = [
    b"", b"x", b"\xff\xfe", b"-1", b"1e400", b"9" * 400, b"9" * 5000, b"nan {}", b"1", b"1 ", b"1 {", b"1 []",
    b'1 {"since": "x", "metadata": {}}', b'1 {"since": 1e300, "metadata": {}}', b'1 {"since": 0, "metadata": 7}',
    b"1 " + b"[" * 100_000, b"0 \x00", b"9999999999999999 {}",
]  # fmt: skip
"""Values."""
ODD_NAMES: list[bytes] = [
    b"",
    b".",
    b"x",
    b"\xff.1",
    b"{a}.1",
    b"a b.1",
    b"x" * 600 + b".1",
    b"a:b.1",
    b"\x00.1",
]
"""Fields."""


class Writer:
    """Writes what it likes into a registry's keys."""

    def __init__(self, managers: Managers) -> None:
        self.keys, self.redis = Keys(managers.namespace), redis.Redis.from_url(managers.url)

    def litter(self, key: str, live: str) -> None:
        """Add fields of every odd sort to a hash; ``live`` is a node that holds a lease."""
        for number, value in enumerate(ODD):
            self.redis.hset(key, f"{live}.9{number}", value)
        for name in ODD_NAMES:
            self.redis.hset(key, name, b"1 {}")


@pytest.fixture
def writer(managers: Managers) -> Writer:
    return Writer(managers)


def node_id(node: WebSocketConnectionManager) -> str:
    return node.statistics().node_id


async def listed(node: WebSocketConnectionManager) -> set[str]:
    return {entry.client_id async for entry in node.clients()}


async def test_what_a_dead_node_left_hides_nobody(managers: Managers, writer: Writer) -> None:
    node, other = await managers.start_many(2)
    alice = await register(node, "alice")
    newest = (
        f"{registration_of(alice).stamp + 1_000_000} {{}}"  # as by a node that Redis forgot while it wrote
    )
    writer.redis.hset(writer.keys.client("alice"), "0123456789abcdef.1", newest)
    for manager in (node, other):
        (entry,) = await manager.presence("alice")
        assert entry.connection_id == alice.connection_id


async def test_odd_entries_of_a_client_disturb_neither_claims_nor_sends_nor_presence(
    managers: Managers, writer: Writer
) -> None:
    here, there = await managers.start_many(2, max_connections_per_client=50)
    writer.litter(writer.keys.client("alice"), node_id(here))
    alice = await join(there, "alice")
    assert alice.is_open
    shown = await here.presence("alice")
    assert [entry for entry in shown if entry.node == node_id(there)]
    assert counter(here, "redis_malformed") > 0
    assert await here.is_connected("alice")
    assert await here.send_to_client("alice", "hello")
    assert await here.send_to_clients(["alice", "bob"], "hello too") == 1
    await hears(alice, "hello", "hello too")
    await there.disconnect("alice")
    assert not alice.is_open


async def test_odd_stamp_takes_no_message_away(managers: Managers, writer: Writer) -> None:
    here, there = await managers.start_many(2)
    alice = await join(there, "alice")
    for number, stamp in enumerate([b"9" * 400, b"9007199254740994"]):
        writer.redis.hset(writer.keys.client("alice"), f"{node_id(here)}.9{number}", stamp + b" {}")
    assert await here.send_to_client("alice", "hello", confirm=5)
    await hears(alice, "hello")


@pytest.mark.parametrize("policy", ["replace", "reject"])
async def test_odd_entries_take_nobodys_place(managers: Managers, writer: Writer, policy: Any) -> None:
    node = await managers.start(on_client_overflow=policy)
    key = writer.keys.client("alice")
    for number, value in enumerate([b"x", b"\xff", b"9" * 400, b""]):
        writer.redis.hset(key, f"{node_id(node)}.9{number}", value)
    for name in ODD_NAMES:
        writer.redis.hset(key, name, b"9000000000000000 {}")
    alice = await join(node, "alice")
    assert await node.is_connected("alice")
    assert alice.is_open


async def test_odd_members_of_a_room_are_not_listed(managers: Managers, writer: Writer) -> None:
    here, there = await managers.start_many(2)
    live = node_id(here)
    writer.litter(writer.keys.room("room"), live)
    writer.litter(writer.keys.room_counts("room"), live)
    counts = [
        (live.encode(), b"many"),
        (node_id(there).encode(), b"9" * 5000),
        (b"\xff", b"1"),
        (b"a b", b"1"),
    ]
    for name, value in counts:
        writer.redis.hset(writer.keys.room_counts("room"), name, value)
    alice = await join(there, "alice", "room")
    page = await here.room_members("room")
    assert "alice" in {member.client_id for member in page.members}
    assert await here.room_count("room") >= 1
    await here.broadcast("hello", room="room")
    await hears(alice, "hello")
    await there.leave("alice", "room")
    assert "alice" not in {member.client_id for member in (await here.room_members("room")).members}


async def test_odd_infos_of_nodes_are_not_shown(managers: Managers, writer: Writer) -> None:
    here = await managers.start(lease_ttl_s=30, renew_interval_s=10)
    bodies = [
        b"",
        b"{",
        b"[]",
        b"7",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"name": 1, "version": 1, "started": 1e300}',
    ]
    for number, body in enumerate(bodies):
        writer.redis.zadd(writer.keys.leases, {f"odd{number}": 10**15})
        writer.redis.set(writer.keys.info(NodeId(f"odd{number}")), body)
    writer.redis.hset(writer.keys.info(NodeId("hash")), "a", "b")
    writer.redis.zadd(writer.keys.leases, {"hash": 10**15})
    assert [info.node_id for info in await here.nodes()] == [node_id(here)]
    assert counter(here, "redis_malformed") >= len(bodies) - 1


async def test_odd_leases_do_not_end_the_beat(managers: Managers, writer: Writer) -> None:
    here, there = await managers.start_many(2)
    for name in [b"\xff", b"", b"{a}", b"x" * 600, b"a b"]:
        writer.redis.zadd(writer.keys.leases, {name: 10**15})
        writer.redis.zadd(writer.keys.dead, {name: 1})
    writer.redis.zadd(writer.keys.leases, {"endless": float("inf"), "begun": float("-inf")})
    before = node_id(there)
    beats = counter(there, "redis_malformed")
    await eventually(lambda: counter(there, "redis_malformed") > beats + 30, what="some beats")
    alice = await join(there, "alice")
    assert await here.send_to_client("alice", "hello")
    await hears(alice, "hello")
    assert node_id(there) == before
    assert counter(there, "leases_refused") == 0
    assert node_id(here) in {info.node_id for info in await there.nodes()}


async def test_odd_lines_of_an_index_are_left_out_of_lists_and_sweeps(
    managers: Managers, writer: Writer
) -> None:
    here = await managers.start()
    alice = Socket()
    own = await register(here, "alice", alice)
    await own.join("room")
    dead = NodeId("dead")
    for key in (writer.keys.connections(dead), writer.keys.memberships(dead)):
        for name in ODD_NAMES:
            writer.redis.hset(key, name, "x")
            writer.redis.hset(key, name + b" room", "x")
        for number, value in enumerate(ODD):
            writer.redis.hset(key, f"dead.{number}", value)
            writer.redis.hset(key, f"dead.{number} room", value)
    # A line about somebody else's connection must not undo it.
    writer.redis.hset(writer.keys.connections(dead), own.connection_id, "alice")
    writer.redis.hset(writer.keys.memberships(dead), f"{own.connection_id} room", "1 alice")
    async for entry in here.clients("dead"):
        raise AssertionError(entry)
    writer.redis.zadd(writer.keys.leases, {"dead": 1})
    await eventually(lambda: counter(here, "nodes_swept") == 1, what="swept")
    assert not writer.redis.exists(writer.keys.connections(dead), writer.keys.memberships(dead))
    assert await listed(here) == {"alice"}
    assert [member.client_id for member in (await here.room_members("room")).members] == ["alice"]


async def test_keys_of_another_type_disturb_nobodys_calls(managers: Managers, writer: Writer) -> None:
    here, there = await managers.start_many(2)
    bob = await join(there, "bob")
    token = await here.issue_reconnect_token("alice")
    keys = writer.keys
    names = [keys.client("alice"), keys.client("carol"), keys.room("room"), keys.room_counts("room")]
    for key in names:
        writer.redis.set(key, "not a hash")
    (record,) = writer.redis.keys(f"{here.config.namespace}:*:token:*")
    writer.redis.delete(record)
    writer.redis.hset(record, "a", "b")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: here.presence("alice"),
        lambda: here.is_connected("alice"),
        lambda: here.room_members("room"),
        lambda: here.room_count("room"),
    ]
    for call in calls:
        assert not await call() or call is calls[2]
    assert counter(here, "redis_malformed") == len(calls)
    # One broken client must not take the others' messages along.
    assert await asyncio.gather(*(here.send_to_client(name, "hello") for name in ("carol", "bob"))) == [
        False,
        True,
    ]
    await hears(bob, "hello")
    with pytest.raises(InvalidTokenError):
        await here.validate_reconnect_token(token)
    alice = await join(here, "alice", "room")
    assert await there.send_to_client("alice", "hello")
    await there.broadcast("to the room", room="room")
    await hears(alice, "hello", "to the room")
    for key in names[2:]:
        writer.redis.delete(key)
        writer.redis.set(key, "not a hash")
    await here.leave("alice", "room")
    writer.redis.delete(keys.client("alice"))
    writer.redis.set(keys.client("alice"), "not a hash")
    await here.disconnect("alice")
    assert not alice.is_open


def put(writer: Writer, key: str, kind: str) -> None:
    """Replace a key by one of another type."""
    writer.redis.delete(key)
    if kind == "string":
        writer.redis.set(key, "odd")
    elif kind == "hash":
        writer.redis.hset(key, "a", "b")
    else:
        writer.redis.rpush(key, "odd")


async def is_whole(here: WebSocketConnectionManager, there: WebSocketConnectionManager) -> bool:
    """Whether each lists the other and its clients."""
    both = {node_id(here), node_id(there)}
    for node in (here, there):
        assert {info.node_id for info in await node.nodes()} == both
        assert await listed(node) == {"alice", "bob"}
    return True


async def test_odd_leases_are_not_shown_to_an_operator(managers: Managers, writer: Writer) -> None:
    node = await managers.start()
    for name in [b"\xff", b"", b"{a}", b"x" * 600, b"a b"]:
        writer.redis.zadd(writer.keys.leases, {name: 10**15})
    writer.redis.zadd(writer.keys.leases, {"endless": float("inf"), "begun": float("-inf")})
    async with Operator(managers.config()) as operator:
        assert [info.node_id for info in await operator.nodes()] == [node_id(node)]


@pytest.mark.parametrize("kind", ["nothing", "string", "hash", "list"])
async def test_operator_that_asks_who_lives_changes_no_key(
    managers: Managers, writer: Writer, kind: str
) -> None:
    if kind != "nothing":
        put(writer, writer.keys.leases, kind)
    before = {key: writer.redis.dump(key) for key in writer.redis.keys(f"{managers.namespace}:*")}
    async with Operator(managers.config()) as operator:
        assert await operator.nodes() == []
    after = {key: writer.redis.dump(key) for key in writer.redis.keys(f"{managers.namespace}:*")}
    assert (after, len(after)) == (before, kind != "nothing")


each_kind = pytest.mark.parametrize("kind", ["string", "hash", "list"])


@each_kind
@pytest.mark.parametrize("name", ["leases", "dead", "epoch"])
async def test_a_registry_key_of_another_type_is_replaced_with_the_next_beat(
    managers: Managers, writer: Writer, name: str, kind: str
) -> None:
    here, there = await managers.start_many(2)
    alice, bob = await join(here, "alice"), await join(there, "bob")
    put(writer, getattr(writer.keys, name), kind)
    await eventually(lambda: is_whole(here, there), what="the registry is whole again")
    assert await here.send_to_client("bob", "hello", confirm=5)
    assert await there.send_to_client("alice", "hello", confirm=5)
    assert alice.received == bob.received == ["hello"]


@each_kind
@pytest.mark.parametrize("name", ["leases", "dead", "epoch", "secret"])
async def test_a_registry_key_of_another_type_does_not_end_a_start(
    managers: Managers, writer: Writer, name: str, kind: str
) -> None:
    put(writer, getattr(writer.keys, name), kind)
    here, there = await managers.start_many(2, on_backend_loss="refuse")
    await join(here, "alice")
    await join(there, "bob")
    await eventually(lambda: is_whole(here, there), what="both are there")
    token = await here.issue_reconnect_token("alice")
    assert await there.validate_reconnect_token(token) == "alice"


@each_kind
async def test_an_index_of_another_type_is_replaced_when_it_is_written(
    managers: Managers, writer: Writer, kind: str
) -> None:
    here = await managers.start()
    for key in (
        writer.keys.connections(NodeId(node_id(here))),
        writer.keys.memberships(NodeId(node_id(here))),
    ):
        put(writer, key, kind)
    await join(here, "alice", "room")
    assert await listed(here) == {"alice"}
    assert writer.redis.hlen(writer.keys.memberships(NodeId(node_id(here)))) >= 1


ANSWERS: list[Any] = [
    None, 7, "x", {}, [], [1], ["a", "b"], ["WireError"], [1, 2, 3], [[1], 2], [1, 0, 1, 0, [1]], [{}]
]  # fmt: skip


@pytest.mark.parametrize("ways", ["confirmed send", "confirmed broadcast", "request"])
async def test_forged_answers_are_dropped_and_counted(managers: Managers, ways: str) -> None:
    here, there = await managers.start_many(2)
    await join(there, "alice")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "confirmed send": lambda: here.send_to_client("alice", "hello", confirm=5),
        "confirmed broadcast": lambda: here.broadcast("hello", confirm=5),
        "request": lambda: here.join("alice", "room"),
    }
    publishing, inbox = Publishing(managers.url), Keys(managers.namespace).inbox(NodeId(node_id(here)))
    is_over = False

    async def forge() -> None:
        sequence = 0
        while not is_over:
            for ask in (1, 2, 3):
                for answer in ANSWERS:
                    sequence += 1
                    body = json.dumps(answer)
                    envelope = Envelope(
                        NodeId("attacker"), sequence, 0, Kind.REPLY, form=Form.JSON, body=body, ask=ask
                    )
                    await publishing.publish(inbox, pack(envelope))

    forging = asyncio.create_task(forge())
    for _ in range(3):
        with suppress(
            WebSocketStabilizerError
        ):  # without keys an answer can be forged, but only as an answer
            await calls[ways]()
    is_over = True
    await forging
    assert counter(here, "bus_reconnects") == 0


@pytest.mark.parametrize("code", [0, 1005, 99999, -1])
async def test_a_forged_request_to_close_with_a_code_that_cannot_be_sent_is_dropped(
    managers: Managers, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    node = await managers.start()
    alice = await join(node, "alice")
    body = json.dumps({"do": "close", "code": code, "reason": "x"})
    envelope = Envelope(NodeId("attacker"), 1, 0, Kind.REQUEST, ("alice",), form=Form.JSON, body=body, ask=1)
    await Publishing(managers.url).publish(
        Keys(managers.namespace).inbox(NodeId(node_id(node))), pack(envelope)
    )
    await eventually(lambda: counter(node, "bus_malformed") == 1)
    assert alice.is_open
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
