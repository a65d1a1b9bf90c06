"""Which connection belongs to the calling handler, so that ``disconnect(client_id)`` there means exactly it.

Release 1.1's pattern ends with ``except WebSocketDisconnect: await manager.disconnect(client_id)``. In the
handler of a socket that was replaced meanwhile, that call must not close its successor.
"""

from contextvars import Context, ContextVar, copy_context

from ..exceptions import ConnectionNotFoundError
from ..local.connection import Connection
from ..local.owner import Ended

_QUIET = (Ended.GONE, Ended.REPLACED, Ended.TIMED_OUT, Ended.SLOW, Ended.EVICTED, Ended.SHUTDOWN)

PRUNE_AT = 256
"""Connections that one task may have registered before those that have ended are forgotten."""


class _Held:
    """What one task registered; an ended connection is kept to tell its handler so."""

    def __init__(self) -> None:
        self.connections: dict[tuple[object, str], Connection] = {}
        self._prune_at = PRUNE_AT

    def add(self, registry: object, connection: Connection) -> None:
        self.connections[registry, connection.client_id] = connection
        if len(self.connections) > self._prune_at:  # one task for many sockets: a gateway, a test
            self.connections = {key: held for key, held in self.connections.items() if held.ended is None}
            self._prune_at = max(PRUNE_AT, 2 * len(self.connections))


# Set in the context of the task that called connect(); a task made from it shares the object. Lost where
# connect() itself runs in a task of its own (gather, wait_for before Python 3.12).
_held: ContextVar[_Held | None] = ContextVar("fws_held_connections", default=None)


def surroundings() -> Context | None:
    """Return the calling handler's context variables without this module's; None if there are no others."""
    context = copy_context()
    if len(context) == (_held in context):
        return None
    context.run(_held.set, None)
    return context


def remember(registry: object, connection: Connection) -> None:
    """Note that the calling handler registered this connection."""
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
    """Say nothing, once, when others ended it; else complain as release 1.1 did.

    Raises:
        ConnectionNotFoundError: A send had failed, the handler had released it, or was told before.
    """
    if connection.ended not in _QUIET:
        raise ConnectionNotFoundError(f"client {connection.client_id!r} is not connected")
    connection.ended = Ended.RELEASED
