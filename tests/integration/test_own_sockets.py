"""Messages to sockets of the sending node: they stay in its process, and keep their place among the others."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConnectionNotFoundError,
    WebSocketConnectionManager,
)
from tests.integration.cluster import Managers, Socket, hears, join, register
from tests.integration.test_bus import node_with_own_bus
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

KEY = "0123456789abcdef0123456789abcdef"
SENDS = 60


class Spy:
    """A Redis user that may only subscribe, and keeps what it reads: pairs of channel and envelope."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.heard: list[tuple[str, bytes]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Spy"]:
        client = redis.asyncio.Redis.from_url(self._url)
        async with client, client.pubsub() as pubsub:
            await pubsub.psubscribe("*")
            assert (await pubsub.get_message(timeout=5))["type"] == "psubscribe"
            reading = asyncio.create_task(self._read(pubsub))
            yield self
            reading.cancel()
            await asyncio.wait([reading])

    async def _read(self, pubsub: Any) -> None:
        async for message in pubsub.listen():
            self.heard.append((message["channel"].decode(), message["data"]))

    def channels_of(self, text: str) -> set[str]:
        return {channel for channel, data in self.heard if text.encode() in data}


def without_chatter(socket: Socket) -> list[str]:
    return [text for text in socket.received if text != "chatter"]


async def hear_besides_chatter(*wanted: tuple[Socket, list[str]]) -> None:
    """Wait until each socket has received exactly these messages, and chatter."""

    def hear() -> bool:
        for socket, texts in wanted:
            assert without_chatter(socket) == texts
        return True

    await eventually(hear)


async def send_secrets(
    here: WebSocketConnectionManager, own: Any, *others: str, wanted: tuple[list[str], list[str]]
) -> None:
    """Send in every way to alice (``own``) and carol, sockets of this node, while its broadcasts are on their way."""
    alice, carol = wanted
    calls: list[asyncio.Future[Any]] = []
    for number in range(SENDS):
        token = await here.issue_reconnect_token("alice")
        calls.append(asyncio.ensure_future(here.broadcast("chatter")))
        await asyncio.sleep(0)
        assert here._state.in_flight, "a broadcast is on its way"
        secret, mixed = f"secret {number} {token}", f"mixed {number}"
        calls += [
            asyncio.ensure_future(call)
            for call in (
                own.send(secret),
                here.send_to_client("carol", secret),
                here.send_to_client("carol", secret, confirm=5),
                here.send_to_clients(["alice", "carol"], secret),
                here.send_to_clients(["alice", *others, "carol"], mixed),
            )
        ]
        alice += [secret, secret, mixed]
        carol += [secret, secret, secret, mixed]
    await asyncio.gather(*calls)


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["plain", "signed"])
@pytest.mark.parametrize("top", [1, 2], ids=["one socket", "several sockets"])
async def test_a_subscriber_reads_no_message_to_a_socket_of_the_sending_node(
    own_managers: Managers, server: RedisServer, top: int, keys: tuple[str, ...]
) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "spy", "reset", "on", ">spy", "allchannels",
                               "-@all", "+subscribe", "+psubscribe")  # fmt: skip
    here, there = await own_managers.start_many(2, max_connections_per_client=top, envelope_keys=keys)
    alice, carol = Socket(), Socket()
    own, bob = await register(here, "alice", alice), await join(there, "bob")
    await register(here, "carol", carol)
    wanted: tuple[list[str], list[str]] = ([], [])
    async with Spy(f"redis://spy:spy@127.0.0.1:{server.port}").listening() as spy:
        await send_secrets(here, own, "bob", wanted=wanted)
        await here.broadcast("last")
        await eventually(lambda: bool(spy.channels_of("last")), what="the spy has read everything")
    await hear_besides_chatter((alice, [*wanted[0], "last"]), (carol, [*wanted[1], "last"]))
    mixed = [f"mixed {number}" for number in range(SENDS)]
    await hear_besides_chatter((bob, [*mixed, "last"]))
    assert spy.channels_of("secret") == set()
    inbox = f"{own_managers.namespace}:{{{there.statistics().node_id}}}:inbox"
    assert spy.channels_of("mixed") == {inbox}, "only the share of the other node travels"


