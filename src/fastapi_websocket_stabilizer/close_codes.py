"""WebSocket close codes of this library, and whether a client should connect again after each.

Standard codes keep the meaning of RFC 6455 §7.4 and the IANA registry. Codes 4000-4499 ask the client to
reconnect, 4500-4999 ask it not to.
"""

from enum import IntEnum
from typing import Self

from .exceptions import ConfigurationError

AGAIN, NO_MORE = True, False
"""Values of ``CloseCode.reconnects``."""


class CloseCode(IntEnum):
    """A close code. It is an ``int``, and as such goes into frames, ASGI events and JSON.

    Attributes:
        reconnects: Whether a client should connect again after this code.
    """

    _value_: int
    reconnects: bool

    # The default is for type checkers: CloseCode(1012) looks a member up.
    def __new__(cls, code: int, reconnects: bool = False) -> Self:
        """Make a member of the table below."""
        member = int.__new__(cls, code)
        member._value_, member.reconnects = code, reconnects
        return member

    NORMAL = 1000, NO_MORE
    """The server closed on purpose.

    Also the code of a socket that a newer one of its client displaces, unless ``displaced_code`` is set.
    """

    GOING_AWAY = 1001, AGAIN
    """The server process ends."""

    NO_STATUS = 1005, AGAIN
    """A close frame without a code. Never sent. Some servers report it for a peer that vanished, too."""

    ABNORMAL = 1006, AGAIN
    """The TCP connection ended without a close frame. Never sent."""

    INVALID_DATA = 1007, NO_MORE
    """A text message was not UTF-8."""

    POLICY_VIOLATION = 1008, NO_MORE
    """A message had more fragments than any use needs."""

    TOO_LARGE = 1009, NO_MORE
    """A message was longer than ``max_message_size``."""

    SERVICE_RESTART = 1012, AGAIN
    """The node is draining; the reason has the time to wait: ``{"reconnect_in_ms": 250}``."""

    TRY_AGAIN_LATER = 1013, AGAIN
    """The node is full, freed memory, or serves no client without Redis. Back off before the next attempt."""

    HEARTBEAT_TIMEOUT = 4007, AGAIN
    """The peer sent nothing within ``heartbeat_timeout``."""

    SLOW_CONSUMER = 4008, AGAIN
    """The peer did not read its messages."""

    # The codes below are for sockets of the subprotocol stabilizer.v1 only. A plain socket gets an HTTP answer
    # instead of a refusal, and NORMAL instead of REPLACED and ENDED.

    RATE_LIMITED = 4029, AGAIN
    """Too many attempts (HTTP 429); the reason has the time to wait: ``{"reconnect_in_ms": 1500}``."""

    UNAUTHENTICATED = 4401, AGAIN
    """The credentials are missing, wrong or expired (HTTP 401). Renew them before the next attempt."""

    REPLACED = 4500, NO_MORE
    """A newer connection took the place of this one; the reason has its session: ``{"by": "<sid>"}``.

    A client whose own next socket has this session ignores the code.
    """

    INVALID_INPUT = 4502, NO_MORE
    """The client broke the subprotocol; the reason has the rule: ``{"code": "json"}``."""

    FORBIDDEN = 4503, NO_MORE
    """The client may not connect here (HTTP 403)."""

    NOT_FOUND = 4504, NO_MORE
    """The path or its subject does not exist (HTTP 404)."""

    CONFLICT = 4509, NO_MORE
    """The client has as many connections as the settings allow (HTTP 409)."""

    ENDED = 4510, NO_MORE
    """The application closed the connection on purpose."""


RECONNECT = frozenset(code for code in CloseCode if code.reconnects)
"""Codes after which a client should connect again."""

# The members under their own names. Reading one from the class takes seven times as long in Python 3.11.
NORMAL = CloseCode.NORMAL
GOING_AWAY = CloseCode.GOING_AWAY
NO_STATUS = CloseCode.NO_STATUS
ABNORMAL = CloseCode.ABNORMAL
INVALID_DATA = CloseCode.INVALID_DATA
POLICY_VIOLATION = CloseCode.POLICY_VIOLATION
TOO_LARGE = CloseCode.TOO_LARGE
SERVICE_RESTART = CloseCode.SERVICE_RESTART
TRY_AGAIN_LATER = CloseCode.TRY_AGAIN_LATER
HEARTBEAT_TIMEOUT = CloseCode.HEARTBEAT_TIMEOUT
SLOW_CONSUMER = CloseCode.SLOW_CONSUMER
RATE_LIMITED = CloseCode.RATE_LIMITED
UNAUTHENTICATED = CloseCode.UNAUTHENTICATED
REPLACED = CloseCode.REPLACED
INVALID_INPUT = CloseCode.INVALID_INPUT
FORBIDDEN = CloseCode.FORBIDDEN
NOT_FOUND = CloseCode.NOT_FOUND
CONFLICT = CloseCode.CONFLICT
ENDED = CloseCode.ENDED

INTERNAL_ERROR = 1011
"""An exception in the application, or in a write. It has its standard meaning, and is not in the table above."""

MAX_REASON_BYTES = 123
"""Longest reason of a close frame, by RFC 6455 §5.5."""

ALLOWED = "1000-1003, 1007-1014 or 3000-4999"


def is_allowed(code: int) -> bool:
    """Whether a code may be sent."""
    reserved = (1004, CloseCode.NO_STATUS, CloseCode.ABNORMAL)
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in reserved)


def check(code: int) -> int:
    """Return a code that may be sent.

    Raises:
        ConfigurationError: RFC 6455 §7.4 reserves it, or it is out of range.
    """
    if is_allowed(code):
        return code
    raise ConfigurationError(f"code must be {ALLOWED}, got {code}")


def fitting(reason: str) -> str:
    """Return the part of a reason that fits into a close frame."""
    return (reason or "").encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")
