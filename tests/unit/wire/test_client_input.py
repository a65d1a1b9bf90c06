"""Frames of clients: the vectors are read as recorded, and nothing but the named error comes out."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.exceptions import ClientInputError
from fastapi_websocket_stabilizer.wire import client_input, foreign_json
from fastapi_websocket_stabilizer.wire.client_input import ClientFrame, Message, Renewal, Unknown, parse
from fastapi_websocket_stabilizer.wire.cursors import Cursor
from tests.support.protocol_vectors import data_of, vectors

FRAMES, MALFORMED = vectors("client_frames.json"), vectors("client_malformed.json")
CODES = {"size", "json", "depth", "number", "frame", "field", "name", "cursor"}
READABLE = [data_of(vector.values[0]) for vector in FRAMES]


@pytest.mark.parametrize("vector", FRAMES)
def test_frame_is_read_as_recorded(vector: dict[str, Any]) -> None:
    assert parse(data_of(vector)) == expected(vector["frame"], vector.get("ignored", 0))


def expected(frame: dict[str, Any], ignored: int) -> ClientFrame:
    values: dict[str, Any] = dict(frame)
    kind = "".join(word.title() for word in values.pop("kind").split("_"))
    if "bytes" in values:
        values["data"] = bytes.fromhex(values.pop("bytes"))
    if "cursor" in values:
        values["cursor"] = cursor_of(values["cursor"])
    renamed = {RENAMED.get(key, key): value for key, value in values.items()}
    made: ClientFrame = getattr(client_input, kind)(**renamed, ignored=ignored)
    return made


RENAMED = {"id": "entry_id", "retry": "is_temporary", "first_key": "kind"}


def cursor_of(value: dict[str, Any]) -> Cursor:
    return Cursor(value["session"], value["t"], value["rooms"], value["everybody"], value["mailbox"])


def test_every_kind_is_recorded() -> None:
    recorded = {type(parse(data)).__name__ for data in READABLE}
    assert recorded == {kind.__name__ for kind in ClientFrame.__args__}


@pytest.mark.parametrize("vector", MALFORMED)
def test_malformed_input_raises_the_recorded_code(vector: dict[str, Any]) -> None:
    with pytest.raises(ClientInputError) as caught:
        parse(data_of(vector))
    assert caught.value.code == vector["error"]
    assert 0 < len(str(caught.value)) < 400


def test_every_code_is_recorded() -> None:
    assert {vector.values[0]["error"] for vector in MALFORMED} == CODES


# Bounds


def test_frame_as_long_as_the_limit_is_read() -> None:
    assert parse('{"m":1}', limit=7) == Message(1)
    assert parse(b"\x03\0\0\0\0xx", limit=7) == Message(b"xx")
    for data in ('{"m":1}', b"\x03\0\0\0\0xx"):
        with pytest.raises(ClientInputError, match="frame of 7, the limit is 6"):
            parse(data, limit=6)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_containers_may_be_as_deep_as_the_limit(opening: str, closing: str) -> None:
    inside = foreign_json.MAX_DEPTH - 1
    parse(f'{{"m":{opening * inside}1{closing * inside}}}')
    with pytest.raises(ClientInputError) as caught:
        parse(f'{{"m":{opening * (inside + 1)}1{closing * (inside + 1)}}}')
    assert caught.value.code == "depth"


def test_containers_side_by_side_are_bounded() -> None:
    value: list[Any] = [[], {}] * (foreign_json.MAX_CONTAINERS // 2 - 1)
    assert parse(json.dumps({"m": value})) == Message(value)
    with pytest.raises(ClientInputError) as caught:
        parse(json.dumps({"m": [*value, []]}))
    assert caught.value.code == "depth"


@pytest.mark.parametrize("repeated", ["[{", '[{\\"', "[\\\\"])
def test_text_of_brackets_and_digits_is_no_container_and_no_number(repeated: str) -> None:
    text = repeated * foreign_json.MAX_CONTAINERS + "9" * 5000 + "1e999"
    assert parse(json.dumps({"m": text})) == Message(text)


@pytest.mark.parametrize("text", ['"' + '\\"[' * 300_000, '["' * 400_000, '"' + "\\" * 99_999 + "[" * 99_999])
@pytest.mark.timeout(20)
def test_strings_without_an_end_take_linear_time(text: str) -> None:
    with pytest.raises(ClientInputError):
        parse(text)


@pytest.mark.parametrize(
    "number", ["1e308", "-1.7976931348623157e308", "1e-9999", "9" * 308, "-" + "9" * 308]
)
def test_number_that_is_finite_as_a_double_is_read(number: str) -> None:
    assert parse(f'{{"m":{number}}}') == Message(json.loads(number))


@pytest.mark.parametrize("number", ["1e309", "1.8e308", "9" * 310, "9" * 250 + "e99", "1E+0000400", "-1e309"])
@pytest.mark.parametrize("place", ["{}", "[[{}]]", '{{"a":[1,{}]}}'])
def test_number_that_is_not_is_refused_in_any_place(number: str, place: str) -> None:
    with pytest.raises(ClientInputError) as caught:
        parse(f'{{"m":{place.format(number)}}}')
    assert caught.value.code == "number"


def test_kind_of_an_unknown_frame_is_cut() -> None:
    assert parse(json.dumps({"k" * 500: 1})) == Unknown("k" * 32)


def test_token_is_in_no_repr_and_no_error() -> None:
    assert "secret" not in repr(parse('{"auth":"secret","q":1}'))
    for frame in ({"auth": ["secret"], "q": 1}, {"auth": "secret", "q": "secret"}, {"auth": "secret" * 9999}):
        with pytest.raises(ClientInputError) as caught:
            parse(json.dumps(frame))
        assert "secret" not in str(caught.value)
    assert parse('{"auth":"t","q":1}') == Renewal("t", 1)


def test_error_names_the_field_and_the_rule() -> None:
    with pytest.raises(ClientInputError, match=re.escape("q must be an integer from 0 to 9007199254740991")):
        parse('{"q":-1,"m":"x"}')
    with pytest.raises(ClientInputError, match="room must be at most 512 bytes of UTF-8, got 600"):
        parse(json.dumps({"join": "x" * 600, "q": 1}))


# Anything


def check(data: str | bytes) -> None:
    """Parse a stranger's input, which has to be a frame or the named error."""
    outcome = outcome_of(data)
    assert outcome in CODES if isinstance(outcome, str) else isinstance(outcome, ClientFrame.__args__)


