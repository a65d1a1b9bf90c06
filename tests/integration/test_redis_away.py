"""Redis goes away: what still works, what is refused, what comes never twice, and how a node starts without."""

import asyncio
import contextlib
import itertools
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import Any

import aiohttp
import httpx2
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConfigurationError,
    ConnectionNotFoundError,
    PresenceEvent,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.redis.connection import ConnectionFactory
from fastapi_websocket_stabilizer.registry.refusals import UNREACHABLE
from tests.integration.cluster import (
    PROJECT,
    REPLACED,
    Managers,
    Replica,
    Socket,
    channels,
    counter,
    everyone_hears,
    first_row,
    hears,
    join,
    knows,
    register,
)
from tests.integration.test_faults import count_is, node_behind_proxy, proxied
from tests.support.process import ChildProcess, free_port
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

FAULTS = pytest.mark.parametrize("fault", ["cut", "blackhole"])


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def readyz(manager: WebSocketConnectionManager) -> tuple[int, dict[str, str]]:
    """Ask what a load balancer asks."""
    app = FastAPI()
    app.include_router(manager.router)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://node") as http:
        answer = await http.get("/readyz")
        return answer.status_code, answer.json()


def is_away(manager: WebSocketConnectionManager) -> bool:
    """Whether the node knows, and does not try any more."""
    return manager._state.is_away


# Degrade


@pytest.mark.alone
@FAULTS
async def test_remote_sends_are_false_and_local_ones_arrive(
    own_managers: Managers, server: RedisServer, fault: str
) -> None:
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        near = await own_managers.start()
        alice, bob = await join(node, "alice", "room"), await join(near, "bob", "room")
        getattr(proxy, fault)()
        for _ in range(2):  # when it is not known yet, and when it is
            began_s = now_s()
            assert await node.send_to_client("alice", "to me")
            assert not await node.send_to_client("bob", "to bob")
            assert await node.send_to_clients(["alice", "bob"], "to both") == 1
            result = await node.broadcast("to all")
            assert (result.nodes, result.succeeded, result.heard) == (1, 1, True)
            result = await node.broadcast("to the room", room="room")
            assert (result.nodes, result.succeeded) == (1, 1)
            assert (await node.broadcast("confirmed", confirm=1.0)).succeeded == 1
            assert now_s() - began_s < 3
            await eventually(lambda: is_away(node))
        await hears(alice, *["to me", "to both", "to all", "to the room", "confirmed"] * 2)
        assert counter(node, "sends_unreachable") == 4
        assert counter(node, "degraded") >= 10
        assert bob.received == []


async def test_a_send_to_a_client_elsewhere_is_false_within_the_timeout(
    own_managers: Managers, server: RedisServer
) -> None:
    """Rather a moment early than late, whenever it began; medians, since this machine is late, too."""
    async with node_behind_proxy(own_managers, server, redis_timeout_s=2.0, renew_interval_s=2.5) as (
        node,
        proxy,
    ):
        near = await own_managers.start()
        await join(near, "bob")
        proxy.blackhole()
        lasted_s = []

        async def send() -> None:
            began_s = now_s()
            assert not await node.send_to_client("bob", "hello")
            lasted_s.append(now_s() - began_s)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(40):
                tasks.create_task(send())
                await asyncio.sleep(0.03)
        assert max(lasted_s) > 1.5, "Redis was asked"
        assert statistics.median(lasted_s) <= 2.0


