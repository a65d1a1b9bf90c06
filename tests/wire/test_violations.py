"""What no client may send: the connection ends with the code of RFC 6455 §7.4.1, and nobody else notices."""

import pytest

from tests.wire.raw import RSV1, Frame, Op, close, deflated, text
from tests.wire.servers import Server

PROTOCOL_ERROR, INVALID_DATA, TOO_LARGE = 1002, 1007, 1009
LIMIT = 1024 * 1024
"""The default of ``max_message_size``."""
FIRST = Frame(Op.TEXT, b"first", fin=False)

BROKEN_FRAMES = {
    "unmasked": [text("x", mask=None)],
    "unmasked-empty": [Frame(Op.TEXT, mask=None)],
    "unmasked-ping": [Frame(Op.PING, mask=None)],
    "rsv1": [text("x", rsv=RSV1)],
    "rsv2": [text("x", rsv=2)],
    "rsv3": [text("x", rsv=1)],
    "rsv-of-ping": [Frame(Op.PING, rsv=2)],
    **{f"opcode-{opcode}": [Frame(opcode, b"x")] for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "ping-fragmented": [Frame(Op.PING, fin=False)],
    "pong-fragmented": [Frame(Op.PONG, fin=False)],
    "close-fragmented": [Frame(Op.CLOSE, fin=False)],
    "ping-126": [Frame(Op.PING, b"x" * 126)],
    "pong-126": [Frame(Op.PONG, b"x" * 126)],
    "close-126": [close(1000, b"x" * 124)],
    "continuation-of-nothing": [Frame(Op.CONT, b"x")],
    "continuation-after-the-end": [FIRST, Frame(Op.CONT), Frame(Op.CONT)],
    "text-in-fragments": [FIRST, text("x")],
    "binary-in-fragments": [FIRST, Frame(Op.BINARY, b"x")],
    "close-of-1-byte": [Frame(Op.CLOSE, b"\x03")],
    **{
        f"close-{code}": [close(code)]
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
}
BAD_UTF8 = {
    "byte": b"\xff",
    "cut": "€".encode()[:2],
    "overlong": b"\xc0\x80",
    "surrogate": b"\xed\xa0\x80",
    "beyond": b"\xf4\x90\x80\x80",
    "behind-text": b"gr\xc3\xbc\xc3",
}


@pytest.mark.parametrize("frames", BROKEN_FRAMES.values(), ids=BROKEN_FRAMES)
async def test_broken_frame_closes_with_1002(
    server: Server, way: str, client_id: str, frames: list[Frame]
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(*frames)
        assert (await client.ending())[0] == PROTOCOL_ERROR
    await server.left(client_id)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999])
async def test_legal_close_is_answered_with_its_code(server: Server, code: int) -> None:
    async with server.connected(f"parked/closes-{code}") as client:
        client.send(close(code, "schön".encode()))
        assert await client.ending() == (code, "schön")
    assert await server.left(f"closes-{code}") == [f"{code} schön"]


async def test_close_without_a_code_is_answered_without(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.CLOSE))
        assert (await client.ending())[0] in (1000, 1005)
    await server.left(client_id)


@pytest.mark.parametrize("data", BAD_UTF8.values(), ids=BAD_UTF8)
async def test_invalid_utf8_closes_with_1007(server: Server, way: str, client_id: str, data: bytes) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.TEXT, data))
        assert (await client.ending())[0] == INVALID_DATA
    await server.left(client_id)


async def test_invalid_utf8_in_fragments_closes_with_1007(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.TEXT, b"\xe2", fin=False), Frame(Op.CONT, b"\x28\xa1"))
        assert (await client.ending())[0] == INVALID_DATA
    await server.left(client_id)


