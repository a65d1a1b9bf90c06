"""How connections end: from each side, in the middle of a broadcast, without a word, and with the server."""

import ast
import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.support.waiting import eventually
from tests.wire.raw import Frame, Op, RawClient, close, text
from tests.wire.servers import Row, Server, running

EXIT_S = 8.0
"""A shutdown with nothing to wait for takes about one; two busy cores."""
SERVICE_RESTART = 1012


async def test_close_of_the_client_is_answered_and_reported(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(close(4001, b"going home"))
        assert await client.ending() == (4001, "going home")
    assert await server.left(client_id) == ["4001 going home"]


async def test_close_of_the_server_carries_code_and_reason(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        await server.disconnect(client_id, 4321, "tschüß")
        assert await client.ending() == (4321, "tschüß")
    assert await server.left(client_id) == ["4321 tschüß"]


async def test_too_long_a_reason_is_cut(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        await server.disconnect(client_id, 4321, "ü" * 100)
        code, reason = await client.ending()
    assert code == 4321
    assert len(reason) > 50
    assert reason.ljust(100, "ü") == "ü" * 100


async def test_close_of_the_server_comes_behind_what_was_sent(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        for number in range(30):
            await server.send(str(number) * 1500, to=client_id)
        await server.disconnect(client_id)
        received = [await client.message() for _ in range(30)]
        assert received == [str(number) * 1500 for number in range(30)]
        assert await client.ending() == (4321, "bye")


async def test_messages_that_cross_a_close_harm_nothing(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        await server.disconnect(client_id)
        client.send(text("crossing"), Frame(Op.PING, b"crossing"), text("x" * 100_000))
        assert await client.ending() == (4321, "bye")
    assert await server.left(client_id) == ["4321 bye"]


async def test_violation_behind_the_servers_close_ends_the_connection(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        await server.disconnect(client_id)
        client.send(Frame(3, rsv=7), text("x", mask=None))
        assert await client.ending() == (4321, "bye")
    assert await server.left(client_id) == ["4321 bye"]


async def test_closes_from_both_sides_at_once_end_once(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(close(4001))
        await server.ask("POST", "storm", count=1, size=10)
        assert (await client.ending())[0] in (4001, 4321)
    assert len(await server.left(client_id)) == 1


async def test_newer_socket_replaces_the_older(server: Server, way: str, client_id: str) -> None:
    async with (
        server.connected(f"{way}/{client_id}") as older,
        server.connected(f"{way}/{client_id}") as newer,
    ):
        assert await older.ending() == (1000, "reconnected")
        assert await newer.say("me again") == "me again"


async def test_socket_ends_when_its_client_does_not_answer_the_close(server: Server, client_id: str) -> None:
    async with (
        server.connected(f"parked/{client_id}-1") as parked,
        server.connected(f"loop/{client_id}-2") as held,
    ):
        for number in (1, 2):
            await server.disconnect(f"{client_id}-{number}")
        for client in (parked, held):
            assert await client.frame() == Frame(Op.CLOSE, close(4321, b"bye").payload, mask=None)
            assert await client.frame() is None  # not answered, and ended by the server all the same


async def test_reset_releases_the_connection(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.reset()
        assert len(await server.left(client_id)) == 1


async def test_end_of_the_stream_without_a_close_frame_is_reported_as_such(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.writer.write_eof()
        assert (await client.ending())[0] == 1006
    (entry,) = await server.left(client_id)
    assert entry.split()[0] in ("1005", "1006")


async def test_end_of_the_stream_within_a_message_releases_the_connection(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.TEXT, b"beginning", fin=False), Frame(Op.CONT, b"half", declared=1000))
        client.writer.write_eof()
        await client.rest()
    await server.left(client_id)


async def test_exception_of_on_message_costs_that_message_only(server: Server, client_id: str) -> None:
    async with server.connected(f"failing/{client_id}") as client:
        client.send(text("fail"))
        assert await client.say("go on") == "go on"
    server.forgive("ValueError: asked for")


async def test_message_that_does_not_fit_its_handler_is_dropped_and_the_socket_stays(
    server: Server, client_id: str
) -> None:
    before = await server.counter("messages_unfit")
    for way in ("parked", "loop"):
        async with server.connected(f"typed-{way}/{client_id}") as client:
            client.send(text('{"of":["x"]}'), text("no JSON"), Frame(Op.BINARY, b'{"of":[1]}'))
            assert await client.say('{"of":[1,2]}') == '{"sum":3}'
    assert await server.counter("messages_unfit") == before + 6
    server.forgive_once_a_minute("a message does not fit add")


# --- in the middle of a broadcast ---------------------------------------------------------------------------


@asynccontextmanager
async def storm(server: Server, size: int) -> AsyncIterator[None]:
    """Broadcast throughout the block."""
    over = asyncio.Event()

    async def blow() -> None:
        while not over.is_set():
            await server.ask("POST", "storm", count=20, size=size)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(blow())
        yield
        over.set()


@pytest.mark.parametrize("size", [100, 5000])
async def test_clients_may_close_in_the_middle_of_a_broadcast(
    server: Server, way: str, client_id: str, size: int
) -> None:
    deflate = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    async with server.connected(f"{way}/{client_id}-stays") as witness, storm(server, size):
        for number in range(10):
            async with server.connected(f"{way}/{client_id}-{number}", deflate) as client:
                await client.message()
                client.send(close(4000 + number))
                assert (await client.ending())[0] == 4000 + number
        assert "s" in str(await witness.message())


async def test_server_may_close_in_the_middle_of_a_broadcast(
    server: Server, way: str, client_id: str
) -> None:
    async with storm(server, 2000):
        for number in range(10):
            async with server.connected(f"{way}/{client_id}-{number}") as client:
                await client.message()
                closing_it = asyncio.create_task(server.disconnect(f"{client_id}-{number}"))
                assert await client.ending() == (4321, "bye")
                await closing_it


async def test_clients_may_vanish_in_the_middle_of_a_broadcast(
    server: Server, way: str, client_id: str
) -> None:
    names = [f"{client_id}-{number}" for number in range(10)]
    async with server.connected(f"{way}/{client_id}-stays") as witness, storm(server, 2000):
        for name in names:
            async with server.connected(f"{way}/{name}") as client:
                await client.message()
                client.reset()
        await witness.message()
    for name in names:
        await server.left(name)


# --- with the server ----------------------------------------------------------------------------------------


async def test_sigterm_closes_every_socket_and_ends_in_time(row: Row) -> None:
    with running(row.but("terminated")) as server:
        async with AsyncExitStack() as stack:
            names = ["parked", "served", "loop"]
            clients = [await stack.enter_async_context(server.connected(f"{name}/{name}")) for name in names]
            assert [await client.say("hello") for client in clients] == ["hello"] * 3
            os.kill(server.process.pid, signal.SIGTERM)
            for client in clients:
                assert (await client.ending())[0] == SERVICE_RESTART
            await has_exited(server)
        diary = ast.literal_eval(re.findall(r"diary: (.*)", server.process.output)[0])
        assert [[entry[:4] for entry in diary[name] if entry[0] == "1"] for name in names] == [["1012"]] * 3


async def test_sigterm_does_not_wait_for_a_client_that_reads_nothing(row: Row) -> None:
    with running(row.but("stalled", environment={"WS_OUTBOX_SIZE": "100000000"})) as server:
        async with server.connected("parked/deaf") as deaf:
            await stall(server, deaf)
            os.kill(server.process.pid, signal.SIGTERM)
            await has_exited(server)


async def stall(server: Server, client: RawClient) -> None:
    """Send so much that neither the kernel's buffers nor the client's reader hold it all."""
    client.stop_reading()
    for _ in range(10):
        await server.send("x" * (1024 * 1024 - 1))


async def has_exited(server: Server) -> None:
    await eventually(lambda: not server.process.is_running, EXIT_S, "end of the server")
