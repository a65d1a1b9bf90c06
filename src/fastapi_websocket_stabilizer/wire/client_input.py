"""Frames that a client of ``stabilizer.v1`` sends, from bytes to values.

The first key of an object is its kind. Other keys that the kind does not have are ignored, and so are unknown kinds;
both can be counted. Everything else that the protocol does not allow is a ``ClientInputError``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import ClientInputError
from . import foreign_json
from .cursors import Cursor, cursor_of
from .own_json import encode_json

MAX_FRAME_BYTES = 1 << 20
"""Default bound of a frame, that of ``max_message_size``."""
MAX_NAME_CHARACTERS = 128
"""Longest name of a request, and code of an error."""
MAX_TEXT_CHARACTERS = 1024
"""Longest message of an error."""
MAX_TOKEN_CHARACTERS = 16_384
MAX_MESSAGE_NUMBER = (1 << 32) - 1
"""Largest number of a confirmed message, since a binary message has four bytes for it."""
BINARY_MESSAGE = 3
"""First byte of a binary message of a client."""
BINARY_HEADER_BYTES = 5


@dataclass(frozen=True, slots=True)
class _Frame:
    """Any frame.

    Attributes:
        ignored: Number of its keys that its kind does not have.
    """

    ignored: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Message(_Frame):
    """``{"m":D}``, ``{"m":D,"n":17}`` or a binary frame.

    Attributes:
        data: ``str`` for a text message, ``bytes`` for a binary one, otherwise the JSON value.
        number: Number that the server confirms; None if the client waits for no confirmation.
    """

    data: Any
    number: int | None = None

    @property
    def plain(self) -> str | bytes:
        """The message as a plain socket brings it: a value that is neither text nor bytes is JSON text."""
        return self.data if isinstance(self.data, str | bytes) else encode_json(self.data, "message").decode()


@dataclass(frozen=True, slots=True)
class Request(_Frame):
    """``{"q":n,"m":name,"d":D}``. The client numbers its requests, apart from those of the server."""

    number: int
    name: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Answer(_Frame):
    """``{"a":n,"d":D}``: the result of a request of the server."""

    number: int
    data: Any = None


@dataclass(frozen=True, slots=True)
class ErrorAnswer(_Frame):
    """``{"a":n,"x":{…}}``: a request of the server failed."""

    number: int
    code: str
    message: str
    is_temporary: bool = False


@dataclass(frozen=True, slots=True)
class Cancel(_Frame):
    """``{"c":n}``: the client no longer waits for the answer to its request."""

    number: int


@dataclass(frozen=True, slots=True)
class Join(_Frame):
    """``{"join":room,"q":n}``."""

    room: str
    number: int


@dataclass(frozen=True, slots=True)
class Leave(_Frame):
    """``{"leave":room,"q":n}``."""

    room: str
    number: int


@dataclass(frozen=True, slots=True)
class MailboxRead(_Frame):
    """``{"k":id}``: the mailbox was handled up to this entry."""

    entry_id: int


@dataclass(frozen=True, slots=True)
class Watch(_Frame):
    """``{"p":room,"v":17}``: send presence of the room; the client has this version, 0 for none."""

    room: str
    version: int


@dataclass(frozen=True, slots=True)
class Unwatch(_Frame):
    """``{"p":room,"v":null}``: send no more presence of the room."""

    room: str


@dataclass(frozen=True, slots=True)
class Renewal(_Frame):
    """``{"auth":token,"q":n}``: newer credentials."""

    token: str = field(repr=False)
    number: int


@dataclass(frozen=True, slots=True)
class Resume(_Frame):
    """``{"resume":cursor}``: the cursor that the handshake announced."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Probe(_Frame):
    """``{"ping":1}``, to be answered with ``{}``."""


@dataclass(frozen=True, slots=True)
class Alive(_Frame):
    """``{}``, never answered."""


@dataclass(frozen=True, slots=True)
class Unknown(_Frame):
    """A frame of a kind that this release does not have, to be counted and ignored.

    Attributes:
        kind: The first key, or the first byte of a binary frame in hex; at most 32 characters.
    """

    kind: str


ClientFrame = (
    Message
    | Request
    | Answer
    | ErrorAnswer
    | Cancel
    | Join
    | Leave
    | MailboxRead
    | Watch
    | Unwatch
    | Renewal
    | Resume
    | Probe
    | Alive
    | Unknown
)


def parse(data: str | bytes, limit: int = MAX_FRAME_BYTES) -> ClientFrame:
    """Return the frame in a text or binary message.

    The time is linear in its length. ``limit`` is in bytes, or characters of a text, whose bytes the WebSocket layer
    has counted.

    Raises:
        ClientInputError: The frame is not of this protocol; ``code`` has the rule, the message the part.
    """
    if len(data) > limit:
        raise ClientInputError(f"frame of {len(data)}, the limit is {limit}", code="size")
    if isinstance(data, bytes):
        return _binary(data)
    frame = foreign_json.load(data)
    if type(frame) is not dict:
        raise ClientInputError(f"frame is a {type(frame).__name__}, not an object", code="frame")
    for kind in frame:
        known = _KINDS.get(kind)
        if known is None:
            return Unknown(kind[:32])
        read, keys = known
        return read(frame, len(frame.keys() - keys))
    return Alive()