async def test_invalid_utf8_in_a_reason_closes(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(close(1000, b"\xff"))
        assert (await client.ending())[0] in (PROTOCOL_ERROR, INVALID_DATA)
    await server.left(client_id)


@pytest.mark.parametrize("opcode", [Op.TEXT, Op.BINARY])
async def test_message_over_the_limit_closes_with_1009(
    server: Server, way: str, client_id: str, opcode: Op
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(opcode, b"x" * (LIMIT + 1)))
        assert (await client.ending())[0] == TOO_LARGE
    await server.left(client_id)


async def test_fragments_over_the_limit_close_with_1009(server: Server, way: str, client_id: str) -> None:
    half = b"x" * (LIMIT // 2)
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.BINARY, half, fin=False), Frame(Op.CONT, half, fin=False), Frame(Op.CONT, b"x"))
        assert (await client.ending())[0] == TOO_LARGE
    await server.left(client_id)


async def test_announced_length_of_a_ping_over_the_limit_closes_before_it_comes(server: Server) -> None:
    async with server.connected("parked/huge-ping") as client:
        client.send(Frame(Op.PING, declared=2**63 - 1))
        assert (await client.ending())[0] in (PROTOCOL_ERROR, TOO_LARGE)
    await server.left("huge-ping")


async def test_announced_length_over_the_limit_closes_before_it_comes(server: Server) -> None:
    async with server.connected("parked/announcer") as client:
        client.send(Frame(Op.BINARY, declared=2**62))
        assert (await client.ending())[0] == TOO_LARGE
    await server.left("announcer")


async def test_messages_over_the_limit_are_counted(server: Server, way: str, client_id: str) -> None:
    before = await server.counter("messages_too_large")
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.BINARY, declared=LIMIT + 1))
        await client.ending()
    await server.left(client_id)
    assert await server.counter("messages_too_large") == before + 1


COMPRESSED_WRONGLY = {
    "ping": [Frame(Op.PING, deflated(b"x"), rsv=RSV1)],
    "close": [Frame(Op.CLOSE, deflated(b"\x03\xe8"), rsv=RSV1)],
    "continuation": [
        Frame(Op.TEXT, deflated(b"x"), fin=False, rsv=RSV1),
        Frame(Op.CONT, deflated(b"y"), rsv=RSV1),
    ],
    "continuation-of-plain": [FIRST, Frame(Op.CONT, deflated(b"y"), rsv=RSV1)],
    "rsv2-too": [Frame(Op.TEXT, deflated(b"x"), rsv=RSV1 | 2)],
}
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}


@pytest.mark.parametrize("frames", COMPRESSED_WRONGLY.values(), ids=COMPRESSED_WRONGLY)
async def test_reserved_bit_in_the_wrong_place_closes_with_1002(
    server: Server, way: str, client_id: str, frames: list[Frame]
) -> None:
    async with server.connected(f"{way}/{client_id}", DEFLATE) as client:
        client.send(*frames)
        assert (await client.ending())[0] == PROTOCOL_ERROR
    await server.left(client_id)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x07", deflated(b"x" * 99)[::-1]], ids=range(3))
async def test_what_does_not_inflate_closes(server: Server, way: str, client_id: str, data: bytes) -> None:
    async with server.connected(f"{way}/{client_id}", DEFLATE) as client:
        client.send(Frame(Op.TEXT, data, rsv=RSV1))
        assert (await client.ending())[0] in (PROTOCOL_ERROR, INVALID_DATA)
    await server.left(client_id)


async def test_inflated_text_must_be_utf8_too(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}", DEFLATE) as client:
        client.send(Frame(Op.TEXT, deflated(b"\xff" * 2048), rsv=RSV1))
        assert (await client.ending())[0] == INVALID_DATA
    await server.left(client_id)


async def test_violation_behind_messages_closes_after_or_instead_of_their_echoes(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(text("one"), text("two"), Frame(3))
        frames = await client.rest()
    echoes = [frame.payload for frame in frames[:-1]]
    assert echoes == [b"one", b"two"][: len(echoes)]
    assert frames[-1].payload[:2] == close(PROTOCOL_ERROR).payload
    await server.left(client_id)


async def test_what_follows_a_violation_is_ignored(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(3), text("x"), Frame(Op.PING), close(1000))
        assert (await client.ending())[0] == PROTOCOL_ERROR
    await server.left(client_id)
    assert await server.received(client_id) == 0
