"""Peers that vanish, do not answer or do not read; and those that only seem to."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.proxy import TcpProxy
from tests.support.waiting import eventually
from tests.wire.raw import ANSWER_S, Frame, Op, RawClient, close
from tests.wire.servers import Fleet, Row, Server, running

MIB = 1024 * 1024
TIMED_OUT, SLOW = 4007, 4008
PULSE = {"WS_HEARTBEAT_INTERVAL": "0.2", "WS_HEARTBEAT_TIMEOUT": "0.6", "WS_CLOSE_TIMEOUT_S": "0.5"}
FLOOD = 10
"""Megabytes: more than the kernel's buffers of both sides, the server's and the outbox hold together."""
GIVEN_BACK_MIB = 6.0
ROUNDS = 5
"""The allocator keeps the most that was ever in use. So one of these rounds costs nothing, unless each leaks."""


@pytest.fixture
def pulse(fleet: Fleet, row: Row) -> Server:
    """A server that pings soon and waits briefly."""
    return fleet.get(row.but("pulse", environment=PULSE))


# --- the manager's pings ------------------------------------------------------------------------------------


async def on_both_ways(check: Callable[[str, str], Awaitable[None]], client_id: str) -> None:
    """Check parked sockets and others at the same time: these tests mostly wait for the heartbeat."""
    async with asyncio.TaskGroup() as tasks:
        for way in ("parked", "loop"):
            tasks.create_task(_awaited(check(way, f"{client_id}-{way}")))


async def _awaited(check: Awaitable[None]) -> None:
    await check


async def test_silent_client_is_pinged_with_real_pings(pulse: Server, client_id: str) -> None:
    async def check(way: str, name: str) -> None:
        async with pulse.connected(f"{way}/{name}") as client:
            for _ in range(5):  # longer than the interval and the timeout together
                frame = await client.frame()
                assert frame is not None
                assert frame.opcode == Op.PING
                client.send(Frame(Op.PONG, frame.payload))
            assert await client.say("still here") == "still here"

    await on_both_ways(check, client_id)


async def test_client_that_answers_no_ping_is_closed(pulse: Server, client_id: str) -> None:
    async def check(way: str, name: str) -> None:
        async with pulse.connected(f"{way}/{name}") as client:
            assert (await client.ending())[0] == TIMED_OUT
        assert await pulse.left(name) == ["4007 heartbeat timeout"]

    await on_both_ways(check, client_id)


async def test_client_that_talks_need_not_answer_pings(pulse: Server, client_id: str) -> None:
    async def check(way: str, name: str) -> None:
        async with pulse.connected(f"{way}/{name}") as client, asyncio.timeout(ANSWER_S):
            for _ in range(5):  # not with the payload of the ping
                assert await client.frame() == Frame(Op.PING, mask=None)
                client.send(Frame(Op.PONG, b"of my own accord"))
            assert await pulse.is_registered(name)

    await on_both_ways(check, client_id)


async def test_heartbeat_is_suspended_while_the_application_is_busy(pulse: Server, client_id: str) -> None:
    """What the client says is not read then, its pongs neither: that is not its fault."""
    async with pulse.connected(f"gated/{client_id}") as client:
        for _ in range(64):
            client.send(Frame(Op.BINARY, bytes(64 * 1024)))
        sent_by_others = asyncio.create_task(client.drain())
        before = await pulse.counter("heartbeat_pings")
        async with pulse.connected("parked/witness") as witness:
            await answer_pings(witness, 6)
        assert await pulse.counter("heartbeat_pings") > before
        assert await pulse.is_registered(client_id)
        await pulse.ask("PUT", f"gates/{client_id}")
        assert [await client.message() for _ in range(64)] == [str(64 * 1024)] * 64
        await sent_by_others


async def answer_pings(client: RawClient, count: int) -> None:
    while count:
        frame = await client.frame()
        assert frame is not None
        if frame.opcode == Op.PING:
            client.send(Frame(Op.PONG, frame.payload))
            count -= 1


async def test_peer_that_vanished_without_a_word_is_released(pulse: Server, client_id: str) -> None:
    async def check(way: str, name: str) -> None:
        path = f"{way}/{name}"
        async with (
            TcpProxy("127.0.0.1", pulse.port) as proxy,
            pulse.connected(path, port=proxy.port) as client,
        ):
            assert await client.say("hello") == "hello"
            proxy.blackhole()
            assert await pulse.left(name) == ["4007 heartbeat timeout"]
            await eventually(lambda: sockets_of(pulse) == 0, what="the vanished peer's socket is gone")

    await on_both_ways(check, client_id)


def sockets_of(server: Server) -> int:
    """Count the server's established TCP connections."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ends = [row.split()[1:4] for row in rows]
    return sum(local.endswith(f":{server.port:04X}") and state == "01" for local, _, state in ends)


