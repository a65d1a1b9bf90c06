"""Envelopes: nothing but the named errors comes out, and what goes in comes back."""

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.exceptions import InvalidNameError, MessageError, WireError
from fastapi_websocket_stabilizer.names import NodeId, check_client_id
from fastapi_websocket_stabilizer.wire.envelopes import (
    CONNECTION,
    ENTRY_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_PART_BYTES,
    OLDEST_READER,
    VERSION,
    Envelope,
    Kind,
    Part,
    pack,
    pack_before_parts,
    pack_message,
    part_size,
    unpack,
    with_entry,
    without_entry,
)
from fastapi_websocket_stabilizer.wire.messages import Encoded, Form, encode
from tests.unit.strategies import legal_names

LIMIT = 1 << 20
unicode = st.text(st.characters(codec="utf-8"), max_size=50)
numbers = st.integers(0, 2**63)
places = st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1))
"""Ids of an entry and of the one before it."""
name_lists = st.lists(legal_names, max_size=3).map(tuple)
bodies = st.one_of(
    st.tuples(st.sampled_from([Form.TEXT, Form.JSON]), unicode),
    st.tuples(st.just(Form.BINARY), st.binary(max_size=50)),
)


traces = st.just(b"") | st.binary(min_size=25, max_size=25)
"""Contexts of the sender's span."""
parts = st.lists(
    st.builds(
        lambda targets, body, ask, trace: Part(targets, body[0], body[1], ask, trace),
        st.lists(legal_names, max_size=3),
        bodies,
        numbers,
        traces,
    ),
    max_size=3,
).map(tuple)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    form, body = draw(bodies)
    sender = NodeId(draw(legal_names))
    kind, targets, exclude = draw(st.sampled_from(Kind)), draw(name_lists), draw(name_lists)
    head = sender, draw(numbers), draw(numbers), kind, targets, exclude, form, body, draw(numbers)
    return Envelope(*head, parts=draw(parts), entry=draw(st.none() | places), trace=draw(traces))


@given(envelopes())
def test_envelope_comes_back_as_it_was(envelope: Envelope) -> None:
    assert unpack(pack(envelope)) == envelope


@given(envelopes())
def test_envelope_whose_parts_are_put_together_elsewhere_is_the_same(envelope: Envelope) -> None:
    items = [item for part in envelope.parts for item in (pack_message(part), *map(packed, part.targets))]
    data = pack_before_parts(envelope) + b"\xdd" + len(items).to_bytes(4) + b"".join(items)
    assert unpack(data) == replace(envelope, entry=None, trace=b"")


@given(envelopes(), places)
def test_envelope_that_redis_gives_a_place_is_the_one_that_is_packed_with_it(
    envelope: Envelope, place: tuple[int, int]
) -> None:
    entry, previous = place
    data = pack(replace(envelope, entry=None))
    placed = with_entry(data, entry, previous)
    assert placed == pack(replace(envelope, entry=(entry, previous)))
    assert len(placed) <= len(data) + ENTRY_BYTES
    assert without_entry(data) == data


def test_release_before_logs_reads_a_placed_envelope_without_its_place() -> None:
    placed = pack(Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, body="x", entry=(2**52, 1)))
    assert msgpack.unpackb(placed) == [1, 1, "n", 1, 0, 0, [], [], 0, "x", 0, [], [2**52, 1]]


def packed(name: str) -> bytes:
    """As ``clients_publish.lua`` does it."""
    return b"\xda" + len(name.encode()).to_bytes(2) + name.encode()


@given(st.builds(Part, st.lists(legal_names, max_size=3), st.just(Form.TEXT), unicode, numbers, traces))
def test_size_of_a_part_is_never_below_its_bytes(part: Part) -> None:
    took = len(pack_message(part)) + sum(len(packed(name)) for name in part.targets)
    assert took <= part_size(part.message(), part.targets) <= took + 20


def test_part_that_fits_no_envelope_is_a_message_error() -> None:
    message = Encoded(Form.TEXT, "", MAX_PART_BYTES)
    with pytest.raises(MessageError, match="the limit is"):
        part_size(message, ["alice"])


@given(envelopes())
def test_message_of_an_envelope_is_the_one_that_was_packed(envelope: Envelope) -> None:
    message = unpack(pack(envelope)).message()
    body = envelope.body if isinstance(envelope.body, bytes) else envelope.body.encode()
    assert (message.form, message.payload, message.size) == (envelope.form, envelope.body, len(body))


def test_envelope_that_stayed_here_gives_the_very_message() -> None:
    message = encode({"a": 1}, LIMIT)
    envelope = Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, body="", encoded=message)
    assert envelope.message() is message


packable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | unicode
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(unicode, inner, max_size=3),
    max_leaves=30,
)


