"""Durations, sizes and tables, and text of strangers that must not act on a terminal."""

import pytest

from fastapi_websocket_stabilizer.names import printable
from fastapi_websocket_stabilizer.observe.text import counted, duration, size, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.0412, "41ms"), (0.9996, "1000ms"), (1, "1s"), (59.4, "59s"), (60, "1m00s"), (249, "4m09s"),
        (3600, "1h00m"), (7_860, "2h11m"), (86_400, "1d00h"), (266_400, "3d02h"), (8_640_000, "100d00h"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (912_345, "912.3 kB"),
        (3_100_000, "3.1 MB"),
        (2e9, "2.0 GB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert table(("A", "LONG"), [("a long cell", "b"), ("", "c")]) == (
        "A            LONG\na long cell  b\n             c"
    )


def test_text_of_strangers_cannot_act_on_the_terminal() -> None:
    hostile = "\x1b[2Jada\r\nroot\u202e\x07"
    assert printable(hostile) == r"\x1b[2Jada\r\nroot\u202e\x07"
    assert "\x1b" not in table(("NAME",), [(hostile,)])
    assert printable("Zoë 漢字") == "Zoë 漢字"


def test_counted() -> None:
    assert [counted(count, "node") for count in (0, 1, 1200)] == ["0 nodes", "1 node", "1,200 nodes"]
