"""The metadata of this node's connections, which presence shows on all nodes."""

from collections.abc import Mapping
from typing import Any

from ..exceptions import LOSSES, MessageError
from ..local.connection import Connection
from ..models import Metadata, as_metadata
from ..wire.own_json import encode_json
from .budget import Budget
from .claims import Claims
from .places import place_in
from .presenting import show
from .reclaims import Reclaims
from .registration import registration_of
from .state import NodeState


class Showing:
    """Checks metadata, and changes it in the registry."""

    def __init__(self, state: NodeState, budget: Budget, claims: Claims, reclaims: Reclaims) -> None:
        self._state, self._budget, self._claims, self._reclaims = state, budget, claims, reclaims

    def check(self, metadata: Mapping[str, Any]) -> None:
        """Check that other nodes can read the metadata.

        Raises:
            MessageError: It cannot be encoded as JSON, or is too long.
        """
        limit = self._state.config.max_metadata_size
        is_sent = self._state.is_distributed or self._state.config.client_presence
        if is_sent and metadata and (size := len(encode_json(metadata, "metadata"))) > limit:
            raise MessageError(f"metadata has {size} bytes as JSON, max_metadata_size is {limit}")

    async def change(self, connection: Connection, given: Mapping[str, Any], *, replaces: bool) -> None:
        """Change the metadata of a connection, and show it. See ``Connection.update_metadata``."""
        changes = as_metadata(given)

        def changed() -> Metadata:
            return changes if replaces else as_metadata({**connection.metadata, **changes})

        self.check(changed())
        await self._budget.make_room_for(connection, changed())
        self.check(metadata := changed())  # another change may have come in between
        connection.metadata = metadata
        registration_of(connection).revision += 1
        await self._show(connection)
        await self._state.hooks.run(self._state.hooks.on_metadata, connection)

    async def _show(self, connection: Connection) -> None:
        try:
            self._state.check_reachable()
            is_there = not self._state.is_distributed or await self._claims.show(connection)
            for room in registration_of(connection).places:
                await show(self._state, connection, place_in(connection, connection.connection_id, room))
            if is_there or connection.ended is not None:
                return
        except LOSSES:
            self._reclaims.again(connection)
            if not self._state.degrades:
                raise
        self._reclaims.again(connection)  # with the metadata of now