async def test_peer_that_vanishes_under_a_broadcast_is_released(pulse: Server, client_id: str) -> None:
    async def check(way: str, name: str) -> None:
        path = f"{way}/{name}"
        async with (
            TcpProxy("127.0.0.1", pulse.port) as proxy,
            pulse.connected(path, port=proxy.port) as client,
        ):
            assert await client.say("hello") == "hello"
            proxy.blackhole()
            for _ in range(8):
                await pulse.send("x" * 500_000, to=name)
            (entry,) = await pulse.left(name)
            assert int(entry.split()[0]) in (TIMED_OUT, SLOW)

    await on_both_ways(check, client_id)


# --- slow readers -------------------------------------------------------------------------------------------


@contextmanager
def own_server(row: Row, **settings: str) -> Iterator[Server]:
    """Run one for this test alone: its memory is measured."""
    environment = {"WS_CLOSE_TIMEOUT_S": "0.3"}
    environment |= {f"WS_{name.upper()}": value for name, value in settings.items()}
    with running(row.but("own", environment=environment)) as server:
        yield server


async def flood(server: Server, listener: RawClient, mib: int) -> None:
    """Broadcast megabytes one by one, each after the listener has the one before."""
    for number in range(mib):
        message = str(number).ljust(MIB)
        await server.send(message)
        assert await listener.message() == message


@pytest.mark.parametrize("settings", [{}, {"outbox_size": str(64 * MIB), "write_timeout_s": "0.3"}], ids=[
    "outbox-is-full", "write-takes-too-long",
])  # fmt: skip
async def test_client_that_does_not_read_is_closed_and_costs_nothing_in_the_end(
    row: Row, settings: dict[str, str]
) -> None:
    with own_server(row, **settings) as server:
        async with server.connected("loop/listener") as listener:
            grown_mib: list[float] = []
            while not grown_mib or (grown_mib[-1] >= GIVEN_BACK_MIB and len(grown_mib) < ROUNDS):
                before_mib = server.memory_mib()
                for way in ("parked", "loop"):
                    await ignore_a_flood(server, listener, f"{way}/{way}-{len(grown_mib)}")
                grown_mib.append(server.memory_mib() - before_mib)
            assert grown_mib[-1] < GIVEN_BACK_MIB, grown_mib
            assert await listener.say("not delayed") == "not delayed"
        assert await server.counter("slow_consumers") == 2 * len(grown_mib)


async def ignore_a_flood(server: Server, listener: RawClient, path: str) -> None:
    client_id = path.partition("/")[2]
    async with server.connected(path) as deaf:
        deaf.stop_reading()
        await flood(server, listener, FLOOD)
        (entry,) = await server.left(client_id)
        assert int(entry.split()[0]) in (SLOW, 1006, 1005)
    await eventually(lambda: sockets_of(server) == 1, what="the socket of the client that does not read")
    assert (await server.statistics())["outbox_bytes"] == 0


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_client_that_does_not_read_may_lose_messages_instead(row: Row, policy: str) -> None:
    with own_server(row, outbox_policy=policy, write_timeout_s="60") as server:
        async with server.connected("parked/listener") as listener, server.connected("parked/slow") as slow:
            slow.stop_reading()
            await flood(server, listener, FLOOD)
            assert await server.is_registered("slow")
            assert await server.counter("messages_dropped") > 0
            assert (await server.statistics())["outbox_bytes"] <= MIB
            slow.read_on()
            slow.send(close(1000))
            assert await slow.ending() == (1000, "")


async def test_slow_client_that_reads_on_gets_everything(row: Row) -> None:
    with own_server(row, outbox_size=str(64 * MIB), write_timeout_s="60") as server:
        async with server.connected("parked/1") as parked, server.connected("loop/2") as held:
            late = (parked, held)
            for client in late:
                client.stop_reading()
            for number in range(FLOOD):
                await server.send(str(number).ljust(MIB))
            for client in late:
                client.read_on()
                assert [int(await client.message()) for _ in range(FLOOD)] == list(range(FLOOD))
