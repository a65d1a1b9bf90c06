"""What a legal client may send, however it is cut into frames and segments: every message arrives whole."""

import pytest

from tests.wire.raw import Frame, Op, close, text
from tests.wire.servers import Server

MIB = 1024 * 1024
FRAGMENTED = (Frame(Op.TEXT, b"one ", fin=False), Frame(Op.CONT, b"and ", fin=False), Frame(Op.CONT, b"two"))


@pytest.mark.parametrize("content", ["grüße", "", "x" * MIB], ids=["short", "empty", "1MiB"])
async def test_text_is_echoed(server: Server, way: str, client_id: str, content: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        assert await client.say(content) == content


@pytest.mark.parametrize("content", [b"\x00\xff", b"", b"\xff" * MIB], ids=["short", "empty", "1MiB"])
async def test_binary_is_echoed(server: Server, way: str, client_id: str, content: bytes) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.BINARY, content))
        assert await client.message() == content


async def test_messages_and_their_bytes_are_counted(server: Server, way: str, client_id: str) -> None:
    names = ("messages_received_text", "messages_received_binary", "bytes_received")

    async def counts() -> list[int]:
        counters = (await server.ask("GET", "statistics"))["counters"]
        return [counters[name] for name in names]

    async with server.connected(f"{way}/{client_id}") as client:
        before = await counts()
        assert await client.say("grüße") == "grüße"
        client.send(Frame(Op.BINARY, b"\x00" * 3, fin=False), Frame(Op.CONT, b"\xff" * 2000))
        assert len(await client.message()) == 2003
        after = await counts()
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 7 + 2003]


@pytest.mark.parametrize("length", [125, 126, 127, 65_535, 65_536])
async def test_every_form_of_the_length_is_read_and_written(server: Server, length: int) -> None:
    async with server.connected(f"parked/length-{length}") as client:
        assert await client.say("x" * length) == "x" * length


async def test_fragments_are_one_message(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(*FRAGMENTED)
        assert await client.message() == "one and two"
        client.send(Frame(Op.BINARY, b"", fin=False), Frame(Op.CONT, b"\xff", fin=False), Frame(Op.CONT, b""))
        assert await client.message() == b"\xff"
        client.send(Frame(Op.TEXT, b"", fin=False), Frame(Op.CONT, b""))
        assert await client.message() == ""


async def test_character_may_be_cut_by_a_fragment(server: Server, way: str, client_id: str) -> None:
    content = "€𝄞".encode()
    pieces = [Frame(Op.CONT, content[index : index + 1], fin=False) for index in range(len(content))]
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.TEXT, b"", fin=False), *pieces, Frame(Op.CONT))
        assert await client.message() == "€𝄞"


async def test_megabyte_in_fragments_is_echoed(server: Server, way: str, client_id: str) -> None:
    content = bytes(range(256)) * 4096
    pieces = [content[start : start + 65_536] for start in range(0, MIB, 65_536)]
    first, *others, last = pieces
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.BINARY, first, fin=False))
        client.send(*(Frame(Op.CONT, piece, fin=False) for piece in others), Frame(Op.CONT, last))
        assert await client.message() == content


async def test_ping_between_fragments_is_answered_at_once(server: Server, way: str, client_id: str) -> None:
    first, *others = FRAGMENTED
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(first, Frame(Op.PING, b"now"))
        assert await client.frame() == Frame(Op.PONG, b"now", mask=None)
        client.send(*others)
        assert await client.message() == "one and two"


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(125))], ids=len)
async def test_pong_carries_the_payload_of_its_ping(
    server: Server, way: str, client_id: str, payload: bytes
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.PING, payload))
        assert await client.frame() == Frame(Op.PONG, payload, mask=None)


async def test_unasked_pong_is_no_message(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.PONG, b"unasked"), Frame(Op.PONG))
        assert await client.say("still here") == "still here"


async def test_messages_of_one_segment_are_echoed_in_order(server: Server, way: str, client_id: str) -> None:
    numbers = [str(number) for number in range(200)]
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(*map(text, numbers))
        assert [await client.message() for _ in numbers] == numbers


async def test_messages_cut_into_bytes_are_echoed(server: Server, way: str, client_id: str) -> None:
    stream = b"".join(frame.encode() for frame in (text("grüße"), *FRAGMENTED, text("x" * 200)))
    async with server.connected(f"{way}/{client_id}") as client:
        await client.write_pieces([stream[index : index + 1] for index in range(len(stream))])
        assert [await client.message() for _ in range(3)] == ["grüße", "one and two", "x" * 200]


async def test_segments_may_end_anywhere(server: Server, way: str, client_id: str) -> None:
    contents = [str(number) * 40 for number in range(100)]
    stream = b"".join(text(content).encode() for content in contents)
    pieces = [stream[start : start + 97] for start in range(0, len(stream), 97)]
    async with server.connected(f"{way}/{client_id}") as client:
        await client.write_pieces(pieces)
        assert [await client.message() for _ in contents] == contents


async def test_mask_of_zeros_is_a_mask(server: Server, way: str, client_id: str) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(Frame(Op.TEXT, b"plain", mask=bytes(4)))
        assert await client.message() == "plain"


async def test_server_never_fragments_nor_sets_bits_that_were_not_agreed_on(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"{way}/{client_id}") as client:
        client.send(text("x" * MIB))
        frame = await client.frame()
    assert frame is not None
    assert (frame.fin, frame.rsv, frame.opcode) == (True, 0, Op.TEXT)


async def test_messages_before_a_close_reach_the_application(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connected(f"sink-{way}/{client_id}") as client:
        client.send(text("one"), text("two"), close(1000, b"done"))
        assert await client.ending() == (1000, "done")
    await server.left(client_id)
    assert await server.received(client_id) == 2
