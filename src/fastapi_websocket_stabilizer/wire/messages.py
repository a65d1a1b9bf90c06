"""Messages for sockets: each message of the application is encoded once for all its sockets."""

import json
from enum import IntEnum
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from ..exceptions import MessageError
from . import frames


class Form(IntEnum):
    """Type of a message before it was encoded."""

    TEXT = 0
    BINARY = 1
    JSON = 2


class Encoded:
    """A message, encoded once for all its sockets.

    Attributes:
        form: Type of the message before it was encoded.
        payload: ``str`` for a text frame, ``bytes`` for a binary frame.
        size: Bytes of the payload, before compression.
    """

    __slots__ = ("_asgi", "_compressed", "_plain", "_value", "form", "payload", "size")

    def __init__(self, form: Form, payload: str | bytes, size: int, value: Any = None) -> None:
        self.form: Form = form
        self.payload: str | bytes = payload
        self.size: int = size
        self._value = value
        # Made on first use, because most messages need only one of them.
        self._asgi: dict[str, Any] | None = None
        self._plain: bytes | None = None
        self._compressed: dict[int, bytes] | None = None  # by window bits

    @property
    def asgi(self) -> dict[str, Any]:
        """The ASGI event that sends this message, shared by all sockets."""
        if self._asgi is None:
            key = "bytes" if self.form is Form.BINARY else "text"
            self._asgi = {"type": "websocket.send", key: self.payload}
        return self._asgi

    @property
    def value(self) -> Any:
        """The JSON value, for a socket that has only ``send_json``."""
        if self._value is None:
            self._value = json.loads(self.payload)
        return self._value

    def frame(self, window_bits: int) -> bytes:
        """Return the WebSocket frame, shared by all sockets with this window (0: without compression)."""
        if window_bits and self.size >= frames.COMPRESS_FROM_BYTES:
            if self._compressed is None:
                self._compressed = {}
            if window_bits not in self._compressed:
                self._compressed[window_bits] = self._make_frame(window_bits)
            return self._compressed[window_bits]
        if self._plain is None:
            self._plain = self._make_frame(0)
        return self._plain

    def _make_frame(self, window_bits: int) -> bytes:
        payload = self.payload
        opcode, data = (
            (frames.BINARY, payload) if isinstance(payload, bytes) else (frames.TEXT, payload.encode())
        )
        if window_bits:
            return frames.frame(opcode, frames.deflate(data, window_bits), compressed=True)
        return frames.frame(opcode, data)


def encode(message: object, limit: int) -> Encoded:
    """Return ``message`` encoded.

    Raises:
        MessageError: The message cannot be encoded, or has more than ``limit`` bytes.
    """
    if isinstance(message, str):
        encoded = Encoded(Form.TEXT, message, _text_size(message))
    elif isinstance(message, bytes | bytearray | memoryview):
        encoded = Encoded(Form.BINARY, bytes(message), len(bytes(message)))
    elif isinstance(message, BaseModel):
        text = encode_json(message, "message")
        encoded = Encoded(Form.JSON, text.decode(), len(text))
    elif isinstance(message, dict | list):
        text = encode_json(message, "message")
        encoded = Encoded(Form.JSON, text.decode(), len(text), message)
    else:
        raise MessageError(
            f"message must be str, bytes, dict, list or a pydantic model, got {type(message).__name__}"
        )
    if encoded.size > limit:
        raise MessageError(f"message has {encoded.size} bytes, max_message_size is {limit}")
    return encoded


def _text_size(text: str) -> int:
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise MessageError(f"message is not valid Unicode: {error}") from None


def encode_json(value: object, what: str) -> bytes:
    """Return ``value`` as JSON. Accepts datetimes, UUIDs, enums, dataclasses and pydantic models; NaN becomes null.

    Raises:
        MessageError: ``value`` cannot be encoded; the message begins with ``what``.
    """
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise MessageError(f"{what} cannot be encoded as JSON: {error}") from None
