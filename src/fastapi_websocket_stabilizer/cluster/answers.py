"""What other nodes may answer. An answer comes over the bus: nothing of it is believed before it was looked at."""

from itertools import islice
from typing import Any


def is_outcome(answer: Any) -> bool:
    """Whether it says how many connections a request touched, or the name and text of an error."""
    return _is_count(answer) or (isinstance(answer, list) and len(answer) == 2 and are_names(answer))


def are_names(answer: Any) -> bool:
    """Whether it is a list of clients."""
    return isinstance(answer, list) and all(isinstance(name, str) for name in answer)


def is_report(answer: Any) -> bool:
    """Whether it says what a broadcast did: four numbers, and errors with their clients."""
    return (
        isinstance(answer, list)
        and len(answer) == 5
        and all(map(_is_count, islice(answer, 4)))
        and isinstance(answer[4], list)
        and all(map(_is_error, answer[4]))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int


def _is_error(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)
