"""Frames as RFC 6455 and RFC 7692 write them, checked with the decoder of another library."""

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from fastapi_websocket_stabilizer.wire import frames
from fastapi_websocket_stabilizer.wire.messages import encode

LIMIT = 1 << 21


def parse(data: bytes, window_bits: int = 0) -> Frame:
    """Read one frame as a client does."""
    position = 0

    def read(size: int) -> Generator[None, None, bytes]:
        nonlocal position
        position += size
        yield from ()
        return data[position - size : position]

    extensions = []
    if window_bits:
        extensions = [PerMessageDeflate(True, True, window_bits, window_bits)]
    reading = Frame.parse(read, mask=False, extensions=extensions)
    with pytest.raises(StopIteration) as stop:
        next(reading)
    assert position == len(data)
    frame: Frame = stop.value.value
    return frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20])
def test_length_is_written_in_the_shortest_form(size: int) -> None:
    written = frames.frame(frames.BINARY, b"x" * size)
    assert len(written) - size == (2 if size < 126 else 4 if size < 65_536 else 10)
    assert parse(written) == Frame(Opcode.BINARY, b"x" * size)


@given(st.one_of(st.text(max_size=3000), st.binary(max_size=3000)), st.sampled_from([0, 9, 12, 15]))
def test_client_reads_what_was_sent(message: Any, window_bits: int) -> None:
    frame = parse(encode(message, LIMIT).frame(window_bits), window_bits)
    if isinstance(message, str):
        assert (frame.opcode, bytes(frame.data).decode()) == (Opcode.TEXT, message)
    else:
        assert (frame.opcode, bytes(frame.data)) == (Opcode.BINARY, message)


@pytest.mark.parametrize(("size", "is_compressed"), [(1023, False), (1024, True)])
def test_only_long_messages_are_compressed(size: int, is_compressed: bool) -> None:
    written = encode("x" * size, LIMIT).frame(12)
    assert (len(written) < size, bool(written[0] & 0x40)) == (is_compressed, is_compressed)


def test_frame_is_made_once_for_each_window() -> None:
    encoded = encode("x" * 2000, LIMIT)
    assert encoded.frame(12) is encoded.frame(12)
    assert len({encoded.frame(0), encoded.frame(9), encoded.frame(12)}) >= 2


def test_each_compressed_message_stands_alone() -> None:
    """No context takeover: the second frame can be read by a socket that never got the first."""
    first, second = encode("abc" * 1000, LIMIT), encode("abc" * 1000, LIMIT)
    assert first.frame(12) == second.frame(12)