@pytest.mark.parametrize("policy", ["degrade", "refuse"])
async def test_what_waits_behind_a_lost_broadcast_arrives_once_and_in_order(
    own_managers: Managers, server: RedisServer, policy: str
) -> None:
    """Redis is frozen, and carries out the publish when it goes on; by then it was given up here."""
    node = await own_managers.start(on_backend_loss=policy, redis_timeout_s=0.5)
    alice = Socket()
    own = await register(node, "alice", alice)
    server.freeze()
    lost = asyncio.create_task(node.broadcast("lost"))
    await asyncio.sleep(0)
    behind = [
        asyncio.create_task(call)
        for call in (own.send("1"), node.send_to_client("alice", "2"), node.send_to_clients(["alice"], "3"))
    ]
    outcomes: list[Any] = await asyncio.gather(lost, *behind, return_exceptions=True)
    server.thaw()
    assert outcomes[1:] == [None, True, 1]
    if policy == "refuse":
        assert isinstance(outcomes[0], BackendUnavailableError)
    await eventually(lambda: not node._state.is_away)
    await node.broadcast("last")
    await eventually(lambda: alice.received[-1:] == ["last"])
    kept = [text for text in alice.received if text != "lost"]
    assert kept == ["1", "2", "3", "last"]
    if policy == "degrade":
        assert alice.received == ["lost", *kept]


async def test_a_lost_bus_lets_go_of_what_waits_behind_it(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start()
    alice = Socket()
    own = await register(node, "alice", alice)
    with server.client() as client:
        for number in itertools.count():
            calls: list[asyncio.Task[Any]] = []
            calls += [asyncio.create_task(node.broadcast("chatter")) for _ in range(20)]
            await asyncio.sleep(0)
            calls.append(asyncio.create_task(own.send(str(number))))
            client.client_kill_filter(_type="pubsub")
            await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
            assert calls[-1].exception() is None
            await eventually(lambda: node._state.backend.is_connected)
            if number == 5:
                break
    assert without_chatter(alice) == ["0", "1", "2", "3", "4", "5"]


async def test_a_broadcast_that_comes_back_late_comes_behind_no_later_message(
    own_managers: Managers, server: RedisServer
) -> None:
    """The network holds what the bus brings for longer than ``redis_timeout_s``, and then lets it through."""
    settings = {"renew_interval_s": 10.0, "lease_ttl_s": 60.0}  # no canary
    async with node_with_own_bus(own_managers, server, **settings) as (node, proxy):
        alice, bob = Socket(), await join(node, "bob")
        own = await register(node, "alice", alice)
        proxy.blackhole()
        late = asyncio.create_task(node.broadcast("late"))
        await asyncio.sleep(0)
        held = asyncio.create_task(own.send("held"))
        assert not (await late).heard
        await held
        await own.send("later")
        proxy.resume()
        await hears(bob, "late")
        await node.broadcast("last")
        await hears(bob, "late", "last")
        await hears(alice, "held", "later", "last")


async def test_a_connection_that_ends_while_its_message_waits_raises(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start(redis_timeout_s=0.5, on_backend_loss="refuse")
    alice = Socket()
    own = await register(node, "alice", alice)
    server.freeze()
    lost = asyncio.create_task(node.broadcast("lost"))
    await asyncio.sleep(0)
    sending = asyncio.create_task(own.send("too late"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(own.close())
    await asyncio.wait([lost, sending])
    server.thaw()
    await closing
    with pytest.raises(ConnectionNotFoundError, match="connection has ended"):
        await sending
    assert "too late" not in alice.received


async def test_a_message_for_a_client_of_this_node_needs_no_redis_whatever_is_on_its_way(
    own_managers: Managers, server: RedisServer
) -> None:
    """While Redis is frozen, messages behind a broadcast wait for its deadline, and no longer."""
    node = await own_managers.start(redis_timeout_s=0.5, on_backend_loss="refuse", lease_ttl_s=60.0)
    alice = await join(node, "alice")
    server.freeze()
    lost = asyncio.create_task(node.broadcast("lost"))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(node.send_to_client("alice", "hello"), 5)
    await asyncio.wait([lost])
    server.thaw()
    await hears(alice, "hello", *alice.received[1:])
