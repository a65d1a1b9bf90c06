"""Data that the server would refuse is refused before it is sent."""

from typing import Any

import pytest

from fastapi_websocket_stabilizer_client import InvalidDataError, RequestFailedError, writing


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "data",
    [
        "",
        "grüß 🦊",
        b"",
        bytearray(b"x"),
        memoryview(b"x"),
        None,
        True,
        1.5,
        (1, [2]),
        {"a": {"b": []}},
        10**300,
    ],
)
def test_data_that_can_be_sent_is(data: Any) -> None:
    writing.check_data(data, 1000)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (float("nan"), "no JSON"),
        (object(), "no JSON"),
        ({"x": {1, 2}}, "no JSON"),
        ("\ud800", "half of a surrogate pair"),
        ({"\udc00": 1}, "half of a surrogate pair"),
        ({1: "x"}, "a key of an object is 1"),
        ([{"x": {None: 1}}], "a key of an object is None"),
        ([10**400], "too large for a 64-bit float"),
        ("x" * 1000, "1002 bytes, the limit is max_message_bytes=1000"),
        (b"x" * 1001, "1001 bytes"),
        (memoryview(bytes(1002)).cast("H"), "1002 bytes"),
    ],
)
def test_data_that_cannot_be_sent_is_named(data: Any, text: str) -> None:
    with pytest.raises(InvalidDataError, match=text):
        writing.check_data(data, 1000)


def test_depth_is_that_of_the_whole_frame() -> None:
    writing.check_data(nested(writing.MAX_DEPTH - 1), 1000)
    with pytest.raises(InvalidDataError, match="more than 64"):
        writing.check_data(nested(writing.MAX_DEPTH), 1000)


def test_containers_are_those_of_the_whole_frame() -> None:
    writing.check_data([[]] * (writing.MAX_CONTAINERS - 2), 1_000_000)
    with pytest.raises(InvalidDataError, match="more than 65536"):
        writing.check_data([[]] * (writing.MAX_CONTAINERS - 1), 1_000_000)


def test_list_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidDataError):
        writing.check_data(endless, 1000)


@pytest.mark.parametrize("room", ["a", "__proto__", "1", "日本", "x" * 512])
def test_room_may_be_called_so(room: str) -> None:
    writing.check_room(room)


@pytest.mark.parametrize("room", ["", "a\n", "\x7f", "\x85", "ü" * 257, "\ud800", 5])
def test_room_may_not_be_called_so(room: Any) -> None:
    with pytest.raises(InvalidDataError):
        writing.check_room(room)


@pytest.mark.parametrize("name", ["", "x" * 129, None, "\ud800"])
def test_request_may_not_be_called_so(name: Any) -> None:
    with pytest.raises(InvalidDataError):
        writing.check_name(name)


def test_error_of_a_handler_is_cut_to_what_the_server_takes() -> None:
    frame = str(writing.error_answer(1, RequestFailedError("c" * 200, "m" * 2000)))
    assert (frame.count("c"), frame.count("m")) == (128 + 1, 1024 + 1)  # and those in the keys
