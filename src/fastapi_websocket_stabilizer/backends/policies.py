"""Which logs a registry has, and their bounds. Pure.

All nodes and publishers must store the same messages. So Redis has the policy as a text, which the first node writes.
Bounds may differ between nodes. The text has those of the node that started last, for publishers.

A registry that never stored anything has no text, so nodes without logs write none. ``stabilizer policy --reset``
opens the policy: it goes on until the next node that starts replaces it, also by a policy without logs.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from ..config import WebSocketConfig
from ..exceptions import ConfigurationError
from ..names import has_utf8
from ..retention import NOTHING, History, Mailbox, stored
from .log_ports import LogBounds, LogKind, LogName

VERSION = 1
POLICY_LASTS_S = 30.0
"""Seconds after which a publisher reads again which messages it has to store."""
MAX_KEY = 512
"""Longest key of a message, in characters."""
SHOWN = 80
"""Characters of another node's name that an error shows."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The bounds of each log. A log without bounds does not exist: its messages are not stored.

    Attributes:
        rooms: Bounds by prefix of the room. The longest prefix counts.
        everybody: Bounds of the messages to everybody, or None.
        mailbox: Bounds of the messages to each client, or None. Only those are stored whose sender asks for it.
        is_open: The next node that starts may replace it.
    """

    rooms: Mapping[str, LogBounds] = field(default_factory=dict)
    everybody: LogBounds | None = None
    mailbox: LogBounds | None = None
    is_open: bool = False

    @classmethod
    def of(cls, config: WebSocketConfig) -> Self:
        """Return the policy of the settings."""
        rooms = {prefix: _bounds(history) for prefix, history in config.history.items()}
        return cls(rooms, _bounds_if(config.history_for_all), _bounds_if(config.mailbox))

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the policy in ``text``; an empty text has no log.

        Raises:
            ConfigurationError: The text is not a policy of this release.
        """
        if not text:
            return cls()
        try:
            found = json.loads(text)
            if found["v"] != VERSION:
                raise ValueError(f"its version is {found['v']}, not {VERSION}")
            rooms = {str(prefix): LogBounds(*map(int, each)) for prefix, each in found["rooms"].items()}
            others = _read_bounds(found["all"]), _read_bounds(found.get("box"))
            return cls(rooms, *others, is_open=bool(found.get("open")))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ConfigurationError(
                f"the history policy in Redis cannot be read ({error}): {text[:200]!r}; {REMEDY}"
            ) from None

    def bounds(self, log: LogName) -> LogBounds | None:
        """Return the bounds of a log; None if its messages are not stored."""
        match log.kind:
            case LogKind.ALL:
                return self.everybody
            case LogKind.BOX:
                return self.mailbox
        best = max((p for p in self.rooms if log.name.startswith(p)), key=len, default=None)
        return None if best is None else self.rooms[best]

    def targets(self, rooms: Sequence[str], *, store: bool | None, key: str | None) -> "list[Target]":
        """Return the logs of a broadcast to ``rooms``, or without rooms to everybody; empty if it concerns none.

        Args:
            rooms: The rooms.
            store: True: it must be stored. False: it must not. None: where there is a log.
            key: The key of a message that is stored once, or None.

        Raises:
            ConfigurationError: The message of one room is not stored although it must be, or ``key`` is no key.
        """
        if not self and not store and key is None:
            return []
        logs = [LogName(LogKind.ROOM, room) for room in rooms] or [LogName(LogKind.ALL)]
        found = [Target(log, self.bounds(log)) for log in logs]
        _check(found, store=store, key=key)
        if all(target.bounds is None for target in found):
            return []
        return [target._replace(bounds=None) for target in found] if store is False else found

    def box(self, client_id: str, *, store: bool, key: str | None) -> "Target":
        """Return the mailbox of a client, for a message with ``store``, or a ``key``.

        Raises:
            ConfigurationError: There are no mailboxes, or ``key`` is no key or is given without ``store``.
        """
        log = LogName(LogKind.BOX, client_id)
        found = Target(log, self.bounds(log))
        _check([found], store=store, key=key)
        return found

    def __bool__(self) -> bool:
        """Whether any message is stored."""
        return bool(self.rooms or self.everybody or self.mailbox)

    @property
    def stored(self) -> str:
        """A text that says which messages are stored. It is equal on all nodes of a registry."""
        everybody, mailboxes = self.everybody is not None, self.mailbox is not None
        return stored(self.rooms, everybody=everybody, mailboxes=mailboxes)

    @property
    def text(self) -> str:
        """The policy as Redis has it."""
        values: dict[str, Any] = {
            "v": VERSION,
            "rooms": {prefix: _written(bounds) for prefix, bounds in sorted(self.rooms.items())},
            "all": _written(self.everybody),
            **({} if self.mailbox is None else {"box": _written(self.mailbox)}),
            **({"open": True} if self.is_open else {}),
        }
        return json.dumps(values, separators=(",", ":"))

    def check_agrees(self, other: "Policy") -> None:
        """Check that another policy stores the same messages.

        Raises:
            ConfigurationError: It does not; the message has both, and the remedy.
        """
        self.check_same("the registry", other.stored)

    def check_same(self, whose: str, what: str) -> None:
        """Check that another node, or the registry, stores ``what`` this policy stores; see ``stored``.

        Raises:
            ConfigurationError: It does not; the message has both, and the remedy.
        """
        if self.stored != what:
            raise ConfigurationError(
                f"history, history_for_all and mailbox of this node store {self.stored}, and {whose} stores {what}; "
                f"{REMEDY}",
                settings=("history", "history_for_all", "mailbox"),
            )


