"""JSON from clients, decoded with bounds on size, depth and numbers.

The decoder takes linear time, and itself stops at 200 nested containers and at integers of 4,300 digits. It refuses
NaN and lone surrogates. The bounds here are narrower. They are checked value by value only if the text can exceed
them, so a usual message pays for three searches.
"""

import re
import sys
from math import isfinite
from typing import Any, TypeGuard

from pydantic_core import from_json

from ..exceptions import ClientInputError, InvalidNameError
from ..names import check_room

MAX_ID = (1 << 53) - 1
"""Largest id, time or number of a frame. Up to it, a double of JavaScript has every integer."""
MAX_DEPTH = 64
"""Most containers inside each other, the frame included. pydantic encodes at most 255."""

# Fewer than 200 digits and an exponent below 100 make less than 1e299, which a double holds.
_PERHAPS_TOO_LARGE = re.compile(r"\d{200}|\d[eE]\+?\d{3}")
_MAX_INTEGER = int(sys.float_info.max)


def load(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ClientInputError: It is not JSON (``json``), is nested deeper than ``MAX_DEPTH`` (``depth``), or has a
            number that is not finite as a 64-bit float (``number``).
    """
    try:
        value = from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError) as error:  # TypeError: a lone surrogate, which UTF-8 cannot have
        code = "depth" if "recursion limit" in str(error) else "json"
        raise ClientInputError(f"not the JSON of a frame: {error}", code=code) from None
    if text.count("[") + text.count("{") > MAX_DEPTH or _PERHAPS_TOO_LARGE.search(text):
        _check_values(value)
    return value


def _check_values(value: Any) -> None:
    """Check every value, one depth after the other: a recursion could be made to end at Python's own limit."""
    level, depth = [value], 0
    while level:
        containers = [item for item in level if type(item) is dict or type(item) is list]
        if any(_is_too_large(item) for item in level):
            raise ClientInputError("a number is not finite as a 64-bit float", code="number")
        depth += bool(containers)
        if depth > MAX_DEPTH:
            raise ClientInputError(
                f"more than {MAX_DEPTH} arrays and objects inside each other", code="depth"
            )
        level = [inner for item in containers for inner in (item.values() if type(item) is dict else item)]


def _is_too_large(value: Any) -> bool:
    if type(value) is int:
        return abs(value) > _MAX_INTEGER
    return type(value) is float and not isfinite(value)


def is_id(value: Any) -> TypeGuard[int]:
    """Whether ``value`` is an integer from 0 to ``MAX_ID``. True and 1.0 are none."""
    return type(value) is int and 0 <= value <= MAX_ID


def room_of(name: Any) -> str:
    """Return a room name that a client sent.

    Raises:
        ClientInputError: The name is illegal (``name``).
    """
    try:
        return check_room(name)
    except InvalidNameError as error:
        raise ClientInputError(str(error), code="name") from None
