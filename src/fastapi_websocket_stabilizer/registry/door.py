"""The checks before a node spends work on a new client."""

from ..exceptions import ConnectionLimitExceededError, WebSocketStabilizerError
from ..models import CompressionMode
from .places import sid_of
from .refusals import is_draining
from .registration import Succession
from .state import NodeState


class Door:
    """Refuses and counts clients that this node has no room for."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._has_warned = self._has_warned_of_start = False

    def check_open(self) -> None:
        """Check that new clients are accepted, before any work is spent on one, such as redeeming a token.

        A full node rejects every new client here. ``Connections.connect`` still accepts one that replaces its own
        socket.

        Raises:
            DrainingError: The node is draining.
            ConnectionLimitExceededError: The node has ``max_connections``.
            BackendUnavailableError: Redis is unavailable and ``on_backend_loss`` is "refuse".
        """
        try:
            if self._state.is_draining:
                raise is_draining()
            if not self._state.degrades:
                self._state.check_reachable()
        except WebSocketStabilizerError:
            self._state.counters.connections_rejected += 1
            raise
        self._check_capacity()

    def check_capacity_for(self, client_id: str, session: Succession | None) -> None:
        """Accept one socket that replaces another, although the node is full until the replaced one is gone.

        Raises:
            ConnectionLimitExceededError: The node has ``max_connections``.
        """
        of_client = self._state.shards.of_client(client_id)
        replaces = session is not None and session.former in filter(None, map(sid_of, of_client))
        if not replaces and len(of_client) != self._state.config.max_connections_per_client:
            self._check_capacity()

    def _check_capacity(self) -> None:
        limit, connections = self._state.config.max_connections, len(self._state.shards)
        if limit is not None and connections >= limit:
            self._state.counters.connections_rejected += 1
            raise ConnectionLimitExceededError(
                f"this node has {connections} connections, max_connections is {limit}",
                scope="node",
                limit=limit,
                current=connections,
            )

    def warn(self) -> None:
        """Log, once each, what only the first socket shows to be a mistake."""
        is_unwanted = self._state.config.compression is CompressionMode.NONE
        if is_unwanted and self._state.served.protocol == "asgi" and not self._has_warned:
            self._has_warned = True
            self._state.log.warning(
                'compression="none" cannot act on this server, which negotiates compression before the '
                "application runs: switch it off there (uvicorn --ws-per-message-deflate false)"
            )
        if self._state.loop is None and not self._has_warned_of_start:
            self._has_warned_of_start = True
            self._state.log.warning(
                "a socket was registered before start(): no heartbeat runs; use "
                "FastAPI(lifespan=manager.lifespan), or await manager.start() in your own lifespan"
            )