@st.composite
def almost_envelopes(draw: st.DrawFn) -> bytes:
    """One slot of another type, one slot more or less, or one byte changed."""
    row = list(msgpack.unpackb(pack(draw(envelopes()))))
    slot = draw(st.integers(0, len(row) - 1))
    row[slot : slot + draw(st.integers(0, 1))] = draw(st.lists(packable, max_size=2))
    data = bytearray(msgpack.packb(row))
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@given(st.binary() | packable.map(msgpack.packb) | almost_envelopes())
@example(msgpack.packb([1, 1, "n", 1, 0, 0, [], [], 0, "", 0, []]))
@example(msgpack.packb([1, 1, "n", 1, 0, {}, [], [], 0, "", 0, []]))
@example(msgpack.packb([1, 1, "n", 1, 0, 0, None, [], 0, "", 0, []]))
@example(msgpack.packb([1, 1, "n", 1, 0, 1, [], [], 0, "", 0, [[0, "x", 0], "a", [], "b"]]))
@example(b"\xc7\x05\xff\x00\x00\x00\x00\x00")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x91" * 100_000)
def test_any_bytes_are_an_envelope_or_a_wire_error(data: bytes) -> None:
    try:
        envelope = unpack(data)
    except WireError:
        return
    assert all(isinstance(name, str) for name in (envelope.sender, *envelope.targets, *envelope.exclude))
    assert all(isinstance(n, int) for n in (envelope.sequence, envelope.previous, envelope.ask))
    assert isinstance(envelope.kind, Kind)
    assert isinstance(envelope.body, bytes if envelope.form is Form.BINARY else str)
    assert envelope.message().size >= len(envelope.body)
    for part in envelope.parts:
        assert all(isinstance(name, str) for name in part.targets)
        assert isinstance(part.ask, int)
        assert isinstance(part.body, bytes if part.form is Form.BINARY else str)


def row(**changes: Any) -> bytes:
    slots: dict[str, Any] = {
        "version": VERSION, "oldest_reader": OLDEST_READER, "sender": "n", "sequence": 1, "previous": 0,
        "kind": 0, "targets": [], "exclude": [], "form": 0, "body": "x", "ask": 0, "parts": [],
    }  # fmt: skip
    data: bytes = msgpack.packb(list((slots | changes).values()))
    return data


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1"},
        {"oldest_reader": None},
        {"sender": b"n"},
        {"sequence": "1"},
        {"previous": None},
        {"kind": 99},
        {"targets": "abc"},
        {"targets": [1]},
        {"exclude": {"a": 1}},
        {"exclude": [None]},
        {"form": 3},
        {"body": b"x"},
        {"form": 1},
        {"ask": 1.5},
        {"parts": None},
        {"parts": "abc"},
        {"parts": {"a": 1}},
        {"parts": ["alice"]},
        {"parts": [[0, "x", 0], 7]},
        {"parts": [[0, "x"]]},
        {"parts": [[3, "x", 0]]},
        {"parts": [[-1, "x", 0]]},
        {"parts": [["0", "x", 0]]},
        {"parts": [[1, "x", 0]]},
        {"parts": [[0, "x", "0"]]},
        {"entry": 7},
        {"entry": [1]},
        {"entry": [1, "2"]},
        {"entry": [1, True]},
        {"entry": [1, 2, 3]},
        {"entry": [1, -1]},
        {"entry": [-1, -1]},
        {"entry": [2**53, 1]},
    ],
)
def test_slot_of_a_wrong_type_is_a_wire_error(changes: dict[str, Any]) -> None:
    assert unpack(row()).body == "x"
    with pytest.raises(WireError):
        unpack(row(**changes))


def test_newer_envelope_that_we_can_read_is_read_without_its_new_slots() -> None:
    data = row(version=VERSION + 5, ask=7, entry=None, trace="t")
    assert unpack(data).ask == 7


def test_envelope_for_newer_readers_is_a_wire_error() -> None:
    with pytest.raises(WireError, match=f"needs a reader of version {VERSION + 1}"):
        unpack(row(version=VERSION + 1, oldest_reader=VERSION + 1))


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"a": 1}), row() + b"\x00", row()[:-1]]
)
def test_malformed_bytes_are_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)


def test_envelope_over_the_limit_is_neither_sent_nor_read() -> None:
    with pytest.raises(MessageError, match="the limit is"):
        pack(Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, body="x" * MAX_ENVELOPE_BYTES))
    with pytest.raises(WireError, match="the limit is"):
        unpack(bytes(MAX_ENVELOPE_BYTES + 1))


def test_exclusion_of_a_connection_is_a_name_that_no_client_can_have() -> None:
    """A release that knows no such exclusion reads it as a client that is not there."""
    with pytest.raises(InvalidNameError):
        check_client_id(CONNECTION + "node.1")
    envelope = Envelope(NodeId("node"), 1, 0, Kind.BROADCAST, exclude=(CONNECTION + "node.1",))
    assert unpack(pack(envelope)).exclude == (CONNECTION + "node.1",)


@pytest.mark.parametrize("trace", [b"", b"x" * 24, b"x" * 26, b"x" * 100_000, "text", 7, ()])
def test_trace_context_of_another_form_is_not_kept(trace: Any) -> None:
    row = [
        1,
        1,
        "n",
        1,
        0,
        int(Kind.DIRECT),
        [],
        [],
        0,
        "",
        0,
        [[0, "x", 0, None, None, trace], "a"],
        None,
        trace,
        b"",
    ]
    found = unpack(msgpack.packb(row))
    assert (found.trace, found.parts) == (b"", (Part(["a"], Form.TEXT, "x"),))
