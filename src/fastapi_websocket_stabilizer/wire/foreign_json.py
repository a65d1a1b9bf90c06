"""JSON from clients, decoded with bounds on size, depth and numbers.

The decoder takes linear time, and itself stops at 200 nested containers and at integers of 4,300 digits. It refuses
NaN and lone surrogates. The bounds here are narrower. They are checked value by value only if the text can exceed
them, so a usual message pays for a few searches.

A container costs a hundred times as much as a character, and every few hundred of them a garbage collection. So their
number is bounded, and collections wait until a long text is decoded.
"""

import re
import sys
from contextlib import nullcontext
from math import isfinite
from typing import Any, TypeGuard

from pydantic_core import from_json

from ..exceptions import ClientInputError, InvalidNameError
from ..names import check_room
from ..runtime.gc_pauses import gc_paused

MAX_ID = (1 << 53) - 1
"""Largest id, time or number of a frame. Up to it, a double of JavaScript has every integer."""
MAX_DEPTH = 64
"""Most containers inside each other, the frame included. pydantic encodes at most 255."""
MAX_CONTAINERS = 65_536
"""Most arrays and objects in a text. Such a text takes 50 ms at most, and 1 MiB of empty arrays half a second."""
LONG_CHARACTERS = 16_384
"""Length of a text from which on garbage collections wait. A pause takes a microsecond."""

# Possessive, and with an optional end, so that the time is linear for any text.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
# Fewer than 200 digits and an exponent below 100 make less than 1e299, which a double holds.
_SHAPES = bytes(
    ord("0") if chr(i) in "0123456789" else ord("e") if chr(i) in "eE" else i if chr(i) == "+" else ord(" ")
    for i in range(256)
)
_PERHAPS_TOO_LARGE = (b"0" * 200, b"0e000", b"0e+000")
_MAX_INTEGER = int(sys.float_info.max)


def load(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ClientInputError: It is not JSON (``json``), or has a number that is not finite as a 64-bit float
            (``number``). It exceeds ``MAX_DEPTH`` or ``MAX_CONTAINERS`` (``depth``).
    """
    containers = text.count("[") + text.count("{")
    if containers > MAX_CONTAINERS:
        bare = _STRING.sub("", text)
        containers = bare.count("[") + bare.count("{")
        if containers > MAX_CONTAINERS:
            raise ClientInputError(
                f"more than {MAX_CONTAINERS} arrays and objects; send fewer at a time", code="depth"
            )
    with gc_paused() if len(text) >= LONG_CHARACTERS else nullcontext():
        try:
            value = from_json(text, allow_inf_nan=False)
        except (ValueError, TypeError) as error:  # TypeError: a lone surrogate, which UTF-8 cannot have
            code = "depth" if "recursion limit" in str(error) else "json"
            raise ClientInputError(f"not the JSON of a frame: {error}", code=code) from None
        if containers > MAX_DEPTH:
            _check_depth(value)
        shape = text.encode(errors="replace").translate(_SHAPES)
        if any(part in shape for part in _PERHAPS_TOO_LARGE):
            check_numbers(value)
    return value


def _check_depth(value: Any) -> None:
    """Check one depth after the other: a recursion could be made to end at Python's own limit."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for container in level
            for inner in (container.values() if type(container) is dict else container)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return
    raise ClientInputError(f"more than {MAX_DEPTH} arrays and objects inside each other", code="depth")


def check_numbers(value: Any) -> None:
    """Check the numbers in a value.

    Raises:
        ClientInputError: One of them is not finite as a 64-bit float (``number``).
    """
    level: list[Any] = [[value]]
    while level:
        inner: list[Any] = []
        for container in level:
            for item in container.values() if type(container) is dict else container:
                if type(item) is dict or type(item) is list:
                    inner.append(item)
                elif _is_too_large(item):
                    raise ClientInputError("a number is not finite as a 64-bit float", code="number")
        level = inner


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
