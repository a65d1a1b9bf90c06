"""The rules of RFC 6455 and RFC 7692, byte by byte: tests/vectors/rfc6455.json."""

import pytest

from tests.wire.raw import Frame, Op, RawClient, close, closing
from tests.wire.servers import Server
from tests.wire.vectors import Vector, load_vectors

OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
PATHS = ("raw", "loop", "parked")
"""A socket that no manager knows, a registered one, and a parked one."""
CONVERSATIONS = [
    pytest.param(path, vector, id=f"{path}-{vector.name}")
    for vector in load_vectors()
    for path in PATHS
    if not (vector.managed and path == "raw")
]


@pytest.mark.parametrize(("path", "vector"), CONVERSATIONS)
async def test_conversation_gets_its_recorded_answer(
    server: Server, path: str, client_id: str, vector: Vector
) -> None:
    for _ in range(5):
        async with server.connected(f"{path}/{client_id}", OFFER if vector.deflate else None) as client:
            try:
                await client.write_pieces(vector.send)
            except ConnectionError:
                assert vector.close
                continue  # refused before all was written: the kernel drops the close frame as well
            messages, pongs, code = await answers(client, vector)
            break
    else:
        pytest.fail("the server reset five connections")
    assert pongs == vector.pongs
    if not vector.close:
        assert (messages, code) == (vector.messages, 1000)
    else:
        assert code in vector.close
        assert messages == vector.messages[: len(messages)]


async def answers(
    client: RawClient, vector: Vector
) -> tuple[tuple[str | bytes, ...], tuple[bytes, ...], int]:
    """Return the messages and the pongs that came back, and the code of the close frame, 1006 if there was none."""
    messages: list[str | bytes] = []
    pongs: list[bytes] = []
    code = 1006
    has_closed = bool(vector.close)
    while True:
        if not has_closed and len(messages) + len(pongs) >= len(vector.messages) + len(vector.pongs):
            client.send(close(1000))
            has_closed = True
        frame = await client.frame()
        if frame is None:
            return tuple(messages), tuple(pongs), code
        assert code == 1006, "a frame behind the close frame"
        if frame.opcode == Op.CLOSE:
            code = closing(frame)[0]
            client.send(Frame(Op.CLOSE, frame.payload))
        elif frame.opcode == Op.PONG:
            pongs.append(frame.payload)
        else:
            messages.append(client.decode(frame))
