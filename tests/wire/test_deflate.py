"""permessage-deflate (RFC 7692): what is agreed on, and that nothing is corrupted whatever was."""

import random

import pytest

from tests.wire.raw import RSV1, Frame, Op, RawClient, deflated, text
from tests.wire.servers import Server

OFFERS = {
    "none": "",
    "plain": "permessage-deflate",
    "client-bits": "permessage-deflate; client_max_window_bits",
    "client-bits-10": "permessage-deflate; client_max_window_bits=10",
    "server-bits-9": "permessage-deflate; server_max_window_bits=9",
    "server-bits-15": "permessage-deflate; server_max_window_bits=15; client_max_window_bits=15",
    "server-no-takeover": "permessage-deflate; server_no_context_takeover",
    "both-no-takeover": "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "first-unacceptable": "permessage-deflate; unknown=1, permessage-deflate; client_max_window_bits",
    "foreign-first": "x-webkit-deflate-frame, permessage-deflate",
}
UNACCEPTABLE = {
    "unknown-parameter": "permessage-deflate; unknown",
    "bits-8": "permessage-deflate; server_max_window_bits=8",
    "bits-16": "permessage-deflate; server_max_window_bits=16",
    "bits-without-a-number": "permessage-deflate; server_max_window_bits",
    "twice": "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "foreign": "x-webkit-deflate-frame",
}
FAR = random.Random(0).randbytes(700).hex()
"""Text that repeats only at a distance of 1,400: a window of 2**9 must not point back that far."""
MESSAGES = {
    "100B": ["short " * 17] * 4,
    "2KiB": [f"{number} {'words, again and again ' * 90}" for number in range(6)],
    "far": [FAR * 3, FAR * 3, FAR],
    "1MiB": ["0123456789abcdef" * 65_536] * 2,
    "mixed": ["tiny", "large " * 700, "", "small", FAR * 2, "x" * 1023, "x" * 1024, "x" * 1025],
}

offers = pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
messages = pytest.mark.parametrize("contents", MESSAGES.values(), ids=MESSAGES)


def offering(offer: str) -> dict[str, str]:
    return {"Sec-WebSocket-Extensions": offer}


def compressed(client: RawClient, content: str) -> Frame:
    """Compress as agreed on: the client's window may have been limited."""
    parameters = client.answer.deflate
    if parameters is None:
        return text(content)
    bits = int(parameters.get("client_max_window_bits", "15"))
    return Frame(Op.TEXT, deflated(content.encode(), bits), rsv=RSV1)


@offers
@messages
async def test_messages_come_back_uncorrupted(
    server: Server, client_id: str, offer: str, contents: list[str]
) -> None:
    async with server.connected(f"parked/{client_id}", offering(offer)) as client:
        for content in contents:
            client.send(compressed(client, content))
            assert await client.message() == content


@offers
@messages
async def test_prepared_messages_arrive_uncorrupted(
    server: Server, way: str, client_id: str, offer: str, contents: list[str]
) -> None:
    async with server.connected(f"{way}/{client_id}", offering(offer)) as client:
        for content in contents:
            assert await server.send(content, to=client_id)
            assert await client.message() == content


LIMIT = 2**20
NOISE = random.Random(1).randbytes(LIMIT + 1)
"""Bytes that deflate makes longer."""


@pytest.mark.parametrize("size", [LIMIT - 40, LIMIT])
async def test_limit_counts_the_bytes_of_a_message_and_not_of_its_compressed_form(
    server: Server, way: str, client_id: str, size: int
) -> None:
    packed = deflated(NOISE[:size])
    assert len(packed) > LIMIT
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        client.send(Frame(Op.BINARY, packed, rsv=RSV1))
        assert await client.message() == NOISE[:size]