def outcome_of(data: str | bytes) -> ClientFrame | str:
    try:
        return parse(data)
    except ClientInputError as error:
        return error.code


@given(st.binary())
def test_any_bytes_are_a_frame_or_the_named_error(data: bytes) -> None:
    check(data)
    check(b"\x03" + data)


@given(st.text())
def test_any_text_is_a_frame_or_the_named_error(text: str) -> None:
    check(text)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
keys = st.sampled_from(
    ["m", "n", "q", "a", "d", "x", "c", "k", "p", "v", "join", "leave", "auth", "resume", "ping", "t"]
)


@given(st.dictionaries(keys | st.text(), json_values, max_size=4))
def test_any_object_is_a_frame_or_the_named_error(frame: dict[str, Any]) -> None:
    check(json.dumps(frame))
    check(json.dumps(frame, ensure_ascii=False))


@given(st.sampled_from(READABLE), st.data())
def test_altered_frame_is_a_frame_or_the_named_error(data: str | bytes, draw: st.DataObject) -> None:
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, len(data)))
    if isinstance(data, bytes):
        check(data[:start] + draw.draw(st.binary(max_size=4)) + data[end:])
    else:
        middle = draw.draw(st.text(max_size=4) | st.sampled_from(['"', "{", "[", "1e999", "null", "\\ud800"]))
        check(data[:start] + middle + data[end:])


plain_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)


@given(plain_values, st.none() | st.integers(1, client_input.MAX_MESSAGE_NUMBER))
def test_message_comes_back_whatever_it_is(data: Any, number: int | None) -> None:
    frame = {"m": data} if number is None else {"m": data, "n": number}
    for ascii_only in (True, False):
        assert parse(json.dumps(frame, ensure_ascii=ascii_only)) == Message(data, number)


@given(st.binary(), st.none() | st.integers(1, client_input.MAX_MESSAGE_NUMBER))
def test_binary_message_comes_back(data: bytes, number: int | None) -> None:
    assert parse(b"\x03" + (number or 0).to_bytes(4) + data) == Message(data, number)


@given(st.binary(max_size=64))
def test_bytes_read_as_text_are_a_frame_or_the_named_error(data: bytes) -> None:
    """With lone surrogates, which no WebSocket text has."""
    check(data.decode("utf-8", "surrogateescape"))


# Time


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The values that are looked at one by one. The work of the decoder is linear, and not counted."""
    found: list[Any] = []
    real = foreign_json._is_too_large

    def noted(value: Any) -> bool:
        found.append(value)
        return real(value)

    monkeypatch.setattr(foreign_json, "_is_too_large", noted)
    return found


@pytest.mark.parametrize(
    "unit", ["[],", "{},", "1,", "1e-400,", '"[[[[",', '{"a":[1]},'], ids=lambda unit: unit
)
def test_each_value_is_looked_at_once_at_most(unit: str, looked_at: list[Any]) -> None:
    for times in (100, 1000, 10_000):
        text = f'{{"m":[{unit * times}1]}}'
        looked_at.clear()
        check(text)
        assert len(looked_at) <= len(text)


def test_usual_frame_is_not_looked_at_value_by_value(looked_at: list[Any]) -> None:
    check('{"m":{"text":"hello","list":[1,2,3],"price":1.5e10},"n":17}')
    assert looked_at == []