class Target(NamedTuple):
    """The log of one room or of everybody, and its bounds; None if the message is not stored there."""

    log: LogName
    bounds: LogBounds | None


def _check(targets: Sequence[Target], *, store: bool | None, key: str | None) -> None:
    if key is not None and not _is_key(key):
        raise ConfigurationError(
            f"key must be a string of 1 to {MAX_KEY} characters without lone surrogates, got {str(key)[:80]!r}"
        )
    if not store and key is None:
        return
    what = "store=True" if store else "a key"
    if store is False:
        raise ConfigurationError(f"{what} needs a message that is stored, and store is False")
    for log, bounds in targets:
        if bounds is None:
            raise ConfigurationError(f"{what} needs {_MISSING[log.kind].format(log.name)}")


def _is_key(key: object) -> bool:
    return isinstance(key, str) and 1 <= len(key) <= MAX_KEY and has_utf8(key)


REMEDY = (
    "set the same on all replicas, or run `stabilizer policy --reset` before one with new settings starts"
)


_MISSING = {
    LogKind.ROOM: "a history for room {!r}: set history",
    LogKind.ALL: "a history for messages to everybody: set history_for_all",
    LogKind.BOX: "a mailbox for client {!r}: set mailbox",
}


def _bounds(kept: History | Mailbox) -> LogBounds:
    return LogBounds(kept.messages, kept.bytes, kept.seconds)


def _bounds_if(kept: History | Mailbox | None) -> LogBounds | None:
    return None if kept is None else _bounds(kept)


def _written(bounds: LogBounds | None) -> list[int] | None:
    return None if bounds is None else [bounds.messages, bounds.bytes, bounds.seconds]


def _read_bounds(value: Any) -> LogBounds | None:
    return None if value is None else LogBounds(*map(int, value))


def stored_by(info: bytes | None) -> tuple[str, str]:
    """Return the name of a node in its description, and what it stores, as ``Policy.stored``.

    Another program may have written the description. A node without one stores nothing.
    """
    try:
        value = json.loads(info or b"{}")
        return str(value["name"])[:SHOWN], str(value["settings"].get("stored", NOTHING))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "unknown", NOTHING


class KnownPolicy:
    """The policy of the registry, as it was read last: which messages a publisher has to store.

    Attributes:
        policy: The policy; an empty one until it was read.
    """

    def __init__(self) -> None:
        self.policy: Policy = Policy()
        self._read_at_s: float | None = None

    @property
    def is_outdated(self) -> bool:
        """Whether it is to be read again."""
        return self._read_at_s is None or time.monotonic() - self._read_at_s > POLICY_LASTS_S

    def learn(self, text: bytes | None) -> None:
        """Take the text in Redis.

        Raises:
            ConfigurationError: It is not a policy of this release.
        """
        self.policy = Policy.read((text or b"").decode(errors="replace"))
        self.keep()

    def keep(self) -> bool:
        """Go on with the policy as it is: it was read, or the user may not read it and need not ask more often.

        Return whether this is the first time.
        """
        is_first, self._read_at_s = self._read_at_s is None, time.monotonic()
        return is_first
