"""What is sent in different ways to one socket arrives in the order of the calls."""

import asyncio

import pytest

from tests.wire.app import numbered
from tests.wire.raw import Op
from tests.wire.servers import Server

COUNT = 120
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate"}
kinds = pytest.mark.parametrize("headers", [{}, DEFLATE], ids=["plain", "deflate"])


@kinds
async def test_asgi_sends_and_prepared_frames_keep_their_order(
    server: Server, client_id: str, headers: dict[str, str]
) -> None:
    async with server.connected(f"mixed/{client_id}", headers) as client:
        assert await client.say(str(COUNT)) == numbered(0)
        assert [await client.message() for _ in range(1, COUNT)] == [numbered(n) for n in range(1, COUNT)]


@kinds
async def test_order_is_kept_for_a_client_that_reads_late(
    server: Server, client_id: str, headers: dict[str, str]
) -> None:
    """The outbox takes what the socket does not, and neither way may overtake it."""
    async with server.connected(f"mixed/{client_id}", headers) as client:
        client.stop_reading()
        for _ in range(20):
            client.send_text(str(COUNT))
        await client.drain()
        client.read_on()
        received = [await client.message() for _ in range(20 * COUNT)]
    assert received == [numbered(number) for number in range(COUNT)] * 20


@kinds
async def test_what_was_sent_before_a_socket_is_parked_comes_first(
    server: Server, client_id: str, headers: dict[str, str]
) -> None:
    async with server.connected(f"greeted/{client_id}", headers) as client:
        client.send_text("behind the greeting")
        assert [await client.message() for _ in range(20)] == [numbered(number) for number in range(20)]
        assert await client.message() == "behind the greeting"


@kinds
async def test_echoes_and_broadcasts_mix_without_a_broken_frame(
    server: Server, way: str, client_id: str, headers: dict[str, str]
) -> None:
    async with server.connected(f"{way}/{client_id}", headers) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(server.ask("POST", "storm", count=50, size=3000))
        for number in range(50):
            client.send_text(f"echo {number} {'y' * 40 * number}")
        received = [str(await client.message()).split() for _ in range(100)]
    echoes = [words for words in received if words[0] == "echo"]
    assert [int(words[1]) for words in echoes] == list(range(50))
    assert [int(words[0]) for words in received if words[0] != "echo"] == list(range(50))


async def test_pongs_and_messages_mix_without_a_broken_frame(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        for number in range(100):
            client.send_text(f"{number} ".ljust(1 + 13 * number))
            client.ping(str(number).encode())
        frames = [await client.frame() for _ in range(200)]
    for opcode in (Op.TEXT, Op.PONG):
        payloads = [frame.payload for frame in frames if frame is not None and frame.opcode == opcode]
        assert [int(payload) for payload in payloads] == list(range(100))


async def test_all_members_hear_broadcasts_in_one_order(server: Server, client_id: str) -> None:
    async with (
        server.connected(f"parked/{client_id}-1", DEFLATE) as one,
        server.connected(f"loop/{client_id}-2") as two,
    ):
        async with asyncio.TaskGroup() as tasks:
            for letter in "abcdef":
                tasks.create_task(server.send(letter * 2000))
                tasks.create_task(server.send(letter))
        heard = [[await client.message() for _ in range(12)] for client in (one, two)]
    assert heard[0] == heard[1]
    assert len(set(heard[0])) == 12
