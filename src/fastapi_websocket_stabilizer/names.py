"""Rules for client ids and room names, and their partitions in Redis.

A name is a non-empty string of at most ``MAX_NAME_BYTES`` bytes of UTF-8, without control characters.
``*``, ``{}``, ``:``, ``.``, spaces and Unicode are legal. A name is always the *last* part of a key, so it cannot
collide with another key. The hash tag comes before it, so a name cannot change its slot.
"""

import binascii
import hashlib
import re
from collections.abc import Callable, Iterable
from typing import NewType

from .exceptions import InvalidNameError

NodeId = NewType("NodeId", str)
ConnectionId = NewType("ConnectionId", str)

MAX_NAME_BYTES = 512
"""Maximum length of a client id or room name in bytes of UTF-8."""

PARTITIONS = 256
"""Number of hash tags for clients and rooms. Part of the key format, so it must never change."""

# C0, DEL, C1 and lone surrogates (which have no UTF-8): they would corrupt logs, terminals and keys.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_client_id(client_id: object) -> str:
    """Return ``client_id`` if it is a legal name.

    Raises:
        InvalidNameError: The name is illegal; the message has the rule and the value.
    """
    return _check("client_id", client_id)


def check_room(room: object) -> str:
    """Return ``room`` if it is a legal name.

    Raises:
        InvalidNameError: The name is illegal; the message has the rule and the value.
    """
    return _check("room", room)


def check_each(value: str | Iterable[str] | None, check: Callable[[object], str]) -> list[str]:
    """Return one name or several as a list without duplicates; for None an empty list.

    Raises:
        InvalidNameError: One of the names is illegal.
    """
    if value is None:
        return []
    return list(dict.fromkeys(map(check, as_list(value))))


def as_list(value: Iterable[str]) -> list[str]:
    """Return one name or several as a list. A string is one name."""
    return [value] if isinstance(value, str) else list(value)


def has_utf8(text: str) -> bool:
    """Whether a text can be encoded: it has no lone surrogate."""
    return _SURROGATE.search(text) is None


def printable(text: str) -> str:
    """Return text without characters that act on a terminal, or that UTF-8 lacks. Others may have chosen it."""
    return text if text.isprintable() else repr(text)[1:-1]


def _check(what: str, name: object) -> str:
    if not isinstance(name, str):
        raise InvalidNameError(f"{what} must be a string, got {type(name).__name__}: convert it with str()")
    if not name:
        raise InvalidNameError(f"{what} cannot be empty")
    if _FORBIDDEN.search(name):
        raise InvalidNameError(
            f"{what} must not contain control characters or lone surrogates: {name[:80]!r}"
        )
    if len(name) * 4 > MAX_NAME_BYTES and len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidNameError(
            f"{what} must be at most {MAX_NAME_BYTES} bytes of UTF-8, got {len(name.encode())}: {name[:40]!r}…"
        )
    return name


def partition(name: str) -> str:
    """Return the hash tag of ``name``: Redis' CRC16, modulo 256, as two hex digits."""
    return f"{binascii.crc_hqx(name.encode(), 0) % PARTITIONS:02x}"


def visit_of(connection_id: str) -> str:
    """Return the name of the visit that begins with this connection: 64 bits, which do not reveal the node_id."""
    return hashlib.sha1(connection_id.encode(), usedforsecurity=False).hexdigest()[:16]


def node_of(connection_id: str) -> NodeId:
    """Return the node_id in a connection_id ``<node_id>.<counter>``."""
    return NodeId(connection_id.rpartition(".")[0])
