"""Frames of the server, read from text and bytes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import RequestFailedError
from .messages import EVERYBODY, MAILBOX, Data, Log

MAX_INTEGER = 2**53 - 1
_BINARY_LOGS = {1: MAILBOX, 2: EVERYBODY}


class FrameError(Exception):
    """A frame that breaks the protocol. The socket cannot be trusted any more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message. ``id`` is 0 if it is volatile, ``key`` the same in all copies for several rooms."""

    log: Log
    id: int
    data: Data
    key: str = ""


@dataclass(frozen=True, slots=True)
class LostLog:
    """A row of ``lost``."""

    log: Log
    top: int
    code: str


@dataclass(frozen=True, slots=True)
class Positions:
    """Positions by log. A room without history has the position None."""

    rooms: Mapping[str, int | None]
    everybody: int | None = None
    mailbox: int | None = None


@dataclass(frozen=True, slots=True)
class Hi:
    """The first frame. ``outcome`` is None without a cursor, and "later" while Redis is away."""

    version: int
    client: str
    session: str
    t: int
    ping_s: float
    pong: bool
    expires_s: float | None
    outcome: bool | str | None
    handled: int | None
    lost: tuple[LostLog, ...]
    at: Positions


@dataclass(frozen=True, slots=True)
class Live:
    replayed: int


@dataclass(frozen=True, slots=True)
class Losses:
    lost: tuple[LostLog, ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    outcome: bool


@dataclass(frozen=True, slots=True)
class Joined:
    room: str
    at: int | None


@dataclass(frozen=True, slots=True)
class Left:
    room: str


@dataclass(frozen=True, slots=True)
class Time:
    t: int


@dataclass(frozen=True, slots=True)
class Alive:
    pass


@dataclass(frozen=True, slots=True)
class Probe:
    pass


@dataclass(frozen=True, slots=True)
class Request:
    number: int
    name: str
    data: Data


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a value, or with an error."""

    number: int
    data: Data = None
    error: RequestFailedError | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    number: int


@dataclass(frozen=True, slots=True)
class Handled:
    """All messages up to ``number`` were handled. With ``error``, the last one failed."""

    number: int
    error: RequestFailedError | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A page of the members of a room."""

    room: str
    version: int
    members: tuple[tuple[str, Any], ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the members of a room. ``departed`` applies before ``arrived``.

    Attributes:
        after: The version that it follows.
    """

    room: str
    version: int
    after: int
    arrived: tuple[tuple[str, Any], ...]
    departed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Go:
    """The replica drains: open another socket within ``in_ms``."""

    in_ms: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """A frame of a later release."""


Frame = (
    Entry | Hi | Live | Losses | Resumed | Joined | Left | Positions | Time | Alive | Probe | Request | Answer
    | Cancel | Handled | Snapshot | Change | Go | Unknown
)  # fmt: skip


def read(frame: str | bytes) -> Frame:
    """Return the value of a frame.

    Raises:
        FrameError: The frame is not JSON, or it has a known kind and lacks something of it.
    """
    if isinstance(frame, bytes):
        return _binary(frame)
    try:
        value = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame is not JSON: {error}") from None
    if isinstance(value, list):
        return _message(value)
    if not isinstance(value, dict):
        raise FrameError(f"a frame is neither an array nor an object: {frame[:40]}")
    if not value:
        return Alive()
    kind = next(iter(value))
    reader = _READERS.get(kind)
    return reader(value) if reader is not None else Unknown()


def _message(value: list[Any]) -> Frame:
    if len(value) < 3:
        raise FrameError(f"a message has {len(value)} elements, and needs 3")
    id_, log = _integer(value[0]), value[1]
    is_log = isinstance(log, str) or (log in (MAILBOX, EVERYBODY) and not isinstance(log, bool))
    if not is_log:
        return Unknown()
    return Entry(log, id_, value[2], _string(value[3]) if len(value) > 3 else "")


def _binary(frame: bytes) -> Frame:
    if not frame:
        raise FrameError("a binary frame is empty")
    kind = frame[0]
    if kind not in (0, 1, 2, 4):
        return Unknown()
    room, end = _binary_text(frame, 9, 2)
    key, end = _binary_text(frame, end, 1) if kind == 4 else ("", end)
    id_ = _integer(int.from_bytes(frame[1:9], "big"))
    return Entry(_BINARY_LOGS.get(kind, room), id_, frame[end:], key)


