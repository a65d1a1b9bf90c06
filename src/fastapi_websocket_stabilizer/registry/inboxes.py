"""Envelopes to the inbox of one node: evicts, requests and replies."""

import json
from typing import Any

from ..backends.ports import Bus
from ..names import ConnectionId, NodeId, node_of
from .state import NodeState


class Inboxes:
    """Publishes to single nodes. Envelopes get their numbers when they are published, not earlier."""

    def __init__(self, state: NodeState, bus: Bus) -> None:
        self._state, self._bus = state, bus

    async def evict(self, connection_id: ConnectionId, by: str, ask: int = 0) -> int:
        """Have the node of a connection close it, since the session ``by`` displaced it; "" for no session.

        With a question ``ask``, a connection that lives is not closed, and the node answers. Return 1 if the node is
        subscribed to its inbox, else 0.
        """
        envelope = self._state.outgoing.evict(connection_id, by, ask)
        return await self._bus.publish_node(node_of(connection_id), envelope)

    async def request(self, node: NodeId, client_id: str, body: str, ask: int) -> int:
        """Send a request (see ``requests``); return 1 if the node is subscribed to its inbox, else 0."""
        return await self._bus.publish_node(node, self._state.outgoing.request(client_id, body, ask))

    async def reply(self, node: NodeId, ask: int, outcome: Any) -> None:
        """Answer the question ``ask`` of a node, which may be this one."""
        if self._state.is_own(node):
            self._state.replies.resolve(ask, self._state.node_id, outcome)
        else:
            await self._bus.publish_node(node, self._state.outgoing.reply(json.dumps(outcome), ask))