def _binary(data: bytes) -> ClientFrame:
    if not data:
        raise ClientInputError("binary frame is empty", code="frame")
    if data[0] != BINARY_MESSAGE:
        return Unknown(f"0x{data[0]:02x}")
    if len(data) < BINARY_HEADER_BYTES:
        raise ClientInputError(
            f"binary message has {len(data)} bytes, its header {BINARY_HEADER_BYTES}", code="frame"
        )
    return Message(data[BINARY_HEADER_BYTES:], int.from_bytes(data[1:BINARY_HEADER_BYTES]) or None)


def _message(frame: dict[str, Any], ignored: int) -> Message:
    if "n" not in frame:
        return Message(frame["m"], ignored=ignored)
    number = frame["n"]
    if type(number) is int and 0 < number <= MAX_MESSAGE_NUMBER:
        return Message(frame["m"], number, ignored=ignored)
    raise _wrong("n", f"an integer from 1 to {MAX_MESSAGE_NUMBER}", number)


def _request(frame: dict[str, Any], ignored: int) -> Request:
    name = _text(frame, "m", MAX_NAME_CHARACTERS)
    return Request(_number(frame, "q"), name, frame.get("d"), ignored=ignored)


def _answer(frame: dict[str, Any], ignored: int) -> Answer | ErrorAnswer:
    number = _number(frame, "a")
    if "x" not in frame:
        return Answer(number, frame.get("d"), ignored=ignored)
    error = frame["x"]
    if type(error) is not dict:
        raise _wrong("x", "an object", error)
    code, message = _text(error, "code", MAX_NAME_CHARACTERS), _text(error, "message", MAX_TEXT_CHARACTERS)
    if type(is_temporary := error.get("retry", False)) is not bool:
        raise _wrong("retry", "true or false", is_temporary)
    return ErrorAnswer(number, code, message, is_temporary, ignored=ignored)


def _cancel(frame: dict[str, Any], ignored: int) -> Cancel:
    return Cancel(_number(frame, "c"), ignored=ignored)


def _join(frame: dict[str, Any], ignored: int) -> Join:
    return Join(foreign_json.room_of(frame["join"]), _number(frame, "q"), ignored=ignored)


def _leave(frame: dict[str, Any], ignored: int) -> Leave:
    return Leave(foreign_json.room_of(frame["leave"]), _number(frame, "q"), ignored=ignored)


def _mailbox_read(frame: dict[str, Any], ignored: int) -> MailboxRead:
    return MailboxRead(_number(frame, "k"), ignored=ignored)


def _presence(frame: dict[str, Any], ignored: int) -> Watch | Unwatch:
    room = foreign_json.room_of(frame["p"])
    if "v" in frame and frame["v"] is None:
        return Unwatch(room, ignored=ignored)
    return Watch(room, _number(frame, "v"), ignored=ignored)


def _renewal(frame: dict[str, Any], ignored: int) -> Renewal:
    return Renewal(_text(frame, "auth", MAX_TOKEN_CHARACTERS), _number(frame, "q"), ignored=ignored)


def _resume(frame: dict[str, Any], ignored: int) -> Resume:
    return Resume(cursor_of(frame["resume"]), ignored=ignored)


def _probe(frame: dict[str, Any], ignored: int) -> Probe:
    return Probe(ignored=ignored)


_KINDS: Mapping[str, tuple[Callable[[dict[str, Any], int], ClientFrame], frozenset[str]]] = {
    "m": (_message, frozenset("mn")),
    "q": (_request, frozenset("qmd")),
    "a": (_answer, frozenset("adx")),
    "c": (_cancel, frozenset("c")),
    "join": (_join, frozenset(("join", "q"))),
    "leave": (_leave, frozenset(("leave", "q"))),
    "k": (_mailbox_read, frozenset("k")),
    "p": (_presence, frozenset("pv")),
    "auth": (_renewal, frozenset(("auth", "q"))),
    "resume": (_resume, frozenset(("resume",))),
    "ping": (_probe, frozenset(("ping",))),
}


def _number(frame: dict[str, Any], key: str) -> int:
    if foreign_json.is_id(number := frame.get(key)):
        return number
    raise _wrong(key, f"an integer from 0 to {foreign_json.MAX_ID}", number)


def _text(frame: dict[str, Any], key: str, limit: int) -> str:
    text = frame.get(key)
    if isinstance(text, str) and 0 < len(text) <= limit:
        return text
    raise _wrong(key, f"a string of 1 to {limit} characters", text)


def _wrong(key: str, what: str, value: object) -> ClientInputError:
    # Neither the value nor its length may grow the log: it is a stranger's, and may be a token.
    return ClientInputError(f"{key} must be {what}, got {_described(value)}", code="field")


def _described(value: object) -> str:
    if isinstance(value, str | list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)[:32]
