"""Each kind of bad input has a clear error, and nothing else is lost by it."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import redis.asyncio
from pydantic import BaseModel

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConfigurationError,
    ConnectionNotFoundError,
    InvalidNameError,
    MessageError,
    NotStartedError,
    Publisher,
    ShutdownError,
    SyncPublisher,
    WebSocketConfig,
    WebSocketConnectionManager,
    WebSocketStabilizerError,
    WrongEventLoopError,
)
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind, pack
from fastapi_websocket_stabilizer.wire.messages import Form
from tests.contract.support import AWKWARD_NAMES
from tests.integration.cluster import (
    Managers,
    Replica,
    Socket,
    counter,
    first_row,
    hears,
    join,
    product_tasks,
    register,
)
from tests.support.process import free_port
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

# Names

BAD_NAMES: dict[str, Any] = {
    "empty": "",
    "10 kB": "x" * 10_000,
    "10 kB of four-byte characters": "🦊" * 2_500,
    "None": None,
    "a number": 7,
    "bytes": b"alice",
    "a newline": "a\nb",
    "NUL": "a\x00b",
    "DEL": "a\x7f",
    "a C1 control": "a\x85b",
    "a lone surrogate": "a\ud800",
}
bad_names = pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)


@bad_names
async def test_a_bad_client_id_is_refused_by_every_call_before_anything_is_sent(
    managers: Managers, name: Any
) -> None:
    node = await managers.start(lease_ttl_s=30, renew_interval_s=10)
    before = counter(node, "redis_commands")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: register(node, name),
        lambda: node.send_to_client(name, "hello"),
        lambda: node.send_to_clients(["alice", name], "hello"),
        lambda: node.join(name, "room"),
        lambda: node.leave(name, "room"),
        lambda: node.disconnect(name),
        lambda: node.is_connected(name),
        lambda: node.presence(name),
        lambda: node.issue_reconnect_token(name),
        lambda: node.broadcast("hello", exclude_client=["alice", name]),
    ]
    for call in calls:
        with pytest.raises(InvalidNameError, match="client_id"):
            await call()
    assert counter(node, "redis_commands") == before


@bad_names
async def test_a_bad_room_is_refused_by_every_call_before_anything_is_sent(
    managers: Managers, name: Any
) -> None:
    node = await managers.start(lease_ttl_s=30, renew_interval_s=10)
    connection = await register(node, "alice")
    before = counter(node, "redis_commands")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: node.join("alice", name),
        lambda: node.leave("alice", name),
        lambda: connection.join(name),
        lambda: connection.leave(name),
        lambda: node.room_members(name),
        lambda: node.room_count(name),
        lambda: node.broadcast("hello", room=[name]),
    ]
    for call in calls:
        with pytest.raises(InvalidNameError, match="room"):
            await call()
    assert counter(node, "redis_commands") == before
    assert connection.rooms == set()


async def test_an_empty_room_to_broadcast_to_is_refused_too(managers: Managers) -> None:
    node = await managers.start()
    with pytest.raises(InvalidNameError, match="room"):
        await node.broadcast("hello", room="")


async def test_publishers_refuse_bad_names(managers: Managers) -> None:
    publisher = Publisher(managers.url)
    for name in BAD_NAMES.values():
        with pytest.raises(InvalidNameError):
            await publisher.send_to_client(name, "hello")
        with pytest.raises(InvalidNameError):
            await publisher.broadcast("hello", room=[name])
        with SyncPublisher(managers.url) as sync_publisher, pytest.raises(InvalidNameError):
            sync_publisher.send_to_client(name, "hello")


async def test_legal_names_with_every_special_character_reach_only_their_own(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    sockets = {name: await join(there, name, name) for name in AWKWARD_NAMES}
    for name in AWKWARD_NAMES:
        assert await here.send_to_client(name, f"to {name}")
        await here.broadcast(f"in {name}", room=name)
        assert [member.client_id for member in await here.room_members(name)] == [name]
        assert [entry.client_id for entry in await here.presence(name)] == [name]
    for name, socket in sockets.items():
        await hears(socket, f"to {name}", f"in {name}")


async def test_the_longest_legal_name_works(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    name = "ä" * 256
    socket = await join(there, name, name)
    assert await here.send_to_client(name, "hello")
    assert await there.validate_reconnect_token(await here.issue_reconnect_token(name)) == name
    await hears(socket, "hello")


# Messages and metadata


class Unserialisable(BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    value: object


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


BAD_MESSAGES: dict[str, Any] = {
    "None": None,
    "a number": 7,
    "a set": {1},
    "a dict of objects": {"a": object()},
    "a list that contains itself": endless(),
    "a model of objects": Unserialisable(value=object()),
    "a lone surrogate": "\ud800",
    "a lone surrogate inside": {"a": "\ud800"},
    "too long": "x" * 1_001,
    "too long in bytes": "ä" * 501,
    "too long in binary": b"x" * 1_001,
    "too long as JSON": ["x" * 1_000],
}
bad_messages = pytest.mark.parametrize("message", BAD_MESSAGES.values(), ids=BAD_MESSAGES)


@bad_messages
async def test_a_bad_message_is_refused_by_every_call_and_nobody_is_hurt(
    managers: Managers, message: Any
) -> None:
    here, there = await managers.start_many(2, max_message_size=1_000)
    sockets = [await join(here, "alice", "room"), await join(there, "bob", "room")]
    connection = await register(here, "carol")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: here.send_to_client("alice", message),
        lambda: here.send_to_client("bob", message),
        lambda: here.send_to_clients(["alice", "bob"], message),
        lambda: here.broadcast(message),
        lambda: here.broadcast(message, room="room"),
        lambda: connection.send(message),
    ]
    for call in calls:
        with pytest.raises(MessageError, match="message"):
            await call()
    assert (await here.broadcast("x" * 1_000, room="room")).nodes == 2
    for socket in sockets:
        await hears(socket, "x" * 1_000)


@bad_messages
async def test_publishers_refuse_a_bad_message(managers: Managers, message: Any) -> None:
    async with Publisher(managers.url, max_message_size=1_000) as publisher:
        with pytest.raises(MessageError, match="message"):
            await publisher.broadcast(message)
    with (
        SyncPublisher(managers.url, max_message_size=1_000) as sync_publisher,
        pytest.raises(MessageError, match="message"),
    ):
        sync_publisher.broadcast(message)


@pytest.mark.parametrize(
    "metadata",
    [{"a": object()}, {"a": "\ud800"}, {"a": endless()}, {"a": "x" * 20_000}],
    ids=["an object", "a lone surrogate", "endless", "over max_metadata_size"],
)
async def test_bad_metadata_is_refused_and_nothing_is_registered(
    managers: Managers, metadata: dict[str, Any]
) -> None:
    node = await managers.start()
    socket = Socket()
    with pytest.raises(MessageError, match="metadata"):
        await register(node, "alice", socket, **metadata)
    assert not await node.is_connected("alice")
    assert node.get_connection_count() == 0
    assert socket.is_open


async def test_a_refused_newcomer_leaves_the_present_socket_in_place(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    socket = await join(here, "alice")
    with pytest.raises(MessageError):
        await register(there, "alice", a=object())
    await here.send_to_client("alice", "still here")
    await hears(socket, "still here")


async def test_a_message_over_the_limit_from_a_client_closes_only_that_client(
    replicas: list[Replica],
) -> None:
    async with replicas[0].client("b-alice") as alice, replicas[0].client("b-bob") as bob:
        await alice.greeted()
        await bob.greeted()
        await alice.socket.send("x" * 1_048_577)
        await eventually(lambda: alice.closed_with is not None)
        assert alice.closed_with is not None
        assert alice.closed_with[0] == 1009
        await bob.socket.send("x" * 1_048_576)
        await hears(bob, "registered", "x" * 1_048_576)
        assert not await replicas[1].call("is_connected", client_id="b-alice")


@pytest.mark.parametrize(
    "reason", ["x" * 10_000, "ä" * 100, "a\ud800b"], ids=["long", "Unicode", "surrogate"]
)
async def test_any_close_reason_closes_the_socket(managers: Managers, reason: str) -> None:
    here, there = await managers.start_many(2)
    alice, bob = await join(here, "alice"), await join(there, "bob")
    watcher = await managers.start()
    for name, socket in (("alice", alice), ("bob", bob)):
        await watcher.disconnect(name, reason=reason)
        assert socket.closed_with is not None
        assert len(socket.closed_with[1].encode()) <= 123


# Envelopes


def foreign(**changes: Any) -> Envelope:
    return replace(Envelope(NodeId("stranger"), 1, 0, Kind.BROADCAST, body="hello"), **changes)


def altered(position: int, value: object) -> bytes:
    row = list(msgpack.unpackb(pack(foreign())))
    row[position] = value
    return bytes(msgpack.packb(row))


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "JSON": b'{"type": "broadcast"}',
    "cut off": pack(foreign())[:-3],
    "two in one": pack(foreign()) * 2,
    "too few slots": bytes(msgpack.packb([1, 1, "stranger"])),
    "a newer version": altered(1, 99),
    "a sender that is a number": altered(2, 7),
    "a sequence that is text": altered(3, "7"),
    "an unknown kind": altered(5, 99),
    "targets that are text": altered(6, "room"),
    "a target that is a number": altered(6, [7]),
    "an unknown form": altered(8, 99),
    "a body of the wrong type": altered(9, b"hello"),
    "parts that are text": altered(11, "alice"),
    "parts that begin with a client": altered(11, ["alice", [0, "x", 0]]),
    "a part of the wrong type": altered(11, [[1, "x", 0], "alice"]),
    "a part without a question": altered(11, [[0, "x"], "alice"]),
    "an evict of nobody": pack(foreign(kind=Kind.EVICT)),
    "an evict of two": pack(foreign(kind=Kind.EVICT, targets=("a.1", "b.1"))),
    "a request without JSON": pack(foreign(kind=Kind.REQUEST, targets=("alice",), body="{")),
    "a request that is a list": pack(foreign(kind=Kind.REQUEST, targets=("alice",), body="[]")),
    "a request for nothing": pack(foreign(kind=Kind.REQUEST, targets=("alice",), body="{}")),
    "a request to join nothing": pack(
        foreign(kind=Kind.REQUEST, targets=("alice",), body='{"do": "join"}', form=Form.JSON)
    ),
    "a request of unknown sort": pack(foreign(kind=Kind.REQUEST, targets=("alice",), body='{"do": "dance"}')),
    "a reply without JSON": pack(foreign(kind=Kind.REPLY, body="{")),
}


async def publish(managers: Managers, channel: str, *envelopes: bytes) -> None:
    async with redis.asyncio.Redis.from_url(managers.url) as client:
        for envelope in envelopes:
            assert await client.publish(f"{managers.namespace}:{channel}", envelope)


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_envelope_is_dropped_and_counted(
    managers: Managers, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    node = await managers.start()
    alice = await join(node, "alice")
    await publish(managers, "all", data)
    await eventually(lambda: counter(node, "bus_malformed") == 1, timeout_s=2)
    await node.broadcast("still here")
    await hears(alice, "still here")
    assert counter(node, "bus_reconnects") == 0
    assert [record.levelname for record in caplog.records if record.levelno > logging.WARNING] == []


async def test_malformed_envelopes_are_logged_once_a_minute_and_never_shown(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    node = await managers.start()
    await publish(managers, "all", *[b"do not show this"] * 50)
    await eventually(lambda: counter(node, "bus_malformed") == 50)
    dropped = [record for record in caplog.records if record.getMessage() == "envelope dropped"]
    assert len(dropped) == 1
    assert "do not show" not in caplog.text


async def test_an_older_readers_envelope_with_unknown_trailing_slots_is_read(managers: Managers) -> None:
    node = await managers.start()
    alice = await join(node, "alice")
    row = [*msgpack.unpackb(pack(foreign())), None, "later"]
    row[0] = 99
    await publish(managers, "all", bytes(msgpack.packb(row)))
    await hears(alice, "hello")


# Wrong servers

LIMIT_S = 5.0
SECRET = "s3cr3t-w0rd"


async def error_of_start(url: str) -> WebSocketStabilizerError:
    """Return what a start with ``url`` raises, in time, with the address and never the password."""
    manager = WebSocketConnectionManager(WebSocketConfig(redis_url=url, on_backend_loss="refuse"))
    with pytest.raises(WebSocketStabilizerError) as raised:
        async with asyncio.timeout(LIMIT_S):
            await manager.start()
    assert product_tasks() == set()
    shown = f"{raised.value!r} {raised.value} {manager.config!r}"
    assert SECRET not in shown
    assert "127.0.0.1" in str(raised.value)
    return raised.value


@asynccontextmanager
async def fake_redis(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """Serve something that is not a Redis, or an odd one; yield its port."""

    writers: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while data := await reader.read(65_536):
            writer.write(answer(data))
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for writer in writers:
            writer.close()


def odd_redis(info: str) -> Callable[[bytes], bytes]:
    def answer(data: bytes) -> bytes:
        commands = re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", data)
        body = f"${len(info)}\r\n{info}\r\n".encode()
        return b"".join(body if command == b"INFO" else b"+OK\r\n" for command in commands)

    return answer


async def test_a_url_where_nobody_listens_is_named(namespace: str) -> None:
    error = await error_of_start(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0")
    assert isinstance(error, BackendUnavailableError)


@pytest.mark.parametrize("given", ["", "wrong"], ids=["none", "wrong"])
async def test_a_wrong_password_is_named(given: str) -> None:
    with RedisServer(first_row(), password=SECRET) as server:
        credentials = f":{given}@" if given else ""
        error = await error_of_start(f"redis://{credentials}127.0.0.1:{server.port}/0")
    assert isinstance(error, ConfigurationError)


@pytest.mark.parametrize(
    "credentials",
    [f":{SECRET}@", f"user:{SECRET}@", f":a@{SECRET}@", f":a:{SECRET}@"],
    ids=["plain", "with a user", "with an @", "with a colon"],
)
async def test_no_password_is_shown_however_it_is_written(server: RedisServer, credentials: str) -> None:
    await error_of_start(f"redis://{credentials}127.0.0.1:{free_port()}/0")


async def test_the_right_password_works(namespace: str) -> None:
    with RedisServer(first_row(), password=SECRET) as server:
        managers = Managers(server.url, namespace)
        node = await managers.start()
        alice = await join(node, "alice")
        await node.broadcast("hello")
        await hears(alice, "hello")
        await managers.close()


async def test_a_database_that_does_not_exist_is_named(server: RedisServer) -> None:
    error = await error_of_start(f"redis://127.0.0.1:{server.port}/99")
    assert isinstance(error, ConfigurationError)


async def test_a_redis_too_old_is_named(namespace: str) -> None:
    async with fake_redis(odd_redis("redis_version:5.0.7\r\nrun_id:abc")) as port:
        error = await error_of_start(f"redis://:{SECRET}@127.0.0.1:{port}/0")
    assert isinstance(error, ConfigurationError)
    assert "5.0.7" in str(error)
    assert "6.2" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda _: b"",
        odd_redis("what?"),
        odd_redis("redis_version:new"),
    ],
    ids=["a web server", "a server that is silent", "no version", "a version that is no number"],
)
async def test_something_that_is_not_a_redis_is_named(answer: Callable[[bytes], bytes]) -> None:
    async with fake_redis(answer) as port:
        await error_of_start(f"redis://:{SECRET}@127.0.0.1:{port}/0")


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://127.0.0.1", "", 7, f"redis://:{SECRET}@127.0.0.1:port/0"]
)
async def test_a_url_that_is_none_is_a_configuration_error(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="redis_url") as raised:
        await WebSocketConnectionManager(WebSocketConfig(redis_url=url)).start()
    assert SECRET not in str(raised.value)


async def test_a_manager_whose_start_failed_can_start_later(namespace: str) -> None:
    server = RedisServer(first_row())
    managers = Managers(server.url, namespace)
    node = managers.make(on_backend_loss="refuse")
    with pytest.raises(BackendUnavailableError):
        await node.start()
    with server:
        managers_port = server.port
        node.config.redis_url = f"redis://127.0.0.1:{managers_port}/0"
        await node.start()
        await join(node, "alice")
        await managers.close()


# Settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lease_ttl_s": 2, "renew_interval_s": 1}, "lease_ttl_s must be at least 3 x renew_interval_s"),
        ({"token_secret": "short"}, "token_secret must"),
        ({"namespace": "a{b}"}, "namespace must be"),
        ({"on_client_overflow": "explode"}, "on_client_overflow must be"),
        ({"max_connections_per_client": 0}, "max_connections_per_client must be positive"),
        ({"redis_timeout_s": -1}, "redis_timeout_s must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        WebSocketConfig(**settings)


def test_settings_that_contradict_each_other_cannot_be_assigned_later() -> None:
    config = WebSocketConfig()
    with pytest.raises(ConfigurationError, match="lease_ttl_s must be at least"):
        config.renew_interval_s = 5.0
    assert config.renew_interval_s == 3.0


# Calls at the wrong time or place


def distributed_calls(node: WebSocketConnectionManager) -> dict[str, Callable[[], Awaitable[object]]]:
    async def list_clients() -> object:
        return [entry async for entry in node.clients()]

    return {
        "connect": lambda: register(node, "alice"),
        "send_to_client": lambda: node.send_to_client("alice", "hello"),
        "send_to_clients": lambda: node.send_to_clients(["alice"], "hello"),
        "broadcast": lambda: node.broadcast("hello"),
        "join": lambda: node.join("alice", "room"),
        "leave": lambda: node.leave("alice", "room"),
        "is_connected": lambda: node.is_connected("alice"),
        "presence": lambda: node.presence("alice"),
        "clients": list_clients,
        "room_members": lambda: node.room_members("room"),
        "room_count": lambda: node.room_count("room"),
        "nodes": node.nodes,
        "count": node.cluster_connection_count,
        "issue token": lambda: node.issue_reconnect_token("alice"),
        "redeem token": lambda: node.validate_reconnect_token("token"),
    }


async def error_of(call: Callable[[], Awaitable[object]]) -> type[BaseException] | None:
    try:
        await call()
    except Exception as error:  # noqa: BLE001 - the test compares its class
        return type(error)
    return None


async def errors_of(
    calls: dict[str, Callable[[], Awaitable[object]]],
) -> dict[str, type[BaseException] | None]:
    return {name: await error_of(call) for name, call in calls.items()}


async def test_every_call_before_start_says_so(managers: Managers) -> None:
    calls = distributed_calls(managers.make())
    assert await errors_of(calls) == dict.fromkeys(calls, NotStartedError)


async def test_every_call_after_shutdown_says_so(managers: Managers) -> None:
    node = await managers.start()
    await node.graceful_shutdown()
    calls = distributed_calls(node)
    assert await errors_of(calls) == dict.fromkeys(calls, ShutdownError)
    with pytest.raises(ConnectionNotFoundError):
        await node.disconnect("alice")


async def test_a_token_that_could_not_be_recorded_is_not_made(managers: Managers) -> None:
    node = await managers.start()
    await node.graceful_shutdown()
    with pytest.raises(WebSocketStabilizerError):
        node.generate_reconnect_token("alice")


async def test_every_call_from_another_event_loop_says_so_and_disturbs_nothing(managers: Managers) -> None:
    node, near = await managers.start_many(2)
    alice = await join(node, "alice")
    calls = {**distributed_calls(node), "disconnect": lambda: node.disconnect("alice")}
    errors = await asyncio.to_thread(lambda: asyncio.run(errors_of(calls)))
    assert errors == dict.fromkeys(calls, WrongEventLoopError)
    assert await near.send_to_client("alice", "still here")
    await hears(alice, "still here")


async def test_a_token_made_on_another_thread_is_redeemed(managers: Managers) -> None:
    node = await managers.start()
    token = await asyncio.to_thread(node.generate_reconnect_token, "alice")
    assert await node.validate_reconnect_token(token) == "alice"


async def test_a_shutdown_from_another_event_loop_is_refused(managers: Managers) -> None:
    node = await managers.start()
    with pytest.raises(WrongEventLoopError, match=r"run_coroutine_threadsafe.*SyncPublisher"):
        await asyncio.to_thread(lambda: asyncio.run(node.graceful_shutdown()))
    alice = await join(node, "alice")
    await node.broadcast("still here")
    await hears(alice, "still here")
