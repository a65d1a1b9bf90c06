"""Rules for client ids and room names, and the place of each in Redis.

A name is any non-empty string without control characters and of at most ``MAX_NAME_BYTES`` bytes of UTF-8:
``*``, ``{}``, ``:``, ``.``, spaces and Unicode are legal. A name is always the *last* part of a key, so it
can collide with no other key, and Redis reads the hash tag before it, so it cannot choose its slot.
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
"""Longest client id or room name in bytes of UTF-8."""

PARTITIONS = 256
"""Number of hash tags that clients and rooms spread over; part of the key format, never changed."""

# C0, DEL, C1 and lone surrogates (which have no UTF-8): names end up in logs, terminals and keys.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_client_id(client_id: object) -> str:
    """Return ``client_id`` if it is a legal name.

    Raises:
        InvalidNameError: It is not; the message names the rule and the value.
    """
    return _check("client_id", client_id)


def check_room(room: object) -> str:
    """Return ``room`` if it is a legal name.

    Raises:
        InvalidNameError: It is not; the message names the rule and the value.
    """
    return _check("room", room)


def check_each(value: str | Iterable[str] | None, check: Callable[[object], str]) -> list[str]:
    """Return one name or several as a list without repetitions; None is none.

    Raises:
        InvalidNameError: One of them is not a legal name.
    """
    if value is None:
        return []
    return list(dict.fromkeys(map(check, as_list(value))))


def as_list(value: Iterable[str]) -> list[str]:
    """Return one name or several as a list: a bare string is one."""
    return [value] if isinstance(value, str) else list(value)


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
    """Return the two hex digits of the hash tag of ``name``: Redis' own CRC16, modulo 256."""
    return f"{binascii.crc_hqx(name.encode(), 0) % PARTITIONS:02x}"


def visit_of(connection_id: str) -> str:
    """Return the name of the visit that a client begins with this connection: 64 bits without its node_id."""
    return hashlib.sha1(connection_id.encode(), usedforsecurity=False).hexdigest()[:16]


def node_of(connection_id: str) -> NodeId:
    """Return the node part of ``<node_id>.<counter>``."""
    return NodeId(connection_id.rpartition(".")[0])
