"""Envelopes to the inbox of one node: evicts, requests and replies."""

import json
from typing import Any

from ..backends.ports import Bus
from ..names import ConnectionId, NodeId, node_of
from ..wire.envelopes import Envelope, Kind
from ..wire.messages import Form
from .state import NodeState


class Inboxes:
    """Numbers an envelope when it is published, so that no later one of this node overtakes it."""

    def __init__(self, state: NodeState, bus: Bus) -> None:
        self._state, self._bus = state, bus

    async def evict(self, connection_id: ConnectionId) -> None:
        """Have the node of a connection close it."""
        sequence, previous = self._state.sequencer.next("inbox")
        own = self._state.node_id
        envelope = Envelope(own, sequence, previous, Kind.EVICT, targets=(connection_id,))
        await self._bus.publish_node(node_of(connection_id), envelope)

    async def request(self, node: NodeId, client_id: str, body: str, ask: int) -> int:
        """Send a request (see ``requests``); return 1 if the node is subscribed to its inbox, else 0."""
        sequence, previous = self._state.sequencer.next("inbox")
        own = self._state.node_id
        envelope = Envelope(own, sequence, previous, Kind.REQUEST, (client_id,), (), Form.JSON, body, ask)
        return await self._bus.publish_node(node, envelope)

    async def reply(self, node: NodeId, ask: int, outcome: Any) -> None:
        """Answer the question ``ask`` of a node, which may be this one."""
        if self._state.is_own(node):
            self._state.replies.resolve(ask, self._state.node_id, outcome)
            return
        sequence, previous = self._state.sequencer.next("inbox")
        own, body = self._state.node_id, json.dumps(outcome)
        envelope = Envelope(own, sequence, previous, Kind.REPLY, form=Form.JSON, body=body, ask=ask)
        await self._bus.publish_node(node, envelope)