def _binary_text(frame: bytes, at: int, width: int) -> tuple[str, int]:
    """Return the text whose length is at an offset, and the offset behind the text."""
    start = at + width
    end = start + int.from_bytes(frame[at:start], "big")
    if len(frame) < max(start, end):
        raise FrameError(f"a binary frame of {len(frame)} bytes is too short")
    try:
        return frame[start:end].decode(), end
    except UnicodeDecodeError as error:
        raise FrameError(f"a text in a binary frame is not UTF-8: {error}") from None


def _hi(value: dict[str, Any]) -> Hi:
    hi = _object(value["hi"])
    outcome = hi.get("re")
    if outcome not in (None, True, False, "later"):
        raise FrameError(f"re is {outcome!r}")
    return Hi(
        version=_integer(hi.get("v")),
        client=_string(hi.get("id")),
        session=_string(hi.get("sid")),
        t=_integer(hi.get("t")),
        ping_s=_seconds(hi.get("ping")),
        pong=hi.get("pong") is True,
        expires_s=None if hi.get("exp") is None else _seconds(hi["exp"]),
        outcome=outcome,
        handled=_optional(hi.get("n")),
        lost=_lost(hi.get("lost", [])),
        at=_positions(hi),
    )


def _positions(value: dict[str, Any]) -> Positions:
    rooms = {room: _optional(position) for room, position in _object(value.get("at")).items()}
    return Positions(rooms, _optional(value.get("all")), _optional(value.get("box")))


def _lost(rows: Any) -> tuple[LostLog, ...]:
    found = []
    for row in _list(rows):
        if len(_list(row)) < 3:
            raise FrameError(f"a row of lost has {len(row)} elements, and needs 3")
        log, top, code = row[:3]
        if isinstance(log, str) or (log in (MAILBOX, EVERYBODY) and not isinstance(log, bool)):
            found.append(LostLog(log, _integer(top), _string(code)))
    return tuple(found)


def _snapshot_or_change(value: dict[str, Any]) -> Frame:
    room, version = _string(value["p"]), _integer(value.get("v"))
    if "=" in value:
        return Snapshot(room, version, _members(value["="]), bool(value.get("more")))
    departed = tuple(_string(client) for client in _list(value.get("-", [])))
    after = _integer(value["from"]) if "from" in value else version - 1
    return Change(room, version, after, _members(value.get("+", [])), departed)


def _members(rows: Any) -> tuple[tuple[str, Any], ...]:
    found = []
    for row in _list(rows):
        if len(_list(row)) < 2:
            raise FrameError(f"a member has {len(row)} elements, and needs 2")
        found.append((_string(row[0]), row[1]))
    return tuple(found)


def _error(value: Any) -> RequestFailedError:
    error = _object(value)
    return RequestFailedError(
        _string(error.get("code")), _string(error.get("message")), retry=error.get("retry") is True
    )


def _answer(value: dict[str, Any]) -> Answer:
    number = _integer(value["a"])
    return Answer(number, error=_error(value["x"])) if "x" in value else Answer(number, value.get("d"))


def _handled(value: dict[str, Any]) -> Handled:
    return Handled(_integer(value["n"]), _error(value["x"]) if "x" in value else None)


def _outcome(value: dict[str, Any]) -> Resumed:
    if not isinstance(value["re"], bool):
        raise FrameError(f"re is {value['re']!r}")
    return Resumed(value["re"])


_READERS: dict[str, Callable[[dict[str, Any]], Frame]] = {
    "hi": _hi,
    "live": lambda value: Live(_integer(value["live"])),
    "lost": lambda value: Losses(_lost(value["lost"])),
    "re": _outcome,
    "in": lambda value: Joined(_string(value["in"]), _optional(value.get("at"))),
    "out": lambda value: Left(_string(value["out"])),
    "at": _positions,
    "t": lambda value: Time(_integer(value["t"])),
    "ping": lambda value: Probe(),
    "q": lambda value: Request(_integer(value["q"]), _string(value.get("m")), value.get("d")),
    "a": _answer,
    "c": lambda value: Cancel(_integer(value["c"])),
    "n": _handled,
    "p": _snapshot_or_change,
    "go": lambda value: Go(_integer(_object(value["go"]).get("in"))),
}


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INTEGER:
        raise FrameError(f"{value!r} is not an integer from 0 to 2^53 - 1")
    return value


def _optional(value: Any) -> int | None:
    return None if value is None else _integer(value)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_INTEGER:
        raise FrameError(f"{value!r} is not a number of seconds")
    return float(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise FrameError(f"{value!r} is not a string")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FrameError(f"{value!r} is not an object")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise FrameError(f"{value!r} is not an array")
    return value
