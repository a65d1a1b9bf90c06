"""Bytes <-> values: nothing but the named errors comes out, and what goes in comes back."""

import enum
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, field_serializer

from fastapi_websocket_stabilizer.exceptions import InvalidNameError, MessageError, WireError
from fastapi_websocket_stabilizer.names import NodeId, check_client_id
from fastapi_websocket_stabilizer.wire import (
    CONNECTION,
    MAX_ENVELOPE_BYTES,
    MAX_PART_BYTES,
    OLDEST_READER,
    VERSION,
    Encoded,
    Envelope,
    Form,
    Kind,
    Part,
    encode,
    encode_json,
    pack,
    pack_before_parts,
    pack_message,
    part_size,
    unpack,
)
from tests.unit.strategies import legal_names

LIMIT = 1 << 20


class Person(BaseModel):
    name: str
    since: datetime | None = None


class Color(enum.Enum):
    RED = "red"


class Hostile:
    """Fails when it is looked at."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("no items")


class HostileModel(BaseModel):
    name: str = "a"

    @field_serializer("name")
    def _fail(self, name: str) -> str:
        raise KeyError(name)


def failing() -> Iterator[int]:
    yield 1
    raise LookupError("no more items")


def is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:  # a model, and a signalling NaN
        return False
    return True


def endless() -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def deep(levels: int = 100_000) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


unicode = st.text(st.characters(codec="utf-8"), max_size=50)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | unicode,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(unicode, inner, max_size=4),
    max_leaves=12,
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=20),  # lone surrogates too
    st.binary(max_size=20),
    st.complex_numbers(),
    st.datetimes(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(),
    st.sampled_from(
        [
            Color.RED,
            Color,
            object(),
            len,
            Exception("x"),
            Hostile(),
            HostileModel(),
            Person(name="a"),
            range(3),
            ...,
        ]
    ),
)
keys = leaves.filter(is_hashable)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(iter, st.lists(inner, max_size=2)),
        st.builds(bytearray, st.binary(max_size=4)),
    ),
    max_leaves=10,
)


@given(unicode)
def test_text_keeps_its_characters_and_counts_their_utf_8(text: str) -> None:
    encoded = encode(text, LIMIT)
    assert encoded.asgi == {"type": "websocket.send", "text": text}
    assert (encoded.form, encoded.payload, encoded.size) == (Form.TEXT, text, len(text.encode()))


@given(st.binary())
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_binary_keeps_its_bytes(kind: Any, data: bytes) -> None:
    encoded = encode(kind(data), LIMIT)
    assert encoded.asgi == {"type": "websocket.send", "bytes": data}
    assert (encoded.form, encoded.payload, encoded.size) == (Form.BINARY, data, len(data))


@given(st.lists(json_values, max_size=4) | st.dictionaries(unicode, json_values, max_size=4))
def test_json_decodes_to_what_was_encoded(value: Any) -> None:
    encoded = encode(value, LIMIT)
    assert isinstance(encoded.payload, str)
    assert (json.loads(encoded.payload), encoded.value) == (value, value)
    assert (encoded.form, encoded.size) == (Form.JSON, len(encoded.payload.encode()))


@given(anything)
@example([endless()])
@example({"a": Hostile()})
@example(HostileModel())
@example(["\ud800"])
@example({("a", "b"): 1})
def test_any_object_is_encoded_or_a_message_error(value: Any) -> None:
    for message in (value, [value], {"key": value}):
        try:
            encoded = encode(message, LIMIT)
        except MessageError:
            continue
        payload = encoded.payload
        assert encoded.size == len(payload if isinstance(payload, bytes) else payload.encode())


def test_error_of_an_object_while_it_is_encoded_is_a_message_error() -> None:
    with pytest.raises(MessageError, match="cannot be encoded as JSON"):
        encode({"items": failing()}, LIMIT)


def test_deeply_nested_message_is_a_message_error() -> None:
    with pytest.raises(MessageError, match="cannot be encoded as JSON"):
        encode(deep(), LIMIT)


def test_datetimes_uuids_enums_and_models_are_json() -> None:
    at = datetime(2030, 1, 2, tzinfo=UTC)
    message = {
        "at": at,
        "id": UUID(int=1),
        "color": Color.RED,
        "person": Person(name="a"),
        "in": timedelta(1),
    }
    assert json.loads(encode(message, LIMIT).payload) == {
        "at": "2030-01-02T00:00:00Z",
        "id": "00000000-0000-0000-0000-000000000001",
        "color": "red",
        "person": {"name": "a", "since": None},
        "in": "P1D",
    }


def test_model_is_json_and_its_value_is_plain() -> None:
    encoded = encode(Person(name="a"), LIMIT)
    assert (encoded.form, encoded.value) == (Form.JSON, {"name": "a", "since": None})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_number_that_json_lacks_becomes_null(value: float) -> None:
    assert encode([value], LIMIT).payload == "[null]"


@pytest.mark.parametrize(
    ("value", "payload"),
    [([{7}], "[[7]]"), ({4: 1}, '{"4":1}'), ({(1, 2): 3}, '{"1,2":3}'), ([("a",)], '[["a"]]')],
)
def test_set_and_tuple_become_lists_and_a_key_becomes_a_string(value: Any, payload: str) -> None:
    assert encode(value, LIMIT).payload == payload


@pytest.mark.parametrize("value", [None, 7, 1.5, ("a",), {"a"}, object()])
def test_other_type_is_refused_by_name(value: Any) -> None:
    with pytest.raises(MessageError, match=f"got {type(value).__name__}$"):
        encode(value, LIMIT)


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(MessageError, match="not valid Unicode"):
        encode("\ud800", LIMIT)


@pytest.mark.parametrize("message", ["éé", b"1234", ["é"]])
def test_limit_counts_bytes(message: Any) -> None:
    size = encode(message, LIMIT).size
    assert encode(message, size).size == size
    with pytest.raises(MessageError, match=f"has {size} bytes, max_message_size is {size - 1}"):
        encode(message, size - 1)


def test_json_error_names_what_could_not_be_encoded() -> None:
    with pytest.raises(MessageError, match=r"^metadata cannot be encoded as JSON"):
        encode_json({"a": object()}, "metadata")


# Envelopes


numbers = st.integers(0, 2**63)
name_lists = st.lists(legal_names, max_size=3).map(tuple)
bodies = st.one_of(
    st.tuples(st.sampled_from([Form.TEXT, Form.JSON]), unicode),
    st.tuples(st.just(Form.BINARY), st.binary(max_size=50)),
)


parts = st.lists(
    st.builds(
        lambda targets, body, ask: Part(targets, body[0], body[1], ask),
        st.lists(legal_names, max_size=3),
        bodies,
        numbers,
    ),
    max_size=3,
).map(tuple)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    form, body = draw(bodies)
    sender = NodeId(draw(legal_names))
    kind, targets, exclude = draw(st.sampled_from(Kind)), draw(name_lists), draw(name_lists)
    head = sender, draw(numbers), draw(numbers), kind, targets, exclude, form, body, draw(numbers)
    return Envelope(*head, parts=draw(parts))


@given(envelopes())
def test_envelope_comes_back_as_it_was(envelope: Envelope) -> None:
    assert unpack(pack(envelope)) == envelope


@given(envelopes())
def test_envelope_whose_parts_are_put_together_elsewhere_is_the_same(envelope: Envelope) -> None:
    items = [item for part in envelope.parts for item in (pack_message(part), *map(packed, part.targets))]
    data = pack_before_parts(envelope) + b"\xdd" + len(items).to_bytes(4) + b"".join(items)
    assert unpack(data) == envelope


def packed(name: str) -> bytes:
    """As ``clients_publish.lua`` does it."""
    return b"\xda" + len(name.encode()).to_bytes(2) + name.encode()


@given(st.builds(Part, st.lists(legal_names, max_size=3), st.just(Form.TEXT), unicode, numbers))
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
    ],
)
def test_slot_of_a_wrong_type_is_a_wire_error(changes: dict[str, Any]) -> None:
    assert unpack(row()).body == "x"
    with pytest.raises(WireError):
        unpack(row(**changes))


def test_newer_envelope_that_we_can_read_is_read_without_its_new_slots() -> None:
    data = row(version=VERSION + 5, ask=7, epoch=["e", 1], trace="t")
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


def test_encoded_message_decodes_its_value_once() -> None:
    encoded = Encoded(Form.JSON, '{"a": 1}', 8)
    assert encoded.value is encoded.value


def test_exclusion_of_a_connection_is_a_name_that_no_client_can_have() -> None:
    """A release that knows no such exclusion reads it as a client that is not there."""
    with pytest.raises(InvalidNameError):
        check_client_id(CONNECTION + "node.1")
    envelope = Envelope(NodeId("node"), 1, 0, Kind.BROADCAST, exclude=(CONNECTION + "node.1",))
    assert unpack(pack(envelope)).exclude == (CONNECTION + "node.1",)
