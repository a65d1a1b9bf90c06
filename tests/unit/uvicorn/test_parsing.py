"""Compressed frames are inflated in slices, whatever their size."""

import random
import zlib

import pytest
from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode

from fastapi_websocket_stabilizer.uvicorn.parsing import SLICE_BYTES, SlicedDeflate

CONTENTS = {
    "empty": b"",
    "one byte": b"x",
    "almost a slice": bytes(SLICE_BYTES - 1),
    "a slice": bytes(SLICE_BYTES),
    "a slice and a byte": bytes(SLICE_BYTES + 1),
    "many slices": bytes(range(256)) * 4096,
    "incompressible": random.Random(1).randbytes(5 * SLICE_BYTES),
}

contents = pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)


def deflated(content: bytes) -> bytes:
    pack = zlib.compressobj(wbits=-12)
    return (pack.compress(content) + pack.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def inflated(deflate: SlicedDeflate, frame: Frame) -> bytes:
    """Return the content of a frame, of which no slice is too long."""
    slices = [bytes(deflate.decode(frame).data)]
    while deflate.has_more:
        slices.append(deflate.inflate())
    assert max(map(len, slices)) <= SLICE_BYTES
    return b"".join(slices)


@pytest.fixture
def deflate() -> SlicedDeflate:
    return SlicedDeflate(True, True, 12, 12)


@contents
def test_frame_is_inflated_in_slices(deflate: SlicedDeflate, content: bytes) -> None:
    for _ in range(2):
        frame = Frame(Opcode.BINARY, deflated(content), rsv1=True)
        assert inflated(deflate, frame) == content


@contents
def test_fragments_are_inflated_in_slices(deflate: SlicedDeflate, content: bytes) -> None:
    data = deflated(content)
    middle = len(data) // 2
    first = Frame(Opcode.BINARY, data[:middle], fin=False, rsv1=True)
    last = Frame(Opcode.CONT, data[middle:])
    assert inflated(deflate, first) + inflated(deflate, last) == content


def test_uncompressed_frame_stays_as_it_is(deflate: SlicedDeflate) -> None:
    for frame in (Frame(Opcode.TEXT, b"plain"), Frame(Opcode.CONT, b"plain"), Frame(Opcode.PING, b"plain")):
        assert deflate.decode(frame) is frame
        assert frame.data == b"plain"
        assert not deflate.has_more


def test_error_behind_the_first_slice_is_found(deflate: SlicedDeflate) -> None:
    frame = Frame(Opcode.BINARY, deflated(bytes(2 * SLICE_BYTES)) + b"\xff" * 9, rsv1=True)
    with pytest.raises(ProtocolError, match="decompression failed"):
        inflated(deflate, frame)
    assert deflate.has_more


def test_compressed_continuation_is_an_error(deflate: SlicedDeflate) -> None:
    deflate.decode(Frame(Opcode.TEXT, deflated(b"one"), fin=False, rsv1=True))
    with pytest.raises(ProtocolError, match="RSV1"):
        deflate.decode(Frame(Opcode.CONT, deflated(b"two"), rsv1=True))
