"""Which messages Redis keeps, and how many: the values of ``history``, ``history_for_all`` and ``mailbox``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

from .exceptions import ConfigurationError, InvalidNameError
from .names import check_room

LARGEST = {"messages": 100_000, "bytes": 64 * 1024 * 1024, "seconds": 31_536_000}
"""Largest bounds. A replica reads a whole log into memory when a client was away for long."""
VISIBLE = "room", "since_join"
NOTHING = "nothing"
"""The text of ``stored`` without any log."""


@dataclass(frozen=True, slots=True)
class History:
    """The messages that Redis keeps of a room, or of those to everybody.

    A log may exceed each bound by a quarter before its oldest messages are dropped.

    Attributes:
        messages: Number of messages.
        bytes: Bytes of messages with about 60 bytes for each. A longer message raises ``MessageError``.
        seconds: Age of the oldest message.
        visible: "room": a member may receive messages from before it joined. "since_join": only later ones, and only
            while its session lasts (``session_ttl_s``). After that, a client that returns is told of a loss.
        on_join: Number of the newest messages that a client of ``stabilizer.v1`` without a cursor receives when it
            joins for the first time on a connection.

    Raises:
        ConfigurationError: A value is invalid.
    """

    messages: int = 500
    bytes: int = 262_144
    seconds: int = 120
    visible: Literal["room", "since_join"] = "room"
    on_join: int = 0

    @property
    def shows_newest(self) -> bool:
        """Whether a client without a cursor receives messages from before its join."""
        return self.on_join > 0 and self.visible == "room"

    def __post_init__(self) -> None:
        _check_bounds(self)
        if self.visible not in VISIBLE:
            raise _invalid("visible", 'must be "room" or "since_join"', self.visible)
        if not _is_whole(self.on_join) or not 0 <= self.on_join <= self.messages:
            raise _invalid("on_join", f"must be 0 to {self.messages} (messages)", self.on_join)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The messages that Redis keeps for one client, also while the client is away.

    A mailbox may exceed each bound by a quarter before its oldest messages are dropped.

    Attributes:
        messages: Number of messages.
        bytes: Bytes of messages with about 60 bytes for each. A longer message raises ``MessageError``.
        seconds: Age of the oldest message.

    Raises:
        ConfigurationError: A value is invalid.
    """

    messages: int = 100
    bytes: int = 262_144
    seconds: int = 86_400

    def __post_init__(self) -> None:
        _check_bounds(self)


def _check_bounds(kept: History | Mailbox) -> None:
    for name, largest in LARGEST.items():
        value = getattr(kept, name)
        if not _is_whole(value) or not 1 <= value <= largest:
            raise _invalid(name, f"must be a whole number from 1 to {largest}", value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _invalid(name: str, rule: str, value: object) -> ConfigurationError:
    return ConfigurationError(f"{name} {rule}, got {str(value)[:80]!r}", settings=(name,))


Kept = TypeVar("Kept", History, Mailbox)


def history_of(histories: Mapping[str, History], room: str) -> History | None:
    """Return the history of a room: that of its longest prefix; None if there is none."""
    best = max((prefix for prefix in histories if room.startswith(prefix)), key=len, default=None)
    return None if best is None else histories[best]


def stored(prefixes: Iterable[str], *, everybody: bool, mailboxes: bool) -> str:
    """Return a text that says which messages are stored: it is equal on all nodes of a registry."""
    kinds = [*map(json.dumps, sorted(prefixes)), *["everybody"] * everybody, *["mailboxes"] * mailboxes]
    return ", ".join(kinds) or NOTHING


def read_histories(value: object) -> dict[str, History]:
    """Return the histories by prefix of the room. Accepts JSON text, and mappings in place of histories.

    Raises:
        ValueError: The value has another form, or one of the histories is invalid.
    """
    found = _from_json(value)
    if not isinstance(found, Mapping):
        raise ValueError('must be histories by prefix of a room, such as {"chat:": History()}')
    return {_prefix(prefix): _history(prefix, each) for prefix, each in found.items()}


def _prefix(prefix: object) -> str:
    try:
        return "" if prefix == "" else check_room(prefix)
    except InvalidNameError as error:
        raise ValueError(f"must have prefixes of room names as keys: {error}") from None


def _history(prefix: object, value: object) -> History:
    try:
        found = read_history(value)
    except ValueError as error:
        raise ValueError(f"must have a valid History for {prefix!r}: {error}") from None
    if found is None:
        raise ValueError(f"must have a History for {prefix!r}: leave the prefix out to store nothing")
    return found


def read_history(value: object) -> History | None:
    """Return a history, or None. Accepts JSON text, and a mapping of its fields.

    Raises:
        ValueError: The value has another form or is invalid.
    """
    return _read(History, value)


def read_mailbox(value: object) -> Mailbox | None:
    """Return a mailbox, or None. Accepts JSON text, and a mapping of its fields.

    Raises:
        ValueError: The value has another form or is invalid.
    """
    return _read(Mailbox, value)


def _read(kind: type[Kept], value: object) -> Kept | None:
    found = _from_json(value)
    if found is None or isinstance(found, kind):
        return found
    names = [field.name for field in fields(kind)]
    if not isinstance(found, Mapping):
        raise ValueError(f"must be an object with {', '.join(names)}")
    if unknown := [str(name) for name in found if name not in names]:
        raise ValueError(f"must have no {unknown[0][:80]!r}, only {', '.join(names)}")
    return kind(**found)


def _from_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be JSON: {error}") from None
