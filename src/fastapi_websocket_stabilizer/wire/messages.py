"""Messages for sockets: each message of the application is encoded once for all its sockets."""

import json
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_json

from ..exceptions import MessageError
from . import client_frames, frames
from .own_json import encode_json


class Form(IntEnum):
    """Type of a message before it was encoded."""

    TEXT = 0
    BINARY = 1
    JSON = 2


class Address(NamedTuple):
    """Place of a message, which the frames of ``stabilizer.v1`` show.

    Attributes:
        log: Room, ``MAILBOX`` for a message to one client, or ``EVERYBODY``.
        id: Id of the entry in the log; 0 for a volatile message.
        previous: Id of the entry before it; 0 if none is known.
        key: Key that the entries of one message to several rooms have in common. None for one log.
    """

    log: str | Literal[0, 1]
    id: int = 0
    previous: int = 0
    key: str | None = None


TO_CLIENT = Address(client_frames.MAILBOX)
"""Address of a volatile message to one client, which every message has that is given no other."""

WITH_ADDRESS = 16
"""Added to the window bits of a socket whose frames have the address of their message (``stabilizer.v1``)."""


class Encoded:
    """A message, encoded once for all its sockets.

    Attributes:
        form: Type of the message before it was encoded.
        payload: ``str`` for a text frame, ``bytes`` for a binary frame.
        size: Bytes of the payload, before compression and without the address.
        address: Place of the message, which only sockets of ``stabilizer.v1`` are sent.
        trace: Context of the span that sends it; see ``runtime/tracing.py``. Empty if that is not sampled.
    """

    __slots__ = (
        "_asgi", "_asgi_with_address", "_compressed", "_plain", "_source", "_value", "address", "form", "payload",
        "size", "trace",
    )  # fmt: skip

    def __init__(self, form: Form, payload: str | bytes, size: int, value: Any = None) -> None:
        self.form: Form = form
        self.payload: str | bytes = payload
        self.size: int = size
        self.address: Address = TO_CLIENT
        self.trace: bytes = b""
        self._value = value
        self._source: Encoded | None = None  # the same message with another address
        # Made on first use, because most messages need only one of them.
        self._asgi: dict[str, Any] | None = None
        self._asgi_with_address: dict[str, Any] | None = None
        self._plain: bytes | None = None
        self._compressed: dict[int, bytes] | None = None  # by window bits, and all frames with an address

    def addressed(self, address: Address) -> "Encoded":
        """Return this message with another address. Frames without an address are shared."""
        other = Encoded(self.form, self.payload, self.size, self._value)
        other.address, other._source, other.trace = address, self._source or self, self.trace
        return other

    @property
    def asgi(self) -> dict[str, Any]:
        """The ASGI event that sends this message, shared by all sockets."""
        if self._asgi is None:
            self._asgi = _event(self.payload) if self._source is None else self._source.asgi
        return self._asgi

    @property
    def asgi_with_address(self) -> dict[str, Any]:
        """The ASGI event that sends this message to a socket of ``stabilizer.v1``, shared by all of them."""
        if self._asgi_with_address is None:
            self._asgi_with_address = _event(self._with_address())
        return self._asgi_with_address

    @property
    def value(self) -> Any:
        """The JSON value, for a socket that has only ``send_json``."""
        if self._value is None:
            self._value = json.loads(self.payload)
        return self._value

    def frame(self, window_bits: int) -> bytes:
        """Return the WebSocket frame, shared by all sockets with this window (0: without compression).

        With ``WITH_ADDRESS`` added to ``window_bits``, it is the frame for sockets of ``stabilizer.v1``.
        """
        if window_bits and (window_bits >= WITH_ADDRESS or self.size >= frames.COMPRESS_FROM_BYTES):
            if self._compressed is None:
                self._compressed = {}
            if window_bits not in self._compressed:
                self._compressed[window_bits] = self._make_frame(window_bits)
            return self._compressed[window_bits]
        if self._plain is None:
            self._plain = self._make_frame(0)
        return self._plain

    def _make_frame(self, window_bits: int) -> bytes:
        if window_bits >= WITH_ADDRESS:
            return _frame(self._with_address(), window_bits - WITH_ADDRESS)
        return _frame(self.payload, window_bits) if self._source is None else self._source.frame(window_bits)

    def _with_address(self) -> str | bytes:
        """Return the payload of a frame of ``stabilizer.v1``."""
        # pydantic quotes a long text four times as fast as the json module.
        data = to_json(self.payload).decode() if self.form is Form.TEXT else self.payload
        log, entry_id, _, key = self.address
        if isinstance(log, str):
            return client_frames.room_message(data, log, entry_id, key)
        if log == client_frames.EVERYBODY:
            return client_frames.everybody_message(data, entry_id)
        return client_frames.client_message(data, entry_id)


class ControlFrame(Encoded):
    """A frame of ``stabilizer.v1`` that is no message: it has no address. See ``client_frames``."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(Form.TEXT, text, text_size(text))

    def _with_address(self) -> str | bytes:
        return self.payload


class Series:
    """Messages that several sockets are sent, one after the other. Their frames are joined once for all of them.

    Attributes:
        messages: The messages.
        size: Bytes of their payloads.
    """

    __slots__ = ("_joined", "messages", "size")

    def __init__(self, messages: Sequence[Encoded]) -> None:
        self.messages: Sequence[Encoded] = messages
        self.size: int = sum([message.size for message in messages])
        self._joined: dict[int, bytes] = {}

    def frame(self, window_bits: int) -> bytes:
        """Return the frames of all messages. For ``window_bits`` see ``Encoded.frame``."""
        joined = self._joined.get(window_bits)
        if joined is None:
            joined = b"".join([message.frame(window_bits) for message in self.messages])
            self._joined[window_bits] = joined
        return joined


def each_of(messages: Iterable[Encoded | Series]) -> Iterator[Encoded]:
    """Yield the messages, and those of each series."""
    for each in messages:
        yield from each.messages if isinstance(each, Series) else (each,)


def _event(payload: str | bytes) -> dict[str, Any]:
    return {"type": "websocket.send", "text" if isinstance(payload, str) else "bytes": payload}


def _frame(payload: str | bytes, window_bits: int) -> bytes:
    opcode, data = (frames.BINARY, payload) if isinstance(payload, bytes) else (frames.TEXT, payload.encode())
    if window_bits and len(data) >= frames.COMPRESS_FROM_BYTES:
        return frames.frame(opcode, frames.deflate(data, window_bits), compressed=True)
    return frames.frame(opcode, data)


def encode(message: object, limit: int) -> Encoded:
    """Return ``message`` encoded.

    Raises:
        MessageError: The message cannot be encoded, or has more than ``limit`` bytes.
    """
    if isinstance(message, str):
        encoded = Encoded(Form.TEXT, message, text_size(message))
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


def text_size(text: str) -> int:
    """Return the bytes of a text in UTF-8.

    Raises:
        MessageError: The text has a lone surrogate, so it has no UTF-8.
    """
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise MessageError(f"message is not valid Unicode: {error}") from None
