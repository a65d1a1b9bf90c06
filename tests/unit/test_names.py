"""Names: what is legal, and where Redis keeps it."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.exceptions import ConnectionNotFoundError, InvalidNameError
from fastapi_websocket_stabilizer.names import (
    MAX_NAME_BYTES,
    PARTITIONS,
    check_client_id,
    check_each,
    check_room,
    node_of,
    partition,
)
from tests.unit.strategies import legal_names


@given(legal_names)
def test_legal_name_is_returned_unchanged(name: str) -> None:
    assert (check_client_id(name), check_room(name)) == (name, name)


@pytest.mark.parametrize("name", ["*", "{}", "a:b", "a.b", " ", "[a-z]?", "ünïcödé", "名前", "😀"])
def test_pattern_characters_spaces_and_unicode_are_legal(name: str) -> None:
    assert check_client_id(name) == name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "cannot be empty"),
        (None, "must be a string, got NoneType"),
        (7, "must be a string, got int"),
        (b"alice", "must be a string, got bytes"),
        ("a\nb", "control characters"),
        ("\x00", "control characters"),
        ("\x7f", "control characters"),
        ("\x9f", "control characters"),
        ("a\ud800", "lone surrogates"),
        ("x" * 10_000, "at most 512 bytes of UTF-8, got 10000"),
        ("é" * 257, "at most 512 bytes of UTF-8, got 514"),
    ],
)
def test_illegal_name_is_refused_with_its_rule(name: Any, rule: str) -> None:
    with pytest.raises(InvalidNameError, match=f"^client_id .*{rule}"):
        check_client_id(name)
    with pytest.raises(InvalidNameError, match=f"^room .*{rule}"):
        check_room(name)


def test_refusal_is_what_1_1_raised_and_a_value_error() -> None:
    assert issubclass(InvalidNameError, ConnectionNotFoundError)
    assert issubclass(InvalidNameError, ValueError)


@pytest.mark.parametrize("letter", ["a", "é", "名", "😀"])
def test_limit_counts_bytes_of_utf_8(letter: str) -> None:
    longest = letter * (MAX_NAME_BYTES // len(letter.encode()))
    assert check_room(longest) == longest
    with pytest.raises(InvalidNameError):
        check_room(longest + letter)


def test_long_name_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_room("x" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ("a", ["a"]),
        ([], []),
        (["b", "a", "b"], ["b", "a"]),
        ({"a": 1}, ["a"]),
    ],
)
def test_each_is_one_name_or_several_without_repetition(value: Any, names: list[str]) -> None:
    assert check_each(value, check_room) == names


def test_each_refuses_an_illegal_one_among_several() -> None:
    with pytest.raises(InvalidNameError):
        check_each(["a", ""], check_room)


def test_each_refuses_an_empty_name() -> None:
    with pytest.raises(InvalidNameError):
        check_each("", check_room)


@given(legal_names)
def test_partition_is_two_hex_digits(name: str) -> None:
    assert re.fullmatch("[0-9a-f]{2}", partition(name))


def test_partition_is_the_crc16_of_redis_and_never_changes() -> None:
    # CRC16/XMODEM of "123456789" is 0x31C3 (Redis Cluster specification, appendix A).
    assert (partition("123456789"), partition("alice"), partition("名前")) == ("c3", "ed", "e9")


def test_partitions_are_used_evenly() -> None:
    used = [partition(f"user-{i}") for i in range(PARTITIONS * 40)]
    assert len(set(used)) == PARTITIONS
    assert max(map(used.count, set(used))) < 40 * 3


@given(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), st.integers(1))
def test_connection_id_names_its_node(node: str, counter: int) -> None:
    assert (node_of(f"{node}.{counter}"), node_of(f"a.{node}.{counter}")) == (node, f"a.{node}")
