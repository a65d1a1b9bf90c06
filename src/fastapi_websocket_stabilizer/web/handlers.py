"""The connection of the calling handler, so that ``disconnect(client_id)`` in it means its own socket.

Release 1.1's pattern ends with ``except WebSocketDisconnect: await manager.disconnect(client_id)``. If the socket
of that handler was replaced, the call must not close the newer socket.
"""

from contextvars import Context, ContextVar, copy_context

from ..exceptions import ConnectionNotFoundError
from ..local.connection import Connection
from ..local.lifecycle import Ended

_QUIET = (Ended.GONE, Ended.REPLACED, Ended.TIMED_OUT, Ended.SLOW, Ended.EVICTED, Ended.SHUTDOWN)

PRUNE_AT = 256
"""Number of connections of one task from which on ended ones are removed."""


class _Held:
    """Connections that one task registered. Ended ones are kept, so that ``disconnect`` can check how they ended.

    Attributes:
        reported: Ended connections for which ``disconnect`` has returned silently.
    """

    def __init__(self) -> None:
        self.connections: dict[tuple[object, str], Connection] = {}
        self.reported: set[Connection] = set()
        self._prune_at = PRUNE_AT

    def add(self, registry: object, connection: Connection) -> None:
        self.connections[registry, connection.client_id] = connection
        if len(self.connections) > self._prune_at:  # a task with many sockets, such as a gateway
            self.connections = {key: held for key, held in self.connections.items() if held.ended is None}
            self.reported.clear()
            self._prune_at = max(PRUNE_AT, 2 * len(self.connections))


# Set in the context of the task that called connect(). Tasks made from it share the object. It is lost if connect()
# runs in a task of its own (gather, wait_for before Python 3.12).
_held: ContextVar[_Held | None] = ContextVar("fws_held_connections", default=None)


def surroundings() -> Context | None:
    """Return a copy of the calling handler's context without this module's variable, or None if it has no others."""
    context = copy_context()
    if len(context) == (_held in context):
        return None
    context.run(_held.set, None)
    return context


def remember(registry: object, connection: Connection) -> None:
    """Record that the calling handler registered this connection."""
    held = _held.get()
    if held is None:
        held = _Held()
        _held.set(held)
    held.add(registry, connection)


def mine(registry: object, client_id: str) -> Connection | None:
    """Return the connection that the calling handler registered for this client, if any."""
    held = _held.get()
    return None if held is None else held.connections.get((registry, client_id))


def check_ended(connection: Connection) -> None:
    """Return silently the first time if the calling handler did not end its connection; otherwise raise as in 1.1.

    Raises:
        ConnectionNotFoundError: A send failed, the handler released the connection, or this is a repeated call.
    """
    held = _held.get()
    if connection.ended not in _QUIET or held is None or connection in held.reported:
        raise ConnectionNotFoundError(f"client {connection.client_id!r} is not connected")
    held.reported.add(connection)
