"""The history of a chaos run: sockets, their messages, and the reports of the replicas."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

ALL = "all"
STORED = {"kept", "both", "everybody", "box"}
"""Kinds of messages that are stored: to a room, to two rooms, to everybody, to one client."""
EVERYBODY = "everybody"
"""Name of the log of everybody. The log of a room has the name of the room."""
ALONE = "alone"
"""Kind of a line in the file of events that names a message instead of an event."""


@dataclass(slots=True)
class Socket:
    """One socket, from its client's side. Times are seconds since the start of the run.

    Attributes:
        opened_s: Time of the greeting that confirms the registration, or None.
        closed_s: Time of the close, or None while it is open.
    """

    client: str
    process: str
    asked_s: float
    opened_s: float | None = None
    closed_s: float | None = None
    code: int = 0
    reason: str = ""
    is_hung_up: bool = False
    got: list[str] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.opened_s is not None and self.closed_s is None


@dataclass(slots=True)
class Process:
    """One process of a replica."""

    name: str
    died_s: float | None = None


@dataclass(slots=True)
class Call:
    """A public call of a replica's manager.

    ``outcome`` is "ok", the name of an error, or "lost" if the process ended first.
    """

    process: str
    what: str
    began_s: float
    ended_s: float
    outcome: str


@dataclass(slots=True)
class Fault:
    """A fault and its target, a process or "redis"."""

    kind: str
    target: str
    began_s: float
    ended_s: float


@dataclass(slots=True)
class Event:
    """A presence event that ``process`` reported."""

    process: str
    event_id: str
    kind: str
    client: str
    connection_id: str
    room: str = ""
    at_s: float = 0.0


@dataclass(slots=True)
class Seen:
    """The presence that ``process`` listed, as (client, node_id), and the names of its nodes by node_id."""

    process: str
    at_s: float
    clients: list[tuple[str, str]]
    nodes: dict[str, str]


@dataclass(slots=True)
class Final:
    """The state of ``process`` after the run had settled. ``local`` has the rooms of its own clients."""

    process: str
    is_ready: bool
    clients: list[str]
    rooms: dict[str, list[str]]
    local: dict[str, list[str]]


@dataclass(slots=True)
class Bounds:
    """How much a log keeps: number of messages, and seconds."""

    messages: int
    seconds: float


@dataclass(slots=True)
class Stored:
    """A stored message, as its sender knows it.

    Attributes:
        ids: The id in each log.
    """

    text: str
    ids: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Heard:
    """One thing that the application of a follower was told, in its order.

    Attributes:
        what: ``hi``, ``entry``, ``lost``, ``in`` or ``out``.
        log: The log, except for ``hi``.
        id: Id of an entry, 0 if it is volatile; or the top of a lost log.
        text: Content of an entry, or the code of a loss.
        resumed: ``re`` of a ``hi``; None if it had none.
        had_cursor: Whether the connection of a ``hi`` had a cursor.
        positions: Positions of a ``hi`` or ``in``, by log.
        lost: Number of logs that a ``hi`` names as lost.
    """

    at_s: float
    what: str
    log: str = ""
    id: int = 0
    text: str = ""
    resumed: bool | str | None = None
    had_cursor: bool = False
    positions: dict[str, int | None] = field(default_factory=dict)
    lost: int = 0


@dataclass(slots=True)
class Follower:
    """One client object of ``stabilizer.v1``, over all its connections."""

    client: str
    heard: list[Heard] = field(default_factory=list)
    is_live: bool = False
    """Whether it was connected at the end, after the run had settled."""


@dataclass(slots=True)
class Membership:
    """A call by which the application put a client into a room, or out of it."""

    client: str
    room: str
    is_member: bool
    began_s: float
    ended_s: float


@dataclass(slots=True)
class History:
    """A whole run."""

    lease_s: float
    beat_s: float
    call_limit_s: float
    sockets: list[Socket] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    bounds: dict[str, Bounds] = field(default_factory=dict)
    """Bounds of each log."""
    start_us: int = 0
    """Redis time at the start of the run. So an id shows when its message was stored."""
    probes: list[str] = field(default_factory=list)
    """Messages that every process sent after the run had settled: to all, to each room, to each client."""
    unknown: list[str] = field(default_factory=list)
    """Messages whose call failed. They may have been sent, and may arrive late."""
    alone: list[str] = field(default_factory=list)
    """Broadcasts that a process may have delivered to its own clients without Redis, in another order."""
    unheard: list[list[str | int]] = field(default_factory=list)
    """Log and id of each message that no replica received from Redis. Only a simulation knows that."""
    leftovers: list[str] = field(default_factory=list)
    """Keys in Redis after every replica had stopped."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        kinds: dict[str, Any] = {
            "sockets": Socket, "processes": Process, "calls": Call, "faults": Fault, "events": Event,
            "seen": Seen, "finals": Final, "stored": Stored, "followers": Follower, "memberships": Membership,
        }  # fmt: skip
        held = json.loads(path.read_text())
        values: dict[str, Any] = {f.name: held[f.name] for f in fields(cls)}
        for name, kind in kinds.items():
            values[name] = [kind(**value) for value in values[name]]
        for follower in values["followers"]:
            follower.heard = [Heard(**heard) for heard in follower.heard]
        values["bounds"] = {log: Bounds(**bounds) for log, bounds in values["bounds"].items()}
        return cls(**values)


def mailbox_of(client: str) -> str:
    """Return the name of the log of one client."""
    return f"mailbox of {client}"


def message(kind: str, target: str, process: str, number: int, excluded: str = "") -> str:
    """Return a message that contains its kind, target, sender, number, and the client that must not get it."""
    return f"{kind}|{target}|{process}|{number}|{excluded}|"


def parts_of(text: str) -> tuple[str, str, str, int]:
    """Return kind, target, sender and number of a message."""
    kind, target, process, number, _, _ = text.split("|", 5)
    return kind, target, process, int(number)


def excluded_of(text: str) -> str:
    """Return the client that must not get a message, or ""."""
    return text.split("|", 5)[4]
