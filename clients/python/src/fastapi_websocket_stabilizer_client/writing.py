"""Frames of the client, and checks of the data in them."""

import json
from collections.abc import Iterable
from typing import Any
from unicodedata import category

from .errors import InvalidDataError, RequestFailedError
from .messages import Data

MAX_DEPTH = 64
MAX_CONTAINERS = 65_536
"""Arrays and objects in a frame."""
MAX_NUMBER = 2**32 - 1
"""Largest number of a confirmed message."""
MAX_ROOM_BYTES = 512
MAX_NAME_CHARACTERS = 128
MAX_ERROR_CHARACTERS = 1024
MAX_TOKEN_CHARACTERS = 16_384

Frame = str | bytes
ALIVE = "{}"
PROBE = '{"ping":1}'


def message(data: Data, number: int | None = None) -> Frame:
    """Return the frame of a message. With a number, the server confirms it."""
    if isinstance(data, bytes | bytearray | memoryview):
        return b"\x03" + (number or 0).to_bytes(4, "big") + bytes(data)
    return _text({"m": data} if number is None else {"m": data, "n": number})


def request(number: int, name: str, data: Data) -> Frame:
    return _text({"q": number, "m": name, "d": data})


def answer(number: int, data: Data) -> Frame:
    return _text({"a": number, "d": data})


def error_answer(number: int, error: RequestFailedError) -> Frame:
    """Return the frame of an error. Too long texts are cut, because the server would refuse them."""
    code = error.code[:MAX_NAME_CHARACTERS]
    text = error.message[:MAX_ERROR_CHARACTERS]
    return _text({"a": number, "x": {"code": code, "message": text, "retry": error.retry}})


def cancel(number: int) -> Frame:
    return _text({"c": number})


def join(room: str, number: int) -> Frame:
    return _text({"join": room, "q": number})


def leave(room: str, number: int) -> Frame:
    return _text({"leave": room, "q": number})


def mailbox_read(id_: int) -> Frame:
    return _text({"k": id_})


def watch(room: str, version: int | None) -> Frame:
    """Return the frame that asks for the presence of a room, or ends it if the version is None."""
    return _text({"p": room, "v": version})


def renewal(token: str, number: int) -> Frame:
    return _text({"auth": token, "q": number})


def resume(cursor: str) -> Frame:
    """Return the first frame after ``resume.later``, from the text of a cursor."""
    return f'{{"resume":{cursor}}}'


def check_room(room: str) -> None:
    """Raise InvalidDataError if a room cannot be called so."""
    if not isinstance(room, str) or any(category(character) == "Cc" for character in room):
        raise InvalidDataError(f"a room name is a string without control characters, got {room!r}")
    if not 1 <= _bytes_of(room) <= MAX_ROOM_BYTES:
        raise InvalidDataError(f"a room name has 1 to {MAX_ROOM_BYTES} bytes of UTF-8, got {_bytes_of(room)}")


def check_name(name: str) -> None:
    """Raise InvalidDataError if a request cannot be called so."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise InvalidDataError(f"the name of a request has 1 to {MAX_NAME_CHARACTERS} characters: {name!r}")
    _bytes_of(name)


def check_data(data: Data, max_bytes: int) -> int:
    """Return the bytes that the data has on the wire.

    Raises:
        InvalidDataError: It is no JSON, or has more than ``max_bytes``. Or more than 64 arrays and objects are inside
            each other, with the object of the frame. The server would close the connection.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        size = len(memoryview(data).cast("B"))
    else:
        _check_value(data)
        size = _bytes_of(_text(data))
    if size > max_bytes:
        raise InvalidDataError(f"the data has {size} bytes, the limit is max_message_bytes={max_bytes}")
    return size


def _check_value(value: Any) -> None:
    """Check what ``json`` accepts and the server does not: depth, number of containers, keys and integers."""
    depth, containers, level = 1, 1, [value]  # the first container is the object of the frame
    while level:
        found = [one for one in level if isinstance(one, dict | list | tuple)]
        depth, containers = depth + bool(found), containers + len(found)
        if depth > MAX_DEPTH:
            raise InvalidDataError(f"more than {MAX_DEPTH} arrays and objects are inside each other")
        if containers > MAX_CONTAINERS:
            raise InvalidDataError(f"the data has more than {MAX_CONTAINERS} arrays and objects")
        for one in level:
            if isinstance(one, int):
                _check_integer(one)
        level = [inner for container in found for inner in _values_of(container)]


def _values_of(container: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterable[Any]:
    if not isinstance(container, dict):
        return container
    strange = [key for key in container if not isinstance(key, str)]
    if strange:
        raise InvalidDataError(f"a key of an object is {strange[0]!r}, and must be a string")
    return container.values()


def _check_integer(value: int) -> None:
    try:
        float(value)
    except OverflowError:
        raise InvalidDataError("an integer is too large for a 64-bit float") from None


def _text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidDataError(f"the data is no JSON: {error}") from None


def _bytes_of(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidDataError(f"the text has half of a surrogate pair: {error}") from None
