"""Direct sends that share a script call: order through every path, who is told what, and what it costs Redis."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from fastapi_websocket_stabilizer import BackendUnavailableError, MessageError, WebSocketConnectionManager
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry import in_flight
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind, Part, pack
from fastapi_websocket_stabilizer.wire.messages import Form
from tests.integration.cluster import (
    LEASE_S,
    Managers,
    Publishing,
    Socket,
    StalledSocket,
    counter,
    everyone_hears,
    hears,
    join,
    register,
)
from tests.integration.test_faults import node_behind_proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

# Many calls are made in one turn of the event loop, and all must be through within `redis_timeout_s`.
pytestmark = pytest.mark.alone

BOTH = ("alice", "bob")
LONG_LEASE = {"lease_ttl_s": 60.0, "renew_interval_s": 5.0}
"""Sends that wait for a beat, on a busy machine, continue one by one and share no call."""
Send = Callable[[str], Awaitable[object]]


def ways_to(
    node: WebSocketConnectionManager, own: Any, heard: Sequence[list[str]]
) -> list[tuple[Send, Sequence[list[str]]]]:
    """Each way to send from ``node``, with the lists of the clients who will hear it: alice's (own), and bob's."""
    alice, bob = heard
    return [
        (lambda text: node.send_to_client("alice", text), [alice]),
        (lambda text: node.send_to_client("bob", text), [bob]),
        (lambda text: node.send_to_client("bob", text, confirm=5), [bob]),
        (lambda text: node.send_to_clients(BOTH, text), heard),
        (lambda text: node.broadcast(text), heard),
        (lambda text: node.broadcast(text, room="one"), heard),
        (lambda text: node.broadcast(text, room=["one", "two"]), heard),
        (lambda text: node.broadcast(text, exclude_client="alice"), [bob]),
        (own.send, [alice]),
    ]


@pytest.mark.parametrize("top", [1, 2], ids=["one socket", "several sockets"])
@pytest.mark.parametrize("seed", range(4))
async def test_every_mix_of_calls_arrives_in_the_order_of_the_calls(
    managers: Managers, top: int, seed: int
) -> None:
    here, there = await managers.start_many(2, max_connections_per_client=top)
    alice, bob = Socket(), Socket()
    own = await register(here, "alice", alice)
    other = await register(there, "bob", bob)
    for connection in (own, other):
        await connection.join("one")
        await connection.join("two")
    await sends_in_order(here, own, (alice, bob), seed)
    assert [counter(node, name) for node in (here, there) for name in ("bus_lost", "bus_duplicates")] == [
        0
    ] * 4


async def sends_in_order(
    node: WebSocketConnectionManager, own: Any, sockets: tuple[Socket, Socket], seed: int, count: int = 300
) -> None:
    """Send in every way, at random, without waiting; alice and bob must hear it in the order of the calls."""
    wanted: list[list[str]] = [[], []]
    ways, choose = ways_to(node, own, wanted), random.Random(seed)
    calls: list[asyncio.Future[object]] = []
    for number in range(count):
        send, heard = choose.choice(ways)
        for texts in heard:
            texts.append(str(number))
        calls.append(asyncio.ensure_future(send(str(number))))
        if choose.random() < 0.1:  # the next calls are of a later tick
            await asyncio.sleep(choose.choice([0, 0, 0.001]))
    await asyncio.gather(*calls)
    for socket, texts in zip(sockets, wanted, strict=True):
        await hears(socket, *texts)


@pytest.mark.parametrize("top", [1, 2], ids=["one socket", "several sockets"])
@pytest.mark.parametrize("seed", range(3))
async def test_calls_after_a_freeze_longer_than_the_lease_arrive_in_the_order_of_the_calls(
    managers: Managers, top: int, seed: int
) -> None:
    here = await managers.start(max_connections_per_client=top)
    there = await managers.start(max_connections_per_client=top, lease_ttl_s=60.0)  # it does not sweep us
    alice, bob = Socket(), Socket()
    own, other = await register(here, "alice", alice), await register(there, "bob", bob)
    for connection in (own, other):
        await connection.join("one")
        await connection.join("two")
    time.sleep(1.2 * LEASE_S)  # noqa: ASYNC251 - the freeze
    await sends_in_order(here, own, (alice, bob), seed)
    assert counter(here, "leases_refused") == 1


@pytest.mark.parametrize("seed", range(3))
async def test_calls_that_wait_for_room_arrive_in_the_order_of_the_calls(
    managers: Managers, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight, "IN_FLIGHT_LIMIT_BYTES", 5)
    here, there = await managers.start_many(2)
    alice, bob = Socket(), Socket()
    own, other = await register(here, "alice", alice), await register(there, "bob", bob)
    for connection in (own, other):
        await connection.join("one")
        await connection.join("two")
    await sends_in_order(here, own, (alice, bob), seed)


async def test_a_slow_client_that_is_waited_for_lets_no_later_message_pass(managers: Managers) -> None:
    """A send to many writes to all of them before it waits for one."""
    node = await managers.start()
    slow, alice = StalledSocket(), await join(node, "alice")
    await register(node, "slow", slow)
    first = asyncio.create_task(node.send_to_clients(["slow", "alice"], "first"))
    await asyncio.sleep(0)
    second = asyncio.create_task(node.send_to_client("alice", "second"))
    assert await second
    slow.gate.set()
    assert await first == 2
    await hears(alice, "first", "second")


async def test_sends_of_one_tick_are_one_script_call_and_one_envelope_a_node(
    own_managers: Managers, server: RedisServer
) -> None:
    here, *others = await own_managers.start_many(3, **LONG_LEASE)  # a probe of the bus is a publication, too
    sockets = [await join(others[n % 2], f"client {n}") for n in range(100)]
    before = [counter(node, "bus_messages") for node in others]
    with server.client() as client:
        client.config_resetstat()
        took = await asyncio.gather(*(here.send_to_client(f"client {n}", f"to {n}") for n in range(100)))
        stats: dict[str, dict[str, int]] = client.info("commandstats")
    assert took == [True] * 100
    scripts = sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))
    renewals = stats.get("cmdstat_zadd", {}).get("calls", 0)  # a beat may come in between
    assert (scripts - renewals, stats["cmdstat_publish"]["calls"]) == (1, 2)
    for number, socket in enumerate(sockets):
        await hears(socket, f"to {number}")
    assert [counter(node, "bus_messages") for node in others] == [count + 1 for count in before]
    assert counter(here, "direct_batches") == 1


async def test_one_message_to_many_clients_crosses_once(own_managers: Managers, server: RedisServer) -> None:
    here, there = await own_managers.start_many(2)
    for number in range(100):
        await join(there, f"client {number}")
    with server.client() as client:
        before = client.info("stats")["total_net_input_bytes"]
        await here.send_to_clients([f"client {number}" for number in range(100)], "x" * 100_000)
        assert client.info("stats")["total_net_input_bytes"] - before < 200_000


async def test_more_than_a_call_takes_arrives_in_order(managers: Managers) -> None:
    here, there = await managers.start_many(2, **LONG_LEASE)
    bob = await join(there, "bob")
    texts = [str(number) for number in range(1_100)]
    assert await asyncio.gather(*(here.send_to_client("bob", text) for text in texts)) == [True] * 1_100
    await hears(bob, *texts)
    assert counter(here, "direct_batches") == 3


async def test_more_bytes_than_a_call_takes_arrive_in_order(managers: Managers) -> None:
    here, there = await managers.start_many(2, **LONG_LEASE)
    bob = await join(there, "bob")
    texts = [f"{number} " + "x" * 100_000 for number in range(30)]
    await asyncio.gather(*(here.send_to_client("bob", text) for text in texts))
    await hears(bob, *texts)
    assert counter(here, "direct_batches") == 3


async def test_one_bad_message_fails_alone(managers: Managers) -> None:
    here, there = await managers.start_many(2, max_message_size=64 * 1024 * 1024)
    bob = await join(there, "bob")
    first, bad, unreachable, last = await asyncio.gather(
        here.send_to_client("bob", "1"),
        here.send_to_client("bob", "x" * (16 * 1024 * 1024)),
        here.send_to_client("nobody", "2"),
        here.send_to_client("bob", "3"),
        return_exceptions=True,
    )
    assert isinstance(bad, MessageError)
    assert (first, unreachable, last) == (True, False, True)
    await hears(bob, "1", "3")
    assert counter(here, "sends_unreachable") == 1


async def test_a_cancelled_caller_takes_nobody_along(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    bob = await join(there, "bob")
    for wait in (0, 1, 2):
        calls = [asyncio.create_task(here.send_to_client("bob", f"{wait} {number}")) for number in range(9)]
        for _ in range(1 + wait):
            await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[1::2] == [True] * 4
    await hears(bob, *(f"{wait} {number}" for wait in (0, 1, 2) for number in range(9)))


async def test_confirmations_of_one_call_name_those_who_were_written_to(managers: Managers) -> None:
    here, there = await managers.start_many(2, write_timeout_s=10, close_timeout_s=0.1)
    bob, stalled = await join(there, "bob"), StalledSocket()
    await register(there, "slow", stalled)
    answers = await asyncio.gather(
        here.send_to_client("bob", "1", confirm=1),
        here.send_to_client("slow", "2", confirm=0.2),
        here.send_to_client("nobody", "3", confirm=1),
        here.send_to_client("bob", "4"),
        here.send_to_client("bob", "5", confirm=1),
    )
    assert [*answers] == [True, False, False, True, True]
    await hears(bob, "1", "4", "5")
    stalled.gate.set()


async def test_an_envelope_that_comes_twice_is_written_once_and_gaps_are_no_losses(
    managers: Managers,
) -> None:
    node = await managers.start()
    alice, bob = await join(node, "alice"), await join(node, "bob")
    publishing = Publishing(managers.url)

    async def publish(sequence: int, *parts: Part) -> None:
        envelope = Envelope(NodeId("peer"), sequence, 0, Kind.DIRECT, parts=parts)
        inbox = f"{managers.namespace}:{{{node.statistics().node_id}}}:inbox"
        assert await publishing.publish(inbox, pack(envelope)) == 1

    first = Part(["alice", "bob"], Form.TEXT, "1"), Part(["bob"], Form.BINARY, b"2")
    for _ in range(2):
        await publish(5, *first)
    await publish(9, Part(["alice"], Form.JSON, "[3]"))  # 6 to 8 went to other nodes
    await hears(alice, "1", [3])
    await hears(bob, "1", b"2")
    assert [counter(node, name) for name in ("bus_duplicates", "bus_lost", "bus_malformed")] == [1, 0, 0]


async def test_order_holds_when_redis_forgets_its_scripts_in_between(
    own_managers: Managers, server: RedisServer
) -> None:
    here, there = await own_managers.start_many(2)
    sockets = [await join(here, "alice"), await join(there, "bob")]
    texts, calls = [str(number) for number in range(200)], []
    with server.client() as client:
        for number, text in enumerate(texts):
            send = here.broadcast(text) if number % 3 else here.send_to_clients(BOTH, text)
            calls.append(asyncio.ensure_future(send))
            if number % 20 == 19:
                client.script_flush()
                await asyncio.sleep(0)
    await asyncio.gather(*calls)
    await everyone_hears(sockets, *texts)


async def test_every_caller_learns_that_redis_is_away_and_the_next_ones_are_served(
    own_managers: Managers, server: RedisServer
) -> None:
    there = await own_managers.start(lease_ttl_s=8.0)
    bob = await join(there, "bob")
    async with node_behind_proxy(own_managers, server, on_backend_loss="refuse") as (here, proxy):
        proxy.blackhole()
        began_s = asyncio.get_running_loop().time()
        calls = [here.send_to_client("bob", "lost") for _ in range(5)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [BackendUnavailableError] * 5
        assert asyncio.get_running_loop().time() - began_s < 2
        proxy.cut()
        proxy.resume()

        async def is_back() -> bool:
            try:
                return await here.send_to_client("bob", "found")
            except BackendUnavailableError:
                return False

        await eventually(is_back)
    assert set(bob.received) <= {"lost", "found"}


async def test_nothing_comes_between_the_calls_that_a_send_to_many_is_made_of(managers: Managers) -> None:
    """501 clients are two script calls; a send right behind must not overtake the second."""
    here, there = await managers.start_many(2)
    last = Socket()
    await register(there, "last", last)
    many = [*(f"nobody {number}" for number in range(500)), "last"]
    first = asyncio.create_task(here.send_to_clients(many, "first"))
    await asyncio.sleep(0)
    second = asyncio.create_task(here.send_to_client("last", "second"))
    assert (await first, await second) == (1, True)
    await hears(last, "first", "second")