@pytest.mark.alone
async def test_no_token_is_made_whose_record_would_be_lost(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        near = await own_managers.start()
        proxy.cut()
        await eventually(lambda: is_away(node))
        with pytest.raises(BackendUnavailableError):
            node.generate_reconnect_token("alice")
        with pytest.raises(BackendUnavailableError):
            await node.issue_reconnect_token("alice")
        proxy.resume()
        await eventually(lambda: not is_away(node))
        token = await node.issue_reconnect_token("alice")
        assert await near.validate_reconnect_token(token) == "alice"


@pytest.mark.alone
@FAULTS
@pytest.mark.parametrize("lapses", [False, True])
async def test_what_is_taken_from_a_client_in_that_time_is_taken_at_the_return(
    own_managers: Managers, server: RedisServer, fault: str, lapses: bool
) -> None:
    lease_s = 1.2 if lapses else 20.0
    settings = {"lease_ttl_s": lease_s, "renew_interval_s": 0.3, "redis_timeout_s": 0.3}
    async with node_behind_proxy(own_managers, server, **settings) as (node, proxy):
        near = await own_managers.start(**settings)
        removed, closed = await join(node, "removed", "vip", "lobby"), await join(node, "closed", "vip")
        getattr(proxy, fault)()
        await eventually(lambda: is_away(node))
        if lapses:
            await knows(near)  # the node is swept
        with contextlib.suppress(BackendUnavailableError, ConnectionNotFoundError):
            await near.leave("removed", "vip")
        with contextlib.suppress(BackendUnavailableError, ConnectionNotFoundError):
            await near.disconnect("closed", code=4001, reason="banned")
        proxy.resume()
        await eventually(lambda: closed.closed_with == (4001, "banned"), what="the close")
        await eventually(partial(count_is, near, "vip", 0), what="the room is empty")
        await eventually(partial(count_is, near, "lobby", 1), what="the other room is not")

        async def is_subscribed() -> bool:  # the bus may be back later than the registry
            await near.broadcast("news", room="lobby")
            return "news" in removed.received

        await eventually(is_subscribed, what="the bus is back")
        await near.broadcast("secret", room="vip")
        await near.broadcast("the end", room="lobby")
        await eventually(lambda: "the end" in removed.received, what="the end")
        assert "secret" not in removed.received


@pytest.mark.alone
@FAULTS
async def test_new_clients_are_served_at_once_and_registered_later(
    own_managers: Managers, server: RedisServer, fault: str
) -> None:
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        events: list[PresenceEvent] = []
        near = await own_managers.start()
        node.on_presence(events.append)
        getattr(proxy, fault)()
        early = await join(node, "early", "room")
        await eventually(lambda: is_away(node))
        began_s = now_s()
        late = await join(node, "late", "room", "other room")
        assert now_s() - began_s < 0.2
        await node.broadcast("hello", room="room")
        await everyone_hears([early, late], "hello")
        assert not events
        proxy.cut()
        proxy.resume()
        await knows(near, "early", "late")
        await eventually(lambda: count_is(near, "room", 2))
        await eventually(lambda: count_is(near, "other room", 1))
        await eventually(lambda: len(channels(server.url, own_managers.namespace)) == 2 * 2 + 1 + 2)
        assert (await near.broadcast("welcome back", room="room")).nodes == 1
        await everyone_hears([early, late], "hello", "welcome back")
        joined = {(event.kind, event.client_id, event.room) for event in events}
        assert joined == {
            ("joined", "early", None), ("room_joined", "early", "room"),
            ("joined", "late", None), ("room_joined", "late", "room"), ("room_joined", "late", "other room"),
        }  # fmt: skip


async def test_what_came_and_went_during_an_outage_leaves_nothing(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        near = await own_managers.start()
        stays = await register(node, "stays")
        await stays.join("left")
        proxy.cut()
        goes = await register(node, "goes")
        await goes.join("room")
        await stays.leave("left")
        await stays.join("joined")
        await node.disconnect("goes")
        proxy.resume()
        await knows(near, "stays")
        await eventually(lambda: count_is(near, "joined", 1))
        await eventually(lambda: count_is(near, "left", 0))
        assert await near.room_count("room") == 0


async def test_two_sockets_of_one_client_are_one_too_many_without_redis_too(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        proxy.cut()
        old, new = await join(node, "alice"), await join(node, "alice")
        assert old.closed_with == REPLACED
        assert new.is_open


async def test_the_last_to_connect_wins_and_not_the_last_whose_redis_came_back(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        near = await own_managers.start()
        proxy.cut()
        old = await join(node, "alice")
        await eventually(lambda: is_away(node))
        new = await join(near, "alice")
        proxy.resume()
        await eventually(lambda: old.closed_with == REPLACED)
        assert new.is_open
        await eventually(lambda: node.send_to_client("alice", "hello"))
        await hears(new, "hello")


async def test_a_client_that_turns_out_to_be_full_is_sent_away_on_return(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server, on_client_overflow="reject") as (node, proxy):
        near = await own_managers.start(on_client_overflow="reject")
        first = await join(near, "alice")
        proxy.cut()
        second = await join(node, "alice")
        proxy.resume()
        await eventually(lambda: second.closed_with is not None)
        assert second.closed_with is not None
        assert second.closed_with[0] == 1013
        assert first.is_open


async def test_a_node_without_redis_is_ready_and_says_what_is_lacking(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        assert (await readyz(node))[1].get("degraded") is None
        proxy.cut()
        await eventually(lambda: is_away(node))
        status, body = await readyz(node)
        assert (status, body["degraded"]) == (200, "no Redis: only clients of this node are reached")
        proxy.resume()
        await eventually(lambda: not_degraded(node))


async def not_degraded(manager: WebSocketConnectionManager) -> bool:
    status, body = await readyz(manager)
    return status == 200 and "degraded" not in body


async def test_a_password_that_changed_is_an_outage(own_managers: Managers, server: RedisServer) -> None:
    node = await own_managers.start(redis_timeout_s=0.5)
    alice = await join(node, "alice")
    with server.client() as client:
        client.config_set("requirepass", "new")
        client.client_kill_filter(skipme=True)
        assert (await node.broadcast("alone")).nodes == 1
        await eventually(lambda: is_away(node))
        assert (await node.broadcast("alone, too")).nodes == 1
        with pytest.raises(
            BackendUnavailableError, match=r"connect: Authentication required.*check user, password"
        ):
            await node.presence("alice")
        client.config_set("requirepass", "")
        await eventually(lambda: not_degraded(node))
    await hears(alice, "alone", "alone, too")


async def test_rights_that_were_taken_away_are_an_outage(
    own_managers: Managers, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    node, near = await own_managers.start_many(2, log_level="WARNING")
    alice = await register(node, "alice")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all")
        client.execute_command("AUTH", "admin", "admin")
        client.execute_command("ACL", "SETUSER", "default", "-@all", "+ping", "+info")
        assert (await node.broadcast("alone")).nodes == 1
        with pytest.raises(ConfigurationError, match="check user, password and ACL"):
            await near.presence("alice")
        client.flushall()  # so that the lease is gone when the rights are back
        await asyncio.gather(*(register(node, f"client {number}") for number in range(50)))
        await alice.join("room")
        await eventually(lambda: is_away(node))
        client.execute_command("ACL", "SETUSER", "default", "+@all", "-subscribe")
        await eventually(lambda: counter(node, "leases_refused") > 0)
        client.execute_command("ACL", "SETUSER", "default", "+subscribe")
        await knows(near, "alice", *(f"client {number}" for number in range(50)))
        await eventually(lambda: count_is(near, "room", 1))
        client.execute_command("ACL", "SETUSER", "default", "-hgetall")  # the beats go on
        client.client_kill_filter(_type="pubsub")
        await eventually(lambda: "catch-up: Redis at" in caplog.text)
        client.execute_command("ACL", "SETUSER", "default", "+hgetall")
    assert not [record for record in caplog.records if record.exc_info]
    assert len(caplog.records) < 40, [record.getMessage() for record in caplog.records]


async def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    own_managers: Managers, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_behind_proxy(own_managers, server, log_level="INFO") as (node, proxy):
        connections = [await register(node, f"client {number}") for number in range(50)]
        proxy.cut()
        await asyncio.gather(*(connection.close() for connection in connections))
        await asyncio.gather(*(node.send_to_client("bob", "hello") for _ in range(50)))
        await eventually(lambda: is_away(node))
        proxy.resume()
        await eventually(lambda: not_degraded(node))
        messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert sum(text.startswith("Redis is away: Redis at") for text in messages) == 1
        assert messages.count("Redis is back") == 1
        assert len(messages) < 20, messages


# At most once, and in order


@pytest.mark.parametrize("fault", ["freeze", "cut", "kill"])
async def test_what_was_delivered_here_alone_is_not_delivered_again_when_redis_brings_it_back(
    own_managers: Managers, server: RedisServer, fault: str
) -> None:
    """A frozen Redis carries out every PUBLISH that it was sent when it goes on; some had been given up."""
    async with node_behind_proxy(own_managers, server) as (node, proxy):
        near = await own_managers.start(lease_ttl_s=8.0, redis_timeout_s=0.5)
        alice, bob = await join(node, "alice", "room"), await join(near, "bob", "room")
        texts: list[str] = []

        async def talk() -> None:
            for number in itertools.count():
                text = str(number)
                texts.append(text)
                say = (
                    node.send_to_clients(["alice", "bob"], text)
                    if number % 3 == 0
                    else node.broadcast(text, room="room" if number % 3 == 1 else None)
                )
                await asyncio.wait([asyncio.create_task(say)], timeout=0.02)  # then go on: they overlap
                await asyncio.sleep(0.001)

        talking = asyncio.create_task(talk())
        await eventually(lambda: len(texts) > 100)
        hurt = {"freeze": server.freeze, "cut": proxy.cut, "kill": server.kill}[fault]
        heal = {"freeze": server.thaw, "cut": proxy.resume, "kill": server.start}[fault]
        hurt()
        await eventually(lambda: is_away(node))
        before = len(texts)
        await eventually(lambda: len(texts) > before + 50)
        heal()
        for manager in (node, near):
            await eventually(partial(not_degraded, manager))
        before = len(texts)
        await eventually(lambda: len(texts) > before + 100)
        talking.cancel()
        await asyncio.wait([talking])
        await node.broadcast("the end")
        await eventually(lambda: alice.received[-1] == "the end")
        numbers = [int(text) for text in alice.received[:-1]]
        assert numbers == sorted(set(numbers)), "twice, or out of order"
        # Everything that was sent reached the sender's own client but what the last cancellation took along.
        assert len(numbers) >= len(texts) - 5
        await eventually(lambda: bob.received[-1:] == ["the end"])
        heard = [int(text) for text in bob.received[:-1]]
        assert heard == sorted(set(heard))


async def test_a_publish_that_was_held_up_somewhere_is_dropped_even_after_a_gap(
    own_managers: Managers, server: RedisServer
) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        node = own_managers.make(**proxied(proxy))
        backend: Any = node._state.backend
        backend._subscriber._factory = ConnectionFactory(server.url, 0.5)  # only commands are held up
        await node.start()
        near = await own_managers.start()
        alice, bob = await join(node, "alice"), await join(near, "bob")
        proxy.blackhole()
        assert (await node.broadcast("once")).nodes == 1
        with server.client() as client:
            client.client_kill_filter(_type="pubsub")
        await eventually(lambda: counter(node, "bus_gaps") == counter(near, "bus_gaps") == 1)
        proxy.resume()  # delivers what it held
        await hears(bob, "once")
        await eventually(lambda: counter(node, "bus_duplicates") == 1)
        assert alice.received == ["once"]
        await node.graceful_shutdown(1.0)


# Start


@contextlib.asynccontextmanager
async def started_without_redis(
    managers: Managers, server: RedisServer, **settings: Any
) -> AsyncIterator[WebSocketConnectionManager]:
    server.kill()
    node = await managers.start(**{"redis_timeout_s": 0.5, **settings})
    yield node


async def test_a_node_starts_without_redis_and_joins_the_others_when_it_is_there(
    own_managers: Managers, server: RedisServer
) -> None:
    async with started_without_redis(own_managers, server) as node:
        alice = await join(node, "alice", "room")
        assert (await node.broadcast("alone", room="room")).succeeded == 1
        with pytest.raises(BackendUnavailableError):
            await node.issue_reconnect_token("alice")
        assert (await readyz(node))[0] == 200
        server.start()
        near = await own_managers.start()
        await knows(near, "alice")
        await eventually(lambda: count_is(near, "room", 1))
        await eventually(lambda: near.send_to_client("alice", "together"))
        await hears(alice, "alone", "together")
        token = await eventually(lambda: node.issue_reconnect_token("alice"))
        assert await near.validate_reconnect_token(token) == "alice"
        assert await not_degraded(node)


async def test_a_node_that_never_saw_redis_stops_like_any_other(
    own_managers: Managers, server: RedisServer
) -> None:
    async with started_without_redis(own_managers, server) as node:
        alice = await join(node, "alice")
        report = await node.graceful_shutdown(2.0)
        assert (report.closed_count, alice.closed_with) == (1, (1001, "server shutdown"))


PROGRAM = """
import asyncio
from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager

async def main():
    await WebSocketConnectionManager(WebSocketConfig(redis_url="{url}")).start()
    raise SystemExit(3)

asyncio.run(main())
"""


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_program_that_does_not_stop_the_node_can_end(server: RedisServer, is_there: bool) -> None:
    if not is_there:
        server.kill()
    with ChildProcess([sys.executable, "-c", PROGRAM.format(url=server.url)]) as process:
        await eventually(lambda: not process.is_running, what="it ends")
        assert "SystemExit" not in process.output


@pytest.mark.alone
@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_start_without_redis_is_refused_in_time(
    own_managers: Managers, server: RedisServer, fault: str
) -> None:
    getattr(server, fault)()
    node, began_s = own_managers.make(on_backend_loss="refuse"), now_s()
    with pytest.raises(BackendUnavailableError):
        await node.start()
    assert now_s() - began_s < 5


@pytest.mark.parametrize("policy", ["degrade", "refuse"])
async def test_a_start_with_a_wrong_password_is_refused(namespace: str, policy: str) -> None:
    with RedisServer(first_row(), password="right") as server:
        managers = Managers(server.url.replace("right", "wrong"), namespace)
        with pytest.raises(ConfigurationError, match="check user, password"):
            await managers.start(on_backend_loss=policy)


async def test_a_start_with_the_port_of_something_else_is_refused(namespace: str) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(ConfigurationError, match="that is no Redis"):
            await Managers(f"redis://127.0.0.1:{port}", namespace).start()


async def test_workers_start_without_redis_and_meet_when_it_is_there(
    server: RedisServer, namespace: str
) -> None:
    server.kill()
    port = free_port()
    environment = {
        "REPLICA_REDIS_URL": server.url, "REPLICA_NAMESPACE": namespace, "REPLICA_NAME": "worker",
        "REPLICA_LEASE_S": "1.5", "REPLICA_BEAT_S": "0.4",
    }  # fmt: skip
    command = [sys.executable, "-m", "uvicorn", "tests.integration.replica_app:app", "--workers", "2"]
    command += ["--port", str(port), "--log-level", "warning"]
    with ChildProcess(command, environment=environment, directory=PROJECT) as process:

        async def nodes() -> int:
            async with aiohttp.ClientSession() as http:
                url = f"http://127.0.0.1:{port}/call/node_ids"
                async with http.post(url, json={}) as response:
                    return len(await response.json()) if response.status == 200 else -1

        await eventually(lambda: is_serving(port), 20, what="a worker serves")
        server.start()
        await eventually(lambda: is_two(nodes()), 20, what="two nodes")
        assert process.is_running, process.output


async def is_two(number: Awaitable[int]) -> bool:
    return await number == 2


async def is_serving(port: int) -> bool:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/readyz") as response:
        return response.status == 200 and "degraded" in await response.json()


# Refuse


@FAULTS
async def test_remote_calls_are_refused_and_the_node_is_not_ready(
    own_managers: Managers, server: RedisServer, fault: str
) -> None:
    async with node_behind_proxy(own_managers, server, on_backend_loss="refuse") as (node, proxy):
        alice = await join(node, "alice")
        getattr(proxy, fault)()
        await eventually(lambda: is_away(node))
        assert (await readyz(node))[0] == 503
        for call in (node.broadcast("hello"), node.send_to_client("bob", "hello"), register(node, "carol")):
            with pytest.raises(BackendUnavailableError):
                await call
        assert await node.send_to_client("alice", "hello")
        await hears(alice, "hello")
        assert node.get_active_connections() == ["alice"]
        proxy.cut()
        proxy.resume()
        await eventually(lambda: not_degraded(node))


async def test_nothing_local_waits_behind_what_is_refused(
    own_managers: Managers, server: RedisServer
) -> None:
    async with node_behind_proxy(own_managers, server, on_backend_loss="refuse") as (node, proxy):
        socket = Socket()
        alice = await register(node, "alice", socket)
        proxy.blackhole()
        await eventually(lambda: is_away(node))
        for number in range(3):
            refused = [node.broadcast("to all"), node.send_to_client("bob", "to bob")]
            tasks = [asyncio.create_task(call) for call in refused]
            await asyncio.sleep(0)
            await alice.send(f"answer {number}")
            assert await node.send_to_client("alice", f"news {number}")
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {BackendUnavailableError}
        await hears(socket, *(f"{word} {number}" for number in range(3) for word in ("answer", "news")))


async def test_new_sockets_are_refused_by_status_before_and_by_code_after_accept(
    server: RedisServer, namespace: str
) -> None:
    replica = Replica(server.url, namespace, "refusing", REPLICA_ON_BACKEND_LOSS="refuse")
    try:
        await eventually(replica.is_ready, 20)
        server.kill()
        url = f"ws://127.0.0.1:{replica.port}"
        for _ in range(2):  # when it is not known yet, and when it is
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{url}/identified/alice", proxy=None)
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"] == "5"
            assert b"redis://" not in refused.value.response.body  # where it is concerns no stranger
            for style in ("serve", "old"):  # both accept before they ask
                async with connect(f"{url}/{style}/alice", proxy=None) as socket:
                    await eventually(lambda: socket.close_code == 1013)
                    assert socket.close_reason == UNREACHABLE
            await eventually(lambda: unready_without_redis(replica))
        assert "without completing handshake" not in replica.process.output
    finally:
        replica.stop()


async def unready_without_redis(replica: Replica) -> bool:
    url = f"http://127.0.0.1:{replica.port}/readyz"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status == 503
