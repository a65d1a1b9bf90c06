"""WebSocket close codes that this library sends, and what a client should do about each.

Standard codes keep the meaning of RFC 6455 §7.4 and the IANA registry. Codes 4000-4499 ask the client to
reconnect, 4500-4999 ask it not to.
"""

from .exceptions import ConfigurationError

ALLOWED = "1000-1003, 1007-1014 or 3000-4999"


def is_allowed(code: int) -> bool:
    """Whether a code may be sent."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, NO_STATUS, ABNORMAL))


def check(code: int) -> int:
    """Return a code that may be sent.

    Raises:
        ConfigurationError: RFC 6455 §7.4 reserves it, or it is out of range.
    """
    if is_allowed(code):
        return code
    raise ConfigurationError(f"code must be {ALLOWED}, got {code}")


MAX_REASON_BYTES = 123
"""What RFC 6455 §5.5 leaves for the reason in a close frame."""

NORMAL = 1000
"""Closed on purpose; do not reconnect.

Also "reconnected", when a newer socket of the same client took over, unless ``displaced_code`` is set.
"""

GOING_AWAY = 1001
"""The server process ends. Reconnect."""

INVALID_DATA = 1007
"""A text message was not UTF-8. Do not repeat it."""

POLICY_VIOLATION = 1008
"""One message came in more fragments than anybody needs. Do not repeat it."""

TOO_LARGE = 1009
"""A message was longer than ``max_message_size``. Do not repeat it."""

SERVICE_RESTART = 1012
"""The node is draining. Reconnect; the reason says when: ``{"reconnect_in_ms": 250}``."""

TRY_AGAIN_LATER = 1013
"""This node is full, had to free memory, or may serve nobody without Redis. Reconnect with back-off."""

HEARTBEAT_TIMEOUT = 4007
"""Nothing was heard from the peer within ``heartbeat_timeout``. Reconnect."""

SLOW_CONSUMER = 4008
"""The peer did not read what it was sent. Reconnect."""

RECONNECT = frozenset({GOING_AWAY, SERVICE_RESTART, TRY_AGAIN_LATER, HEARTBEAT_TIMEOUT, SLOW_CONSUMER})
"""Codes of this library that ask the client to connect again."""

NO_STATUS = 1005
"""The peer gave no code, or vanished. Never sent."""

ABNORMAL = 1006
"""The TCP connection ended before the handshake. Never sent."""
