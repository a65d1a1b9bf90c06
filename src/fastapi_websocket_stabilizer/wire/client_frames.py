"""Frames that a node sends to sockets of ``stabilizer.v1``: the text or the binary payload of each.

``[`` begins a message, ``{`` everything else. A message is written around the payload that was encoded once for all
sockets, so its frame is made once as well.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from json.encoder import encode_basestring as quoted
from typing import Any, Literal, NamedTuple

from .client_protocol import VERSION
from .own_json import encode_json

MAILBOX: Literal[0] = 0
EVERYBODY: Literal[1] = 1
"""Names of the two logs that are no room's."""
BINARY_ROOM, BINARY_CLIENT, BINARY_EVERYBODY, BINARY_ROOMS = 0, 1, 2, 4
"""First byte of a binary message. 3 is that of a client's message."""
MAX_PAGE_BYTES = 65_536
"""Bytes of presence after which a snapshot continues in the next frame."""

ALIVE = "{}"
"""Sign of life; never answered."""
PROBE = '{"ping":1}'
"""Sign of life that the client answers with ``{}``, for servers without WebSocket pings."""


class Lost(StrEnum):
    """Reason why a log lost continuity."""

    TRIMMED = "trimmed"
    """Entries behind the position were removed: too many, too large or too old."""
    UNKNOWN = "unknown"
    """The log does not know the position."""
    RESET = "reset"
    """The log was deleted, or Redis lost its content."""
    HOLE = "hole"
    """Redis lost entries in a failover, after a node had received them."""


class LostLog(NamedTuple):
    """A log that lost continuity: it continues live behind ``top``, and nothing of it is replayed."""

    log: str | Literal[0, 1]
    top: int
    code: Lost


class Fault(NamedTuple):
    """Content of an error answer."""

    code: str
    message: str
    is_temporary: bool = False

    @property
    def value(self) -> dict[str, object]:
        """The fault as JSON value."""
        return {"code": self.code, "message": self.message, "retry": self.is_temporary}


class Member(NamedTuple):
    """A client in a room, and what presence shows of it."""

    client_id: str
    metadata: Any


@dataclass(frozen=True, slots=True)
class Positions:
    """The id from which each log continues; 0 for a log without entries, None for a room without history."""

    rooms: Mapping[str, int | None] = field(default_factory=dict)
    everybody: int | None = None
    mailbox: int | None = None

    @property
    def value(self) -> dict[str, object]:
        """The positions as JSON value; ``all`` and ``box`` are absent without those logs."""
        value: dict[str, object] = {"at": self.rooms}
        if self.everybody is not None:
            value["all"] = self.everybody
        if self.mailbox is not None:
            value["box"] = self.mailbox
        return value


@dataclass(frozen=True, slots=True)
class Hi:
    """The first frame of a connection.

    Attributes:
        session: Name of the session, for the next cursor.
        t_ms: Time up to which the node is known to have received everything, in ms of Redis' clock.
        ping_s: Seconds of silence after which the server sends a sign of life.
        must_answer: Whether the client has to answer signs of life.
        expires_s: Seconds until the credentials expire, None for never.
        outcome: Whether every log of the cursor continues; "later" while Redis is away; None without a cursor.
        handled: Number of the last handled message of the session that this one continues. None if it continues
            none, and the client begins with 1.
        lost: The logs that do not continue.
        positions: The position of every room of the connection, and of the other two logs.
    """

    client_id: str
    session: str
    t_ms: int
    ping_s: float
    must_answer: bool = False
    expires_s: int | None = None
    outcome: bool | Literal["later"] | None = None
    handled: int | None = None
    lost: Sequence[LostLog] = ()
    positions: Positions = field(default_factory=Positions)


# Messages


def room_message(data: str | bytes, room: str, entry_id: int = 0, key: str | None = None) -> str | bytes:
    """Return a message to a room; volatile if ``entry_id`` is 0. A message to several rooms has a ``key``.

    ``data`` is a JSON text, or the bytes of a binary message. So it is in the two functions below.
    """
    if isinstance(data, bytes):
        return _binary(BINARY_ROOM if key is None else BINARY_ROOMS, entry_id, room, key, data)
    if key is None:
        return f"[{entry_id},{quoted(room)},{data}]"
    return f"[{entry_id},{quoted(room)},{data},{quoted(key)}]"


def client_message(data: str | bytes, entry_id: int = 0) -> str | bytes:
    """Return a message to this client; volatile if ``entry_id`` is 0."""
    if isinstance(data, bytes):
        return _binary(BINARY_CLIENT, entry_id, "", None, data)
    return f"[{entry_id},0,{data}]"


def everybody_message(data: str | bytes, entry_id: int = 0) -> str | bytes:
    """Return a message to everybody; volatile if ``entry_id`` is 0."""
    if isinstance(data, bytes):
        return _binary(BINARY_EVERYBODY, entry_id, "", None, data)
    return f"[{entry_id},1,{data}]"


