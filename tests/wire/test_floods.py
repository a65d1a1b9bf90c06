"""Clients that send as fast as they are read cost the others a bounded share of each turn of the event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.support.waiting import eventually
from tests.wire.raw import RSV1, Frame, Op, RawClient, deflated, request
from tests.wire.servers import Server

PATIENCE_S = 1.0
"""For one echo beside a flood, on two busy cores. 1 MB of pings in one turn of the event loop take longer."""
ECHOES = 10
FLOOD_BYTES = 4 * 2**20
FLOODS = {
    "pings": Frame(Op.PING).encode() * 10_000,
    "pongs": Frame(Op.PONG).encode() * 10_000,
    "empty texts": Frame(Op.TEXT).encode() * 10_000,
    "fragments": Frame(Op.TEXT, fin=False).encode()
    + Frame(Op.CONT, fin=False).encode() * 10_000
    + Frame(Op.CONT).encode(),
    "deflate": Frame(Op.BINARY, deflated(bytes(2**20), 12), rsv=RSV1).encode() * 50,
}
OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate"}

floods = pytest.mark.parametrize("chunk", FLOODS.values(), ids=FLOODS)


@asynccontextmanager
async def flooding(
    server: Server, path: str, chunk: bytes, *, accepted: bool
) -> AsyncIterator[list[RawClient]]:
    """Have three clients write more than will be read, and read their answers."""
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(3):
            client = await stack.enter_async_context(server.dialled())
            client.write(request(f"{path}-{number}", OFFER))
            await client.drain()
            if accepted:
                assert (await client.shake_hands()).status == 101
            client.write(chunk * (FLOOD_BYTES // len(chunk) + 1))
            clients.append(client)
        readers = [asyncio.create_task(client.rest()) for client in clients if accepted]
        yield clients
        for reader in readers:
            reader.cancel()
        for number, client in enumerate(clients):
            if accepted:  # else all that it sent before the reset is still handled
                await server.disconnect(f"{path.rpartition('/')[2]}-{number}")
            client.reset()


async def check_echoes(client: RawClient) -> None:
    for number in range(ECHOES):
        async with asyncio.timeout(PATIENCE_S):
            assert await client.say(f"calm {number}") == f"calm {number}"


@pytest.mark.alone
@floods
async def test_flood_of_registered_clients_delays_no_other(
    server: Server, way: str, client_id: str, chunk: bytes
) -> None:
    before = await server.counter("reads_deferred")
    async with server.connected(f"{way}/{client_id}-calm") as calm:
        async with flooding(server, f"sink-{way}/{client_id}", chunk, accepted=True):
            await check_echoes(calm)
            assert await server.counter("reads_deferred") > before
        assert await calm.say("after") == "after"
    await eventually(lambda: has_left(server, client_id), what="no socket of a client that flooded")


@pytest.mark.alone
@floods
async def test_flood_before_the_application_accepts_is_not_read(
    server: Server, way: str, client_id: str, chunk: bytes
) -> None:
    before_mib = server.memory_mib()
    async with (
        server.connected(f"{way}/{client_id}-calm") as calm,
        flooding(server, f"door-{way}/{client_id}", chunk, accepted=False),
    ):
        await check_echoes(calm)
        assert server.memory_mib() - before_mib < 3.6, "1.2 MiB for each"
        for number in range(3):
            await server.ask("PUT", f"gates/{client_id}-{number}")
    await eventually(lambda: has_left(server, client_id), what="no socket of a client that flooded")


async def test_pings_without_pause_are_answered_at_a_bounded_rate(
    server: Server, way: str, client_id: str
) -> None:
    """8 in 0.8 ms, however fast the server is; the first 8 of each read are extra."""
    loop = asyncio.get_running_loop()
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.PING))
        assert await client.frame() == Frame(Op.PONG, mask=None)
        before_s = loop.time()
        client.write(FLOODS["pings"])
        for _ in range(10_000):
            assert await client.frame() == Frame(Op.PONG, mask=None)
        assert loop.time() - before_s > 0.7


@pytest.mark.alone
async def test_small_deflate_is_held_one_message_at_a_time(server: Server, client_id: str) -> None:
    """20 clients of 100 messages of 1 MiB each, in 1 KiB each; the application has taken one of each."""
    async with AsyncExitStack() as stack:
        before_mib = server.memory_mib()
        for number in range(20):
            client = await stack.enter_async_context(server.connected(f"gated/{client_id}-{number}", OFFER))
            client.write(FLOODS["deflate"] * 2)
            await client.drain()
        async with server.connected(f"parked/{client_id}-calm") as calm:
            await check_echoes(calm)
        assert server.memory_mib() - before_mib < 20 * 1.2
    for number in range(20):
        await server.ask("PUT", f"gates/{client_id}-{number}")
    await eventually(lambda: has_left(server, client_id), what="no socket of a client that flooded")


async def has_left(server: Server, client_id: str) -> bool:
    return not any(name.startswith(client_id) for name in await server.ask("GET", "clients"))
