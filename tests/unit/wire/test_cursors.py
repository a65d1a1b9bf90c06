"""Cursors: a cursor comes back as it was written, and nothing but the named error comes out."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.exceptions import ClientInputError
from fastapi_websocket_stabilizer.wire.cursors import MAX_CURSOR_ROOMS, Cursor, parse_cursor
from fastapi_websocket_stabilizer.wire.foreign_json import MAX_ID
from tests.support.protocol_vectors import data_of, vectors
from tests.unit.strategies import legal_names

GOOD = vectors("cursors.json", having="cursor")
BAD = vectors("cursors.json", having="error")
ids = st.integers(0, MAX_ID)
cursors = st.builds(
    Cursor,
    st.text("abcXYZ019._-", min_size=1, max_size=64),
    ids,
    st.dictionaries(legal_names, ids),
    st.none() | ids,
    st.none() | ids,
)


def expected(value: dict[str, Any]) -> Cursor:
    return Cursor(value["session"], value["t"], value["rooms"], value["everybody"], value["mailbox"])


@pytest.mark.parametrize("vector", GOOD)
def test_cursor_is_read_and_written_as_recorded(vector: dict[str, Any]) -> None:
    cursor = expected(vector["cursor"])
    assert parse_cursor(vector["text"]) == cursor
    if "only_read" not in vector:
        assert cursor.text() == vector["text"]


@pytest.mark.parametrize("vector", BAD)
def test_unreadable_cursor_raises_its_own_code(vector: dict[str, Any]) -> None:
    with pytest.raises(ClientInputError, match="unreadable cursor: ") as caught:
        parse_cursor(str(data_of(vector)))
    assert (caught.value.code, vector["error"]) == ("cursor", "cursor")
    assert len(str(caught.value)) < 400


@given(cursors)
def test_cursor_comes_back(cursor: Cursor) -> None:
    assert parse_cursor(cursor.text()) == cursor


def test_number_of_rooms_has_a_limit() -> None:
    rooms = {f"{i}": i for i in range(MAX_CURSOR_ROOMS)}
    assert parse_cursor(Cursor("s", 0, rooms).text()).rooms == rooms
    with pytest.raises(ClientInputError, match=f"at has {MAX_CURSOR_ROOMS + 1} rooms"):
        parse_cursor(Cursor("s", 0, rooms | {"one more": 1}).text())


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.text() | st.dictionaries(st.sampled_from(["s", "t", "at", "all", "box"]), json_values).map(json.dumps)
)
def test_anything_is_a_cursor_or_the_named_error(text: str) -> None:
    outcome = outcome_of(text)
    assert outcome == "cursor" or isinstance(outcome, Cursor)


def outcome_of(text: str) -> Cursor | str:
    try:
        return parse_cursor(text)
    except ClientInputError as error:
        return error.code
