"""Connections that a broadcast leaves out, as applications give them."""

from collections.abc import Iterable

from ..exceptions import InvalidNameError
from ..local.connection import Connection
from ..names import has_utf8
from ..wire.envelopes import CONNECTION


def exclusions_of(connections: Connection | str | Iterable[Connection | str] | None) -> list[str]:
    """Return the exclusions of an envelope for connections or their ids.

    Raises:
        InvalidNameError: One is neither a connection nor a string.
    """
    if connections is None:
        return []
    each = [connections] if isinstance(connections, Connection | str) else connections
    return [CONNECTION + _id_of(connection) for connection in each]


def _id_of(connection: Connection | str) -> str:
    if isinstance(connection, Connection):
        return connection.connection_id
    if isinstance(connection, str) and has_utf8(connection):
        return connection
    raise InvalidNameError(
        f"exclude_connection must be a Connection or its connection_id, got {connection!r:.200}"
    )
