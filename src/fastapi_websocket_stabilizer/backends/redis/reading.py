"""Values in Redis, read as untrusted input: values of another format are skipped and counted."""

import re
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from ...exceptions import WireError
from ...names import ConnectionId, NodeId, check_client_id, check_room, node_of, visit_of
from ...runtime.metrics import Counters
from ..ports import Entry, IndexEntry, KeptRoom
from ..revocations import Revocation
from .connection import WrongTypeError

T = TypeVar("T")

_NODE = re.compile(rb"[\w-]{1,64}")
_CONNECTION = re.compile(rb"[\w-]{1,64}\.[\w-]{1,64}")  # the scripts have the same rule
MAX_STAMP = 1 << 53
TOP_LIMIT = 9_007_199_253_000_000
"""Ids of a log from which on its meta is foreign: a million below the integers that clients cannot have."""
"""The largest integer that Lua represents exactly; µs since 1970 reach it in 2255."""
_META = struct.Struct("<8d")
_VISIT = re.compile(rb"[0-9a-fA-F]+")
_STAMP = re.compile(rb"\d{1,16}")


class Reader:
    """Converts Redis' replies, and counts malformed values."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    async def reply(self, call: Awaitable[Any], default: T) -> Any | T:
        """Return the reply; ``default`` if the key has a value of another type."""
        try:
            return await call
        except WrongTypeError:
            self._counters.redis_malformed += 1
            return default

    def each(self, read: Callable[..., T], items: list[bytes], size: int = 2) -> list[T]:
        """Return the results of ``read`` for every ``size`` items, without those for which it raises."""
        found = []
        for start in range(0, len(items), size):
            try:
                found.append(read(*items[start : start + size]))
            except (ValueError, OverflowError, WireError):
                self._counters.redis_malformed += 1
        return found


def node(data: bytes) -> NodeId:
    """Return a node_id.

    Raises:
        ValueError: The data has another format.
    """
    if not _NODE.fullmatch(data):
        raise ValueError("not a node_id")
    return NodeId(data.decode())


def connection(data: bytes) -> ConnectionId:
    """Return a connection_id. Raises as ``node``."""
    if not _CONNECTION.fullmatch(data):
        raise ValueError("not a connection_id")
    return ConnectionId(data.decode())


def entry(connection_id: bytes, value: bytes) -> Entry:
    """Return an entry of a client. Raises as ``node``."""
    stamp, _, rest = value.partition(b" ")
    if not _STAMP.fullmatch(stamp) or int(stamp) > MAX_STAMP:
        raise ValueError("not a stamp")
    visit, _, body = rest.partition(b" ")
    if not _VISIT.fullmatch(visit):  # the scripts have the same rule
        visit, body = visit_of(connection_id.decode()).encode(), rest
    return Entry(connection(connection_id), int(stamp), body, visit.decode())


def member(connection_id: bytes, value: bytes) -> tuple[ConnectionId, str]:
    """Return a member of a room. Raises as ``node``."""
    stay, _, client_id = value.partition(b" ")
    if not stay.isdigit():
        raise ValueError("not a stay")
    return connection(connection_id), check_client_id(client_id.decode())


def count(node_id: bytes, members: bytes) -> tuple[NodeId, int]:
    """Return a node and its number of members of a room. Raises as ``node``."""
    return node(node_id), max(0, int(members))


def lease(node_id: bytes, deadline_ms: bytes) -> tuple[NodeId, int]:
    """Return a node and the deadline of its lease in ms. Raises as ``node``, or OverflowError for infinity."""
    return node(node_id), int(float(deadline_ms))


def line(owner: NodeId, field: bytes, value: bytes) -> IndexEntry:
    """Return a line of the index of ``owner``. Raises as ``node``, and for a connection of another node."""
    name, separator, room = field.partition(b" ")
    connection_id = connection(name)
    if node_of(connection_id) != owner:
        raise ValueError("another node's connection")
    if not separator:
        return IndexEntry(connection_id, check_client_id(value.decode()), None)
    numbered, _, client_id = value.partition(b" ")
    stay, _, name = numbered.partition(b":")
    place = IndexEntry(connection_id, check_client_id(client_id.decode()), room.decode(), int(stay))
    return replace(place, visit=stay_name(name)) if name else place


def stay_name(data: bytes) -> str:
    """Return the name of a stay that began under another connection_id. Raises as ``node``."""
    began_as, _, number = data.rpartition(b":")
    return f"{connection(began_as)}:{int(number)}"


def kept_room(room: bytes, value: bytes) -> tuple[str, KeptRoom]:
    """Return a room of a session; the name of everybody's log is empty. Raises as ``node``."""
    since, by_client = value.split(b" ")
    name = check_room(room.decode()) if room else ""
    return name, KeptRoom(
        None if by_client == b"-" else by_client == b"1", None if since == b"-" else int(since)
    )


def revocation(name: bytes, age_us: bytes) -> tuple[Revocation, float]:
    """Return what was taken from a client, and the seconds since then. Raises as ``node``."""
    return Revocation.read(name.decode()), int(age_us) / 1e6


def shown(client_id: bytes, value: bytes) -> tuple[str, bytes]:
    """Return a client that a room shows, and its metadata. Raises as ``node``."""
    return check_client_id(client_id.decode()), value[value.index(b"{") :]


def entry_id(data: bytes) -> int:
    """Return the id of an entry of a log; 0 if it has none."""
    number = int.from_bytes(data[:8])
    return number if len(data) > 8 and number <= MAX_STAMP else 0


def log_meta(data: bytes) -> tuple[int, int, int, int]:
    """Return top, base, hole and reset of a log. Raises as ``node``."""
    if len(data) != _META.size:
        raise ValueError("not the meta of a log")
    top, base, size, count, first, hole, reset, _ = _META.unpack(data)
    ids, sizes = (base, first, hole, reset), (size, count)
    # The same rule as in the scripts, which begin a log anew that breaks it. NaN breaks each comparison.
    if not (top < TOP_LIMIT and all(0 <= id_ <= top for id_ in ids) and all(0 <= n < 1e12 for n in sizes)):
        raise ValueError("not the meta of a log")
    return int(top), int(base), int(hole), int(reset)