async def test_message_over_the_limit_is_refused_when_it_is_inflated(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        client.send(Frame(Op.BINARY, deflated(NOISE), rsv=RSV1))
        assert await client.ending() == (1009, f"{LIMIT + 1} bytes, the limit is {LIMIT}")
    await server.left(client_id)


async def test_message_far_over_the_limit_is_refused_before_it_is_inflated(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        client.send(Frame(Op.BINARY, deflated(bytes(16 * LIMIT)), rsv=RSV1))
        assert await client.ending() == (1009, f"more than {LIMIT} bytes")
    await server.left(client_id)


async def test_client_that_would_keep_its_context_is_not_compressed_for(
    server: Server, client_id: str
) -> None:
    """Tornado's client overlooks ``client_no_context_takeover``."""
    headers = {**offering("permessage-deflate; client_max_window_bits"), "User-Agent": "Tornado/6.6.1"}
    async with server.connected(f"parked/{client_id}", headers) as client:
        assert client.answer.deflate is None
        assert await client.say("x" * 5000) == "x" * 5000


async def test_window_is_named_only_to_a_client_that_asked(server: Server, client_id: str) -> None:
    """Some clients refuse a parameter that they did not offer."""
    async with server.connected(f"parked/{client_id}", offering("permessage-deflate")) as client:
        assert client.answer.deflate is not None
        assert "server_max_window_bits" not in client.answer.deflate


@offers
async def test_answer_grants_what_was_offered_and_no_more(server: Server, client_id: str, offer: str) -> None:
    async with server.connected(f"parked/{client_id}", offering(offer)) as client:
        agreed = client.answer.deflate
    if not offer:
        assert agreed is None
        return
    assert agreed is not None
    assert agreed.keys() >= {"server_no_context_takeover", "client_no_context_takeover"}
    if "server_max_window_bits=9" in offer:
        assert agreed["server_max_window_bits"] == "9"
    if "client_max_window_bits" not in offer:
        assert "client_max_window_bits" not in agreed


@pytest.mark.parametrize("offer", UNACCEPTABLE.values(), ids=UNACCEPTABLE)
async def test_unacceptable_offer_is_declined_and_the_socket_works(
    server: Server, client_id: str, offer: str
) -> None:
    async with server.connected(f"parked/{client_id}", offering(offer)) as client:
        assert client.answer.deflate is None
        assert await client.say("x" * 5000) == "x" * 5000
        assert client.compressed == 0


async def test_long_messages_are_compressed_and_short_ones_are_not(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        await server.send("x" * 1000, to=client_id)
        await client.message()
        assert client.compressed == 0
        await server.send("x" * 2048, to=client_id)
        await client.message()
        assert client.compressed == 1


async def test_broadcast_reaches_sockets_of_every_kind_uncorrupted(
    server: Server, way: str, client_id: str
) -> None:
    """One message, and windows that differ: each must get a frame that it can read."""
    kinds = ("none", "plain", "server-bits-9", "client-bits-10")
    async with (
        server.connected(f"{way}/{client_id}-1", offering(OFFERS[kinds[0]])) as one,
        server.connected(f"{way}/{client_id}-2", offering(OFFERS[kinds[1]])) as two,
        server.connected(f"{way}/{client_id}-3", offering(OFFERS[kinds[2]])) as three,
        server.connected(f"{way}/{client_id}-4", offering(OFFERS[kinds[3]])) as four,
    ):
        for content in (FAR * 3, "short", FAR * 2, "x" * 4096):
            await server.send(content)
            assert [await client.message() for client in (one, two, three, four)] == [content] * 4


async def test_uncompressed_message_is_read_where_compression_was_agreed_on(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        for content in ("plain", "plain " * 1000):
            assert await client.say(content) == content
            client.send(compressed(client, content))
            assert await client.message() == content


async def test_compressed_message_may_be_fragmented(server: Server, way: str, client_id: str) -> None:
    content = FAR * 4
    data = deflated(content.encode(), 12)
    first, *others = [data[start : start + 500] for start in range(0, len(data), 500)]
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        client.send(Frame(Op.TEXT, first, fin=False, rsv=RSV1))
        client.send(*(Frame(Op.CONT, piece, fin=False) for piece in others), Frame(Op.CONT))
        assert await client.message() == content


async def test_messages_of_many_slices_arrive_in_order(server: Server, way: str, client_id: str) -> None:
    contents = [FAR * 200, "short", FAR * 60, "", FAR * 500]
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        client.send(*(Frame(Op.TEXT, deflated(content.encode(), 12), rsv=RSV1) for content in contents))
        assert [await client.message() for _ in contents] == contents


async def test_broken_data_far_behind_the_start_closes_with_1002(
    server: Server, way: str, client_id: str
) -> None:
    broken = deflated(FAR.encode() * 100, 12) + b"\xff" * 9
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        client.send(Frame(Op.TEXT, broken, rsv=RSV1))
        assert (await client.ending())[0] == 1002
    await server.left(client_id)


async def test_empty_compressed_message_is_empty(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        for payload in (deflated(b""), b"\x00", b"\x02\x00"):
            client.send(Frame(Op.TEXT, payload, rsv=RSV1))
            assert await client.message() == ""


async def test_final_deflate_block_ends_a_message_only(server: Server, client_id: str) -> None:
    """RFC 7692 §7.2.3.4: BFINAL=1 is legal; a context that is kept would be finished by it."""
    final = bytes.fromhex("f348cdc9c9070000")  # "Hello" from that section
    async with server.connected(f"parked/{client_id}", offering("permessage-deflate")) as client:
        for _ in range(2):
            client.send(Frame(Op.TEXT, final, rsv=RSV1))
            assert await client.message() == "Hello"


@pytest.mark.parametrize("mib", [2, 64])
async def test_bomb_closes_with_1009_and_is_not_inflated(
    server: Server, way: str, client_id: str, mib: int
) -> None:
    bomb = deflated(b"\x00" * (mib * 1024 * 1024))
    before_mib = server.memory_mib()
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        client.send(Frame(Op.BINARY, bomb, rsv=RSV1))
        assert (await client.ending())[0] == 1009
    await server.left(client_id)
    assert server.memory_mib() - before_mib < 16


async def test_bomb_in_fragments_closes_with_1009(server: Server, way: str, client_id: str) -> None:
    bomb = deflated(b"\x00" * (4 * 1024 * 1024))
    pieces = [bomb[start : start + 256] for start in range(0, len(bomb), 256)]
    async with server.connected(f"{way}/{client_id}", offering("permessage-deflate")) as client:
        client.send(Frame(Op.BINARY, pieces[0], fin=False, rsv=RSV1))
        client.send(*(Frame(Op.CONT, piece, fin=False) for piece in pieces[1:]))
        assert (await client.ending())[0] == 1009
    await server.left(client_id)