def _binary(kind: int, entry_id: int, room: str, key: str | None, payload: bytes) -> bytes:
    name, code = room.encode(), b"" if key is None else len(key).to_bytes(1) + key.encode("ascii")
    return b"%c%b%b%b%b%b" % (kind, entry_id.to_bytes(8), len(name).to_bytes(2), name, code, payload)


# Beginning, positions and losses


def hi(frame: Hi) -> str:
    """Return the first frame."""
    value: dict[str, object] = {
        "v": VERSION,
        "id": frame.client_id,
        "sid": frame.session,
        "t": frame.t_ms,
        "ping": int(frame.ping_s) if frame.ping_s % 1 == 0 else frame.ping_s,
        "pong": frame.must_answer,
    }
    if frame.expires_s is not None:
        value["exp"] = frame.expires_s
    if frame.outcome is not None:
        value["re"] = frame.outcome
    if frame.handled is not None:
        value["n"] = frame.handled
    if frame.lost:
        value["lost"] = frame.lost
    return _json({"hi": value | frame.positions.value})


def live(replayed: int) -> str:
    """Return the end of a replay of so many entries."""
    return f'{{"live":{replayed}}}'


def lost(logs: Iterable[LostLog]) -> str:
    """Return the loss of continuity in these logs, to be sent before any later message of them."""
    return _json({"lost": list(logs)})


def resumed(outcome: bool) -> str:
    """Return the outcome of a resume that ``hi`` has put off. The losses were sent before."""
    return '{"re":true}' if outcome else '{"re":false}'


def joined(room: str, position: int | None, outcome: bool | None = None) -> str:
    """Return that the connection joined a room; with an outcome if its cursor has named the room."""
    end = "" if outcome is None else f',"re":{_json(outcome)}'
    return f'{{"in":{quoted(room)},"at":{_json(position)}{end}}}'


def left(room: str) -> str:
    """Return that the connection left a room."""
    return f'{{"out":{quoted(room)}}}'


def moved(positions: Positions) -> str:
    """Return positions that moved without a message."""
    return _json(positions.value)


def whole_until(t_ms: int) -> str:
    """Return the time up to which the node is known to have received everything."""
    return f'{{"t":{t_ms}}}'


def go(in_ms: int) -> str:
    """Return that the node drains, and that the client has so many ms to open its next socket."""
    return f'{{"go":{{"in":{in_ms}}}}}'


# Requests, answers and confirmations


def request(number: int, name: str, data: str) -> str:
    """Return a request to the client. ``data`` is a JSON text, which is encoded once for all sockets."""
    return f'{{"q":{number},"m":{quoted(name)},"d":{data}}}'


def answer(number: int, data: Any) -> str:
    """Return the result of a client's request."""
    return f'{{"a":{number},"d":{_json(data)}}}'


def error_answer(number: int, fault: Fault) -> str:
    """Return that a client's request failed."""
    return f'{{"a":{number},"x":{_json(fault.value)}}}'


def cancel(number: int) -> str:
    """Return that nothing waits for the answer to a request any more."""
    return f'{{"c":{number}}}'


def handled(number: int, fault: Fault | None = None) -> str:
    """Return that the messages up to ``number`` were handled. With a fault, the last of them failed."""
    return f'{{"n":{number}}}' if fault is None else f'{{"n":{number},"x":{_json(fault.value)}}}'


# Presence


def presence_snapshot(room: str, version: int, members: Iterable[Member]) -> Iterator[str]:
    """Yield the frames of a snapshot, the last one without ``more``. An empty room has one frame."""
    head, page, size = f'{{"p":{quoted(room)},"v":{version},"=":[', list[str](), 0
    for member in members:
        text = _json(member)
        if page and size + len(text) > MAX_PAGE_BYTES:
            yield f'{head}{",".join(page)}],"more":1}}'
            page, size = [], 0
        page.append(text)
        size += len(text)
    yield f"{head}{','.join(page)}]}}"


def presence_diff(
    room: str,
    version: int,
    arrived: Sequence[Member] = (),
    departed: Sequence[str] = (),
    *,
    after: int | None = None,
) -> str:
    """Return what changed since the version before, or since ``after``.

    A member whose metadata changed arrives again.
    """
    value: dict[str, object] = {"p": room, "v": version}
    if after is not None and after != version - 1:
        value["from"] = after
    if arrived:
        value["+"] = arrived
    if departed:
        value["-"] = departed
    return _json(value)


# Reasons of close frames


def replaced_reason(session: str) -> str:
    """Return the reason of close code 4500: the session that took the place of this connection."""
    return _json({"by": session})


def wait_reason(reconnect_in_ms: int) -> str:
    """Return the reason of 1012, 1013 and 4029: the time to wait."""
    return _json({"reconnect_in_ms": reconnect_in_ms})


def input_reason(code: str) -> str:
    """Return the reason of close code 4502: the ``code`` of the ``ClientInputError``."""
    return _json({"code": code})


def _json(value: object) -> str:
    return encode_json(value, "frame").decode()
