"""Checks of what the façade's calls are given."""

from collections.abc import Iterable

from .exceptions import ConfigurationError, InvalidNameError
from .local.connection import Connection
from .wire.envelopes import CONNECTION


def check_confirm(confirm: object) -> None:
    """Raise unless ``confirm`` is None or a positive, finite number of seconds.

    Raises:
        ConfigurationError: It is something else.
    """
    if confirm is None or (isinstance(confirm, int | float) and 0 < confirm < float("inf")):
        return
    raise ConfigurationError(f"confirm must be a positive number of seconds or None, got {confirm!r}")


def exclusions_of(connections: Connection | str | Iterable[Connection | str] | None) -> list[str]:
    """Return connections, or their ids, as an envelope's exclusions name them.

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
    if isinstance(connection, str):
        return connection
    raise InvalidNameError(
        f"exclude_connection must be a Connection or its connection_id, got {type(connection).__name__}"
    )
