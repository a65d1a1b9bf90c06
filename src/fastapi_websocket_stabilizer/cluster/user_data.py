"""User data: values that the application keeps with a client's newest socket. They never leave this node."""

from contextlib import suppress
from typing import Any

from ..exceptions import LOSSES, ConnectionNotFoundError
from .budget import Budget
from .context import Context
from .directory import Directory


class UserData:
    """Reads and writes the values, and names the node when the client's sockets are elsewhere."""

    def __init__(self, context: Context, budget: Budget, directory: Directory) -> None:
        self._context, self._budget, self._directory = context, budget, directory

    async def set(self, client_id: str, key: str, value: Any) -> None:
        """See ``manager.set_user_data``."""
        connections = self._context.shards.of_client(client_id)
        if not connections:
            await self._check_elsewhere(client_id)
            raise ConnectionNotFoundError(f"client {client_id!r} is not connected to this node")
        await self._budget.set_user_data(connections[-1], key, value)

    async def get(self, client_id: str, key: str) -> Any | None:
        """See ``manager.get_user_data``."""
        connections = self._context.shards.of_client(client_id)
        if not connections:
            await self._check_elsewhere(client_id)
            return None
        return connections[-1].user_data.get(key)

    async def _check_elsewhere(self, client_id: str) -> None:
        """Raise when another node holds the client; a registry that does not answer is not asked twice.

        Raises:
            ConnectionNotFoundError: Names that node.
        """
        if not self._context.is_distributed or self._context.loop is None:
            return
        nodes = set()
        with suppress(*LOSSES):
            self._context.check_reachable()
            nodes = {entry.node for entry in await self._directory.presence(client_id)}
        if others := sorted(node for node in nodes if not self._context.is_own(node)):
            raise ConnectionNotFoundError(
                f"client {client_id!r} is connected to node {others[0]}, and user data stays with the socket: "
                "call that replica, or use metadata or a store that all replicas share"
            )
