"""Input that costs the sender little must not cost the server much."""

import pytest

from tests.support.waiting import eventually
from tests.wire.raw import Frame, Op, close, text
from tests.wire.servers import UVLOOP, Fleet, Server

KIB = 1024
BOUND_MIB = 12.0
"""What one client may cost while the test looks; the server has others to think of too."""
FLOOD_BYTES = 16 * KIB * KIB
"""More than the kernel's buffers hold."""
MAX_FRAGMENTS = 16_384


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "1-byte"])
async def test_fragments_beyond_the_cap_close_the_connection(
    server: Server, way: str, client_id: str, payload: bytes
) -> None:
    before_mib = server.memory_mib()
    many = Frame(Op.CONT, payload, fin=False).encode() * 10_000
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.TEXT, payload, fin=False))
        for _ in range(20):
            client.write(many)
        assert (await client.ending())[0] in (1002, 1008, 1009)
    await server.left(client_id)
    assert server.memory_mib() - before_mib < BOUND_MIB


async def test_fragments_below_the_cap_are_a_message(server: Server, way: str, client_id: str) -> None:
    pieces = Frame(Op.CONT, b"x", fin=False).encode() * (MAX_FRAGMENTS - 2)
    async with server.connected(f"{way}/{client_id}") as client:
        for _ in range(2):  # the count starts again with each message
            client.write(Frame(Op.TEXT, b"x", fin=False).encode() + pieces + Frame(Op.CONT, b"x").encode())
            assert await client.message() == "x" * MAX_FRAGMENTS


async def test_fragments_are_bounded_by_the_size_of_a_message(fleet: Fleet, way: str, client_id: str) -> None:
    """4 MiB in fragments of 64 bytes are 65,536 frames; the limit is that of the settings."""
    server = fleet.get(UVLOOP.but("long-messages", environment={"WS_MAX_MESSAGE_SIZE": str(16 * 2**20)}))
    piece = Frame(Op.CONT, b"x" * 64, fin=False).encode()
    async with server.connected(f"{way}/{client_id}") as client:
        client.write(Frame(Op.TEXT, fin=False).encode() + piece * 65_536 + Frame(Op.CONT).encode())
        assert await client.message() == "x" * 4 * 2**20


async def test_unfinished_message_costs_its_size_only(server: Server, way: str, client_id: str) -> None:
    """Not a list entry and an object for every byte."""
    before_mib = server.memory_mib()
    async with server.connected(f"{way}/{client_id}") as client:
        client.write(Frame(Op.TEXT, b"x", fin=False).encode())
        client.write(Frame(Op.CONT, b"x", fin=False).encode() * 10_000)
        client.ping(b"read everything before")
        assert await client.frame() == Frame(Op.PONG, b"read everything before", mask=None)
        assert server.memory_mib() - before_mib < BOUND_MIB
        client.send(Frame(Op.CONT, b"!"))
        assert await client.message() == "x" * 10_001 + "!"


@pytest.mark.parametrize("endpoint", ["gated", "gated-loop"])
@pytest.mark.parametrize("size", [0, 100, 100 * KIB])
async def test_client_that_outruns_the_application_is_not_read(
    server: Server, client_id: str, endpoint: str, size: int
) -> None:
    message = Frame(Op.BINARY, bytes(size)).encode()
    count = FLOOD_BYTES // len(message)
    before_mib = server.memory_mib()
    async with server.connected(f"{endpoint}/{client_id}") as client, server.connected("loop/other") as other:
        client.write(message * count)
        while await other.say("not delayed") and (unsent := client.unsent):
            if await other.say("not delayed") and client.unsent == unsent:
                break
        assert unsent > 0, "the server reads whatever comes"
        assert server.memory_mib() - before_mib < BOUND_MIB
        if size > KIB:
            await server.ask("PUT", f"gates/{client_id}")
            assert [await client.message() for _ in range(count)] == [str(size)] * count
        client.reset()
        await server.ask("PUT", f"gates/{client_id}")
        await server.left(client_id)


@pytest.mark.alone
async def test_pings_without_end_are_answered_in_bounded_memory(
    server: Server, way: str, client_id: str
) -> None:
    """A client that pings and does not read the pongs makes the server buffer them."""
    async with server.connected(f"{way}/first-{client_id}") as client:
        await client.say("a server's first client takes 1 MiB for code and arenas")
    await server.left(f"first-{client_id}")
    before_mib = server.memory_mib()
    held_mib: list[float] = []

    async def has_left() -> bool:
        held_mib.append(server.memory_mib() - before_mib)
        return client_id not in await server.ask("GET", "clients")

    async with server.connected(f"{way}/{client_id}") as client:
        client.stop_reading()
        client.write(Frame(Op.PING, b"x" * 125).encode() * 80_000)
        await eventually(has_left, what="the client is given up, because it does not read")
        assert max(held_mib) < 1.5, "2 to 6 MiB if each ping of these seconds is answered"
        client.reset()


async def test_thousand_sockets_that_come_and_go_leave_nothing(
    server: Server, way: str, client_id: str
) -> None:
    async def visit(count: int) -> None:
        for number in range(count):
            async with server.connected(f"{way}/{client_id}-{number}") as client:
                client.send(text("x" * 2000), close(1000))
                await client.rest()

    await visit(50)
    before_mib = server.memory_mib()
    await visit(200)
    assert server.memory_mib() - before_mib < 4.0
    names = await server.ask("GET", "tasks")
    assert len(names) < 30, names


async def test_parked_sockets_have_no_task(server: Server, client_id: str) -> None:
    before = len(await server.ask("GET", "tasks"))
    async with server.connected(f"parked/{client_id}-1") as one, server.connected(
        f"served/{client_id}-2"
    ) as two:  # fmt: skip
        assert [await one.say("hello"), await two.say("hello")] == ["hello"] * 2
        await eventually(lambda: has_tasks(server, before), what="the ASGI tasks have ended")
        assert await server.diary(f"{client_id}-2") == ["handler ended"]
        assert [await one.say("still"), await two.say("there")] == ["still", "there"]


async def has_tasks(server: Server, count: int) -> bool:
    return len(await server.ask("GET", "tasks")) <= count
