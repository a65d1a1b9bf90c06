"""Messages: nothing but the named error comes out, and what goes in comes back."""

import enum
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, field_serializer

from fastapi_websocket_stabilizer.exceptions import MessageError
from fastapi_websocket_stabilizer.wire import frames
from fastapi_websocket_stabilizer.wire.messages import (
    WITH_ADDRESS,
    Address,
    ControlFrame,
    Encoded,
    Form,
    Series,
    encode,
)
from fastapi_websocket_stabilizer.wire.own_json import encode_json

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


def test_encoded_message_decodes_its_value_once() -> None:
    encoded = Encoded(Form.JSON, '{"a": 1}', 8)
    assert encoded.value is encoded.value


# Addresses


def test_message_without_an_address_is_to_the_client_and_volatile() -> None:
    message = encode({"a": 1}, LIMIT)
    assert message.asgi_with_address == {"type": "websocket.send", "text": '[0,0,{"a":1}]'}
    assert message.frame(WITH_ADDRESS) == frames.frame(frames.TEXT, b'[0,0,{"a":1}]')


def test_addressed_message_shares_the_frames_without_an_address() -> None:
    message = encode("x" * 2000, LIMIT)
    first = message.addressed(Address("lobby"))
    second = first.addressed(Address("chat", 7))
    assert second.frame(0) is first.frame(0) is message.frame(0)
    assert second.frame(12) is first.frame(12) is message.frame(12)
    assert second.asgi is first.asgi is message.asgi
    assert message.asgi == {"type": "websocket.send", "text": "x" * 2000}
    assert (first.size, first.payload, first.form) == (message.size, message.payload, message.form)


@pytest.mark.parametrize("window_bits", [0, 9, 12])
@pytest.mark.parametrize("size", [0, 1, frames.COMPRESS_FROM_BYTES, 4000])
def test_frame_with_an_address_is_made_once_for_each_window(size: int, window_bits: int) -> None:
    message = encode("x" * size, LIMIT).addressed(Address("lobby", 17))
    frame = message.frame(WITH_ADDRESS + window_bits)
    assert message.frame(WITH_ADDRESS + window_bits) is frame
    text = f'[17,"lobby","{"x" * size}"]'.encode()
    if window_bits and len(text) >= frames.COMPRESS_FROM_BYTES:
        expected = frames.frame(frames.TEXT, frames.deflate(text, window_bits), compressed=True)
    else:
        expected = frames.frame(frames.TEXT, text)
    assert frame == expected
    assert message.asgi_with_address is message.asgi_with_address


def test_control_frame_has_no_address() -> None:
    frame = ControlFrame('{"live":0}')
    assert frame.frame(WITH_ADDRESS) == frames.frame(frames.TEXT, b'{"live":0}')
    assert frame.asgi_with_address == frame.asgi


# Series


@pytest.mark.parametrize("window_bits", [0, 12, WITH_ADDRESS, WITH_ADDRESS + 12])
def test_frames_of_a_series_are_those_of_its_messages_and_are_joined_once(window_bits: int) -> None:
    messages = [encode("x" * size, LIMIT).addressed(Address("lobby", size)) for size in (1, 2000)]
    series = Series(messages)
    assert series.frame(window_bits) == b"".join(message.frame(window_bits) for message in messages)
    assert series.frame(window_bits) is series.frame(window_bits)
    assert series.size == 2001
