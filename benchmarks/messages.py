"""The messages of the benchmarks. They run under release 1.1's interpreter too: standard library only."""

import time
from functools import cache
from typing import Any

MARK_SIZE = 30
"""``#<8 digits>@<19 digits>#``: what a receiver needs to tell loss from delay."""
RECORD_SIZE, REST_SIZE = 116, 45
VARIANTS = 64
"""Different messages, so that a compressor that remembers the last ones does not find the same again."""


def mark(sequence: int) -> str:
    """Return a message's number and the moment it is sent at, on the clock all processes of a machine share."""
    return f"#{sequence:08d}@{time.monotonic_ns():019d}#"


def text_message(sequence: int, size: int) -> str:
    """Return a message of ``size`` ASCII characters."""
    return mark(sequence).ljust(size, "x")


def json_message(sequence: int, size: int) -> dict[str, Any]:
    """Return a message whose JSON has ``size`` bytes or a few more and compresses as records of an application do."""
    count = -(-(size - REST_SIZE) // RECORD_SIZE)  # at least the size
    return {"mark": mark(sequence), "records": _records(count, sequence % VARIANTS)}


@cache
def _records(count: int, variant: int) -> list[dict[str, Any]]:
    return [_record(variant * count + index) for index in range(count)]


def _record(index: int) -> dict[str, Any]:
    # A multiplicative hash: digits that look random and are the same in every process and run.
    noise = index * 2654435761 % 2**32
    return {
        "id": noise,
        "symbol": f"SYM{noise % 977:03d}",
        "price": noise % 1_000_000 / 100,
        "change": noise % 2003 / 1000 - 1,
        "volume": noise % 99_991,
        "at": f"2025-06-{1 + noise % 28:02d}T{noise % 24:02d}:{noise % 60:02d}:00Z",
    }
