"""``on_backend_loss="degrade"``: messages that cannot leave this node reach at least its own clients.

While Redis answers, this only passes on. What is delivered here alone is noted under its (sender, sequence), so
that it is dropped if Redis brings it back after all: a PUBLISH without an answer may have been carried out.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from ..backends.ports import Bus
from ..exceptions import LOSSES, BackendUnavailableError
from ..names import NodeId
from ..runtime.logs import Occasionally
from ..runtime.loops import running_loop
from ..wire.channels import Channel
from ..wire.envelopes import Envelope
from .state import NodeState

Rows = list[list[NodeId]]
"""For each client the nodes that took its message."""


class DegradingBus:
    """``ports.Bus`` that delivers to this node's clients what Redis does not take."""

    def __init__(
        self, state: NodeState, bus: Bus, deliver: Callable[[Envelope], None], flush: Callable[[], None]
    ) -> None:
        self._state, self._bus, self._deliver, self._flush = state, bus, deliver, flush
        self._trouble = Occasionally(state.log)

    async def publish(self, channel: Channel, envelope: Envelope) -> int:
        try:
            self._state.in_flight.keep(channel, envelope)
            self._deliver_locally_if_lost(channel, envelope)
            if not self._state.is_away:
                return await self._bus.publish(channel, envelope)
        except LOSSES:
            self._deliver_locally(channel, envelope)
        return 1

    async def publish_node(self, node: NodeId, envelope: Envelope) -> int:
        self._state.check_reachable()
        return await self._bus.publish_node(node, envelope)

    def publish_clients(
        self, envelope: Envelope, top: int, but: Sequence[NodeId] = ()
    ) -> "asyncio.Future[Rows]":
        """Reach no client while Redis is away: those of this node are none of the bus's."""
        answer: asyncio.Future[Rows] = running_loop().create_future()
        if self._state.is_away:
            answer.set_result(self._nobody(envelope))
        else:
            reply = self._bus.publish_clients(envelope, top, but)
            reply.add_done_callback(partial(self._answered, envelope, answer))
        return answer

    def _answered(
        self, envelope: Envelope, answer: "asyncio.Future[Rows]", reply: "asyncio.Future[Rows]"
    ) -> None:
        error = None if reply.cancelled() else reply.exception()
        if answer.cancelled():
            return
        if isinstance(error, LOSSES):
            answer.set_result(self._nobody(envelope))
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(reply.result())

    def _nobody(self, envelope: Envelope) -> Rows:
        self._count_loss()
        return [[] for part in envelope.parts for _ in part.targets]

    async def subscribe_room(self, room: str) -> None:
        is_late = self._state.is_away or not self._state.backend.is_connected
        try:
            # It is asked for in any case, and subscribed with everything else when the bus is back.
            async with asyncio.timeout(0 if is_late else None):
                await self._bus.subscribe_room(room)
        except TimeoutError:
            raise BackendUnavailableError(f"room {room!r} is not subscribed yet") from None

    def unsubscribe_room(self, room: str) -> None:
        self._bus.unsubscribe_room(room)

    def deliver_in_flight(self) -> None:
        """Deliver here what is on its way, since what is sent from now on is delivered at once."""
        for channel, envelope in self._state.in_flight.kept():
            self._deliver_locally(channel, envelope)

    def _deliver_locally_if_lost(self, channel: Channel, envelope: Envelope) -> None:
        """Deliver here what will not come back: Redis is away, or the bus is down."""
        if self._state.is_away or not self._state.backend.is_connected:
            self._flush()  # what was sent before
            self._deliver_locally(channel, envelope)

    def _deliver_locally(self, channel: Channel, envelope: Envelope) -> None:
        """Deliver here, unless that was done, or something newer was."""
        state = self._state
        if channel.room and channel.room not in state.shards.rooms:
            return
        arrival = state.sequences.observe(channel, envelope.sender, envelope.sequence, 0)
        if arrival.late:
            state.counters.bus_late += 1
            state.in_flight.resolve(envelope.sequence, None)
            return
        if arrival.duplicate:
            return
        self._count_loss()
        self._deliver(envelope)

    def _count_loss(self) -> None:
        self._state.counters.degraded += 1
        self._trouble.log("Redis is away: messages reach the clients of this node only")
