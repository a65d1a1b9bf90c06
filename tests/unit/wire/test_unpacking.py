"""Bytes of strangers: what they may ask for is bounded before anything is built of them."""

import tracemalloc

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.exceptions import MessageError, WireError
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind, pack, unpack
from fastapi_websocket_stabilizer.wire.unpacking import (
    LARGE_BYTES,
    MAX_DEPTH,
    MAX_ITEMS,
    SMALL_BYTES,
    check,
    load,
)

MIB = 1024 * 1024
ARRAY_16, ARRAY_32 = b"\xdc", b"\xdd"


def array(length: int) -> bytes:
    return ARRAY_32 + length.to_bytes(4)


BOMBS = {
    "arrays that say they are long, in one another, small": (ARRAY_16 + b"\x0f\xff") * 1000 + b"\xc0" * 1000,
    "the same with a megabyte": array(MIB) * 1000 + b"\xc0" * MIB,
    "the same, short of a megabyte": array(900_000) * 1000 + b"\xc0" * (LARGE_BYTES - 6000),
    "the same at the limit of envelopes": array(16_000_000) * 1000 + b"\xc0" * (16 * MIB - 6000),
    "arrays in one another": b"\x91" * 16 * MIB,
    "one array of nothing": array(16 * MIB - 5) + b"\xc0" * (16 * MIB - 5),
    "one array of arrays": array(8 * MIB - 5) + b"\x91\xc0" * (8 * MIB - 5),
    "one array of empty maps": array(16 * MIB - 5) + b"\x80" * (16 * MIB - 5),
    "one map": b"\xdf" + MIB.to_bytes(4) + b"\xa1a\xc0" * MIB,
    "extension types": array(MIB) + b"\xd4\x05\x00" * MIB,
    "timestamps": array(MIB) + b"\xd6\xff\x00\x00\x00\x00" * MIB,
    "a string that says it is long": b"\xdb\xff\xff\xff\xff" + b"x" * MIB,
    "an array that says it is long": array(2**32 - 1),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_no_bytes_take_much_more_memory_than_their_own(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 48 * MIB
    finally:
        tracemalloc.stop()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=40)
    | st.binary(max_size=40)
    | st.sampled_from([b"x" * 300, "x" * 300, b"x" * 70_000, "x" * 70_000]),
    lambda inner: st.lists(inner, max_size=20).map(tuple),
    max_leaves=20,
)


def depth(value: object) -> int:
    return 1 + max(map(depth, value), default=0) if isinstance(value, tuple) else 0


@given(values)
def test_structure_of_plain_values_that_are_not_deep_is_accepted(value: object) -> None:
    data: bytes = msgpack.packb(value)
    if depth(value) <= MAX_DEPTH:
        check(data)
        assert load(data) == value
    else:
        with pytest.raises(WireError, match="in one another"):
            check(data)


@pytest.mark.parametrize("size", [SMALL_BYTES, LARGE_BYTES])
@given(values)
def test_large_values_are_read(size: int, value: object) -> None:
    assume(depth(value) < MAX_DEPTH)
    assert load(msgpack.packb((value, b"\xdc" * size)))[0] == value


@pytest.mark.parametrize("names", [SMALL_BYTES, SMALL_BYTES + 1, 100_000])
def test_envelope_with_many_names_is_read(names: int) -> None:
    envelope = Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, exclude=("a",) * names)
    assert unpack(pack(envelope)) == envelope


def test_most_names_that_an_envelope_can_have_are_sent_and_read_and_one_more_is_not_sent() -> None:
    most = MAX_ITEMS - 13  # the envelope and its other slots
    envelope = Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, exclude=("alice",) * most)
    assert unpack(pack(envelope)) == envelope
    with pytest.raises(MessageError, match="too many names"):
        pack(Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, exclude=("alice",) * (most + 1)))


@pytest.mark.parametrize("size", [SMALL_BYTES + 1, LARGE_BYTES + 1])
@given(cut=st.integers(0, 40))
def test_large_bytes_that_end_too_soon_are_a_wire_error(size: int, cut: int) -> None:
    data: bytes = msgpack.packb([1, ["a", 2.5, 2**40], b"\xdc" * size, "end"])
    for end in (cut, len(data) - 1 - cut):
        with pytest.raises(WireError):
            load(data[:end] if end > SMALL_BYTES else data[:end] + b"\xc1" * SMALL_BYTES)


@given(st.binary(min_size=1, max_size=64))
def test_check_of_any_bytes_ends(data: bytes) -> None:
    try:
        check(data)
    except WireError:
        return
