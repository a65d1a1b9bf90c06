"""Nothing ends listening for good: killed, overrun, swallowed and silent bus connections."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis
import redis.asyncio.connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from fastapi_websocket_stabilizer import BusGap, History, WebSocketConnectionManager
from fastapi_websocket_stabilizer.backends.log_ports import LogRead
from fastapi_websocket_stabilizer.backends.redis.connection import ConnectionFactory
from tests.integration.cluster import (
    BEAT_S,
    REPLACED,
    Managers,
    Socket,
    counter,
    hears,
    join,
    knows,
    register,
)
from tests.integration.test_redis_away import not_degraded, readyz
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


class OneWayProxy(TcpProxy):
    """Loses what goes in one direction, "to the node" or "to the server", on connections below a number."""

    swallows, below, _carried = "", 0, 0

    def swallow(self, direction: str, *, on_new_ones_too: bool) -> None:
        self.swallows, self.below = direction, 1_000_000 if on_new_ones_too else self._carried

    async def _carry(self, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter]) -> None:
        self._carried += 1
        await super()._carry(reader, writers)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self._carried - 1
        is_to_server = writer.get_extra_info("peername")[1] == self._target[1]
        while data := await reader.read(64 * 1024):
            await self._flows.wait()
            direction = "to the server" if is_to_server else "to the node"
            if number >= self.below or direction != self.swallows:
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def node_with_own_bus(
    managers: Managers, server: RedisServer, **settings: Any
) -> AsyncIterator[tuple[WebSocketConnectionManager, OneWayProxy]]:
    """Start a node whose bus goes through a proxy and whose commands do not."""
    async with OneWayProxy("127.0.0.1", server.port) as proxy:
        node = managers.make(redis_timeout_s=0.5, **settings)
        backend: Any = node._state.backend
        backend._subscriber._factory = ConnectionFactory(f"redis://127.0.0.1:{proxy.port}", 0.5)
        await node.start()
        try:
            yield node, proxy
        finally:
            proxy.below = 0
            proxy.resume()
            await node.graceful_shutdown(1.0)


async def hear_one_another(nodes: list[WebSocketConnectionManager], word: str) -> None:
    """Wait until a broadcast of each node reaches a new client of each."""
    sockets = [await join(node, f"{word} {number}") for number, node in enumerate(nodes)]

    async def is_heard(node: WebSocketConnectionManager, text: str) -> bool:
        await node.broadcast(text)
        return all(text in socket.received for socket in sockets)

    for number, node in enumerate(nodes):
        await eventually(lambda n=node, text=f"{word} {number}": is_heard(n, text))  # type: ignore[misc]  # mypy cannot infer a lambda with a default


@pytest.mark.parametrize("swallowed", ["to the node", "to the server"])
async def test_a_bus_whose_bytes_are_swallowed_is_opened_again(
    own_managers: Managers, server: RedisServer, swallowed: str
) -> None:
    async with node_with_own_bus(own_managers, server) as (node, proxy):
        near = await own_managers.start()
        alice = await join(node, "alice")
        await eventually(lambda: node.statistics().bus_lag_seconds.count > 0)
        proxy.swallow(swallowed, on_new_ones_too=False)
        await eventually(lambda: counter(node, "canaries_missed") > 0)

        async def is_reached() -> bool:  # what Redis gives to the dead connection first is lost
            await near.send_to_client("alice", "hello")
            return "hello" in alice.received

        await eventually(is_reached)
        await connection_joins(node, "alice", "new room")
        await hear_one_another([node, near], "after")


async def connection_joins(node: WebSocketConnectionManager, client_id: str, room: str) -> None:
    await eventually(lambda: joined(node, client_id, room))


async def joined(node: WebSocketConnectionManager, client_id: str, room: str) -> bool:
    await node.join(client_id, room)
    return True


async def test_a_node_whose_bus_stays_deaf_is_not_ready_until_it_hears_again(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_with_own_bus(own_managers, server) as (node, proxy):
        assert (await readyz(node))[0] == 200
        proxy.swallow("to the node", on_new_ones_too=True)
        await eventually(lambda: is_deaf(node))
        assert await node.nodes()  # commands work
        await asyncio.sleep(3 * BEAT_S)  # and it stays so, however often the bus is opened again
        assert await is_deaf(node)
        assert counter(node, "canaries_missed") >= 1
        proxy.below = 0
        await eventually(lambda: not_degraded(node))


async def is_deaf(node: WebSocketConnectionManager) -> bool:
    status, body = await readyz(node)
    return status == 503 and body["reason"] == "the bus is deaf: nothing of other nodes arrives"


async def test_time_of_clients_stays_before_a_message_that_the_bus_has_lost(
    own_managers: Managers, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: dict[str, Any] = {"history": {"chat:": History()}}
    async with node_with_own_bus(own_managers, server, **stored) as (node, proxy):
        near = await own_managers.start(**stored)
        alice = await join(node, "alice", "chat:1")
        logs, history, may_read = node._state.backend.logs, node._registry.history, asyncio.Event()
        began_us, read = history.whole_us(), logs.read
        await eventually(lambda: history.whole_us() > began_us, what="a canary comes back")

        async def read_later(*arguments: Any) -> LogRead:
            await may_read.wait()
            return await read(*arguments)

        monkeypatch.setattr(logs, "read", read_later)
        proxy.swallow("to the node", on_new_ones_too=False)
        lost_us = (await near.broadcast("hello", room="chat:1")).id or 0
        for name in ("canaries_missed", "bus_gaps"):  # while the bus is deaf, and when it is back
            await eventually(lambda name=name: counter(node, name) > 0, what=name)
            assert history.whole_us() < lost_us
        may_read.set()
        await eventually(lambda: history.whole_us() > lost_us)
        assert alice.received == ["hello"]


@pytest.mark.alone
async def test_a_bus_that_is_only_quiet_stays(own_managers: Managers, server: RedisServer) -> None:
    node = await own_managers.start()
    await eventually(lambda: node.statistics().bus_lag_seconds.count >= 5)
    lag = node.statistics().bus_lag_seconds
    assert (counter(node, "canaries_missed"), counter(node, "bus_reconnects")) == (0, 0)
    assert 0 < lag.max_s < BEAT_S
    assert counter(node, "bus_malformed") == counter(node, "bus_messages") == 0


async def test_a_bus_that_waits_for_the_fan_out_is_not_taken_for_deaf(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start()
    backend: Any = node._state.backend
    gate, subscriber = asyncio.Event(), backend._subscriber
    listener = subscriber._listener
    subscriber._listener = replace(listener, pause=gate.wait)
    near = await own_managers.start()
    for _ in range(30):  # more than is read ahead
        await near.broadcast("x" * 100_000)
    await eventually(lambda: is_deaf(node))  # so far behind that nobody new should come
    beats = counter(node, "redis_batches")
    await eventually(lambda: counter(node, "redis_batches") > beats + 8)
    assert counter(node, "canaries_missed") == 0
    subscriber._listener = listener
    gate.set()
    await eventually(lambda: not_degraded(node))
    assert counter(node, "bus_reconnects") == 0


async def test_a_bus_killed_again_and_again_hears_again(own_managers: Managers, server: RedisServer) -> None:
    nodes = await own_managers.start_many(2)
    for round_ in range(1, 6):
        with server.client() as client:
            client.client_kill_filter(_type="pubsub")
        for node in nodes:
            await eventually(lambda n=node, k=round_: counter(n, "bus_gaps") >= k)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        await hear_one_another(nodes, f"round {round_}")


async def test_a_bus_that_overran_its_output_buffer_hears_again(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_with_own_bus(own_managers, server) as (node, proxy):
        near = await own_managers.start()
        with server.client() as client:
            client.config_set("client-output-buffer-limit", "pubsub 1mb 0 0")
        proxy.blackhole()  # nothing is read any more
        while not counter(node, "bus_reconnects") and len(bus_clients(server)) == 2:
            await asyncio.gather(*(near.broadcast("x" * 500_000) for _ in range(8)))
        proxy.resume()
        await eventually(lambda: counter(node, "bus_gaps") > 0)
        await hear_one_another([node, near], "after")


def bus_clients(server: RedisServer) -> list[Any]:
    with server.client() as client:
        return list(client.client_list(_type="pubsub"))


async def test_a_bus_that_is_refused_its_channels_asks_less_and_less_often(
    own_managers: Managers, server: RedisServer
) -> None:
    """Each time it may connect, which proves nothing."""
    node, near = await own_managers.start_many(2)
    subscriber: Any = node._state.backend._subscriber  # type: ignore[attr-defined]  # of Redis
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-subscribe")
        client.client_kill_filter(_type="pubsub")
    await eventually(lambda: subscriber._backoff._attempts >= 5)
    assert (await readyz(node))[1].get("degraded") or await is_deaf(node)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "+subscribe")
    await hear_one_another([node, near], "after")
    assert subscriber._backoff._attempts == 0


class Unexpected(Exception):
    """Nothing that anybody named."""


async def test_an_error_that_nobody_expected_does_not_end_listening(
    own_managers: Managers, server: RedisServer
) -> None:
    nodes = await own_managers.start_many(2)
    backend: Any = nodes[0]._state.backend
    subscriber, listener = backend._subscriber, backend._subscriber._listener

    def fail(*_: object) -> None:
        raise Unexpected

    def fail_once(*_: object) -> None:
        subscriber._listener = replace(subscriber._listener, on_message=listener.on_message)
        raise Unexpected

    subscriber._listener = replace(listener, on_message=fail_once, gap_began=fail, gap_ended=fail)
    await nodes[1].broadcast("poison")
    await eventually(lambda: counter(nodes[0], "bus_reconnects") > 0)
    await hear_one_another(nodes, "after")


async def test_a_message_behind_a_broadcast_without_a_bus_is_written_all_the_same(
    own_managers: Managers, server: RedisServer
) -> None:
    """An error would make its handler end the connection."""
    async with node_with_own_bus(own_managers, server, on_backend_loss="refuse") as (node, proxy):
        socket = Socket()
        alice = await register(node, "alice", socket)
        proxy.cut()
        await eventually(lambda: counter(node, "bus_reconnects") > 0)
        in_flight = asyncio.create_task(node.broadcast("hello"))
        await asyncio.sleep(0)
        await alice.send("behind it")
        assert not (await in_flight).heard
        proxy.resume()
        await eventually(lambda: not_degraded(node))
        await alice.send("news")
        await hears(socket, "behind it", "news")


# Gaps


async def test_a_gap_is_counted_and_told_to_the_application(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start()
    gaps: list[BusGap] = []
    node.on_bus_gap(gaps.append)
    with server.client() as client:
        client.client_kill_filter(_type="pubsub")
    await eventually(lambda: gaps)
    assert counter(node, "bus_gaps") == len(gaps) == 1
    assert 0 < gaps[0].seconds < 5


async def test_what_was_displaced_during_a_gap_is_closed_after_it(
    own_managers: Managers, server: RedisServer
) -> None:
    """The other node displaced it and is gone: nobody repeats the evict."""
    async with node_with_own_bus(own_managers, server, lease_ttl_s=8.0) as (node, proxy):
        near = await own_managers.start()
        old, other = await join(node, "alice"), await join(node, "bob")
        proxy.cut()
        new = await join(near, "alice")
        near._registry.claims._displaced.clear()  # as if it had forgotten whom to tell
        assert old.is_open
        proxy.resume()
        await eventually(lambda: old.closed_with == REPLACED)
        assert new.is_open
        assert other.is_open
        await knows(near, "alice", "bob")


async def test_what_was_removed_from_the_registry_during_a_gap_is_listed_again(
    own_managers: Managers, server: RedisServer
) -> None:
    node, near = await own_managers.start_many(2)
    await join(node, "alice")
    with server.client() as client:
        (key,) = client.scan_iter("*:client:alice")
        client.delete(key)
        client.client_kill_filter(_type="pubsub")
    await knows(near, "alice")


# redis-py's defaults


@pytest.fixture
def changed_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have redis-py's next release decide everything differently."""
    hostile = {
        "socket_timeout": 0.05, "socket_connect_timeout": 0.0001, "retry_on_timeout": True,
        "retry_on_error": [redis.RedisError], "decode_responses": True, "health_check_interval": 0.1, "protocol": 3,
        "retry": Retry(NoBackoff(), 10), "socket_read_size": 16,
    }  # fmt: skip
    for class_ in (redis_connection.AbstractConnection, redis.connection.AbstractConnection):
        init = inspect.unwrap(class_.__init__)
        defaults = init.__kwdefaults__ or {}
        new = {name: value for name, value in hostile.items() if name in defaults}
        monkeypatch.setattr(init, "__kwdefaults__", {**defaults, **new})


@pytest.mark.usefixtures("changed_defaults")
async def test_redis_pys_defaults_decide_nothing(own_managers: Managers, server: RedisServer) -> None:
    connection = redis_connection.Connection()
    assert connection.socket_timeout == 0.05, "the fixture changes nothing any more"
    here, there = await own_managers.start_many(2)
    alice, bob = await join(here, "alice", "room"), await join(there, "bob", "room")
    await eventually(
        lambda: there.statistics().bus_lag_seconds.count >= 4
    )  # idle for many of those time-outs
    await here.broadcast("x" * 100_000)
    await here.broadcast("to the room", room="room")
    assert await here.send_to_client("bob", "to bob")
    await hears(alice, "x" * 100_000, "to the room")
    await hears(bob, "x" * 100_000, "to the room", "to bob")
    server.freeze()
    slow = asyncio.create_task(here.presence("bob"))
    await asyncio.sleep(0.3)  # six of those time-outs: it is not sent ten times, and not given up
    assert not slow.done()
    server.thaw()
    assert [entry.client_id for entry in await slow] == ["bob"]
    for node in (here, there):
        assert counter(node, "bus_reconnects") == counter(node, "redis_failures") == 0
