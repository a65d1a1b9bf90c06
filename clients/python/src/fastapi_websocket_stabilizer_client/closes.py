"""Reactions to close codes."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAX_HINT_MS = 300_000
_STOP_BELOW_2000 = frozenset({1003, 1007, 1008, 1009})
_WITH_HINT = frozenset({1012, 1013, 4029})
BROKEN = 1006
"""The code of a socket that ended without a close frame."""
UNAUTHORIZED, REPLACED = 4401, 4500

_MEANINGS = {
    1000: "ended by a proxy",
    1001: "the server ends",
    1003: "the server does not accept this type of message",
    1006: "the connection broke",
    1007: "the server received text that is not UTF-8",
    1008: "the server refused the fragments of a message",
    1009: "a message is larger than the limit of its receiver",
    1011: "an exception in the application of the server",
    1012: "the replica drains",
    1013: "the replica is full, or has no Redis",
    4007: "the server received nothing for too long",
    4008: "this client reads too slowly",
    4029: "too many attempts",
    4401: "credentials are missing, wrong or expired",
    4500: "replaced by a newer connection of the same client",
    4502: "the server found a violation of the protocol",
    4503: "forbidden",
    4504: "no such path or subject",
    4509: "the client has too many connections",
    4510: "ended by the application of the server",
}


class Do(StrEnum):
    """Reaction of a client."""

    RETRY = "retry"
    RENEW = "renew"
    """Get new credentials, then connect again."""
    STOP = "stop"
    IGNORE = "ignore"
    """The client itself has replaced the connection."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """The reaction to a close.

    Attributes:
        do: What the client does.
        after_s: Seconds to wait before the next attempt, as the server asked; None without a hint.
        by: The session that replaced this one, "" if none did.
    """

    do: Do
    after_s: float | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """End of a connection or an attempt.

    Attributes:
        cause: The end, for people.
        code: Its close code, or None if no socket was closed.
        reason: What the server has sent with the code.
    """

    cause: str = ""
    code: int | None = BROKEN
    reason: str = ""


def react(code: int, reason: str, own_sessions: Collection[str] = ()) -> Reaction:
    """Return the reaction to a close code. Unknown codes are judged by their range."""
    if code == REPLACED:
        by = _object(reason).get("by")
        by = by if isinstance(by, str) else ""
        return Reaction(Do.IGNORE if by in own_sessions else Do.STOP, by=by)
    if code == UNAUTHORIZED:
        return Reaction(Do.RENEW)
    if code in _STOP_BELOW_2000 or not (code < 2000 or 3000 <= code < 3500 or 4000 <= code < 4500):
        return Reaction(Do.STOP)
    return Reaction(Do.RETRY, _hint_s(reason) if code in _WITH_HINT else None)


def describe(code: int, reason: str) -> str:
    """Return the code, its meaning and the reason, for people."""
    meaning = _MEANINGS.get(code)
    text = f"close code {code}" if meaning is None else f"{meaning} (close code {code})"
    return f"{text}: {reason}" if reason else text


def _hint_s(reason: str) -> float | None:
    hint = _object(reason).get("reconnect_in_ms")
    if isinstance(hint, bool) or not isinstance(hint, int | float) or not hint >= 0:
        return None
    return min(hint, MAX_HINT_MS) / 1000


def _object(reason: str) -> dict[str, Any]:
    try:
        value = json.loads(reason)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
