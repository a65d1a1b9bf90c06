"""``on_backend_loss="degrade"``: messages that cannot leave this node reach its own clients.

While Redis answers, all calls are passed on. A message that is delivered only here is recorded under its sender and
sequence. A PUBLISH without an answer may have been executed, and then the copy from Redis is dropped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
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
"""For each client, the nodes that received its message."""


class DegradingBus:
    """A ``ports.Bus`` that delivers messages to this node's clients if Redis does not accept them."""

    def __init__(
        self,
        state: NodeState,
        bus: Bus,
        deliver: Callable[[Channel, Envelope], None],
        flush: Callable[[], None],
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
        """While Redis is unavailable, reach no client: the bus never serves those of this node."""
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
        await self._subscribed(self._bus.subscribe_room(room), f"room {room!r}")

    def unsubscribe_room(self, room: str) -> None:
        self._bus.unsubscribe_room(room)

    async def subscribe_box(self, client_id: str) -> None:
        await self._subscribed(self._bus.subscribe_box(client_id), f"the mailbox of {client_id!r}")

    def unsubscribe_box(self, client_id: str) -> None:
        self._bus.unsubscribe_box(client_id)

    async def _subscribed(self, confirmation: Awaitable[None], what: str) -> None:
        is_late = self._state.is_away or not self._state.backend.is_connected
        try:
            # The bus keeps the request, and subscribes with all other channels when it is back.
            async with asyncio.timeout(0 if is_late else None):
                await confirmation
        except TimeoutError:
            raise BackendUnavailableError(f"{what} is not subscribed yet") from None

    def deliver_in_flight(self) -> None:
        """Deliver the publications in flight here, before later ones are delivered without Redis."""
        for channel, envelope in self._state.in_flight.kept():
            self._deliver_locally(channel, envelope)

    def _deliver_locally_if_lost(self, channel: Channel, envelope: Envelope) -> None:
        """Deliver an envelope here if Redis or the bus is down, because it would not come back."""
        if self._state.is_away or not self._state.backend.is_connected:
            self._flush()  # earlier direct sends
            self._deliver_locally(channel, envelope)

    def _deliver_locally(self, channel: Channel, envelope: Envelope) -> None:
        """Deliver an envelope here, unless it or a newer one of its channel was delivered."""
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
        self._deliver(channel, envelope)

    def _count_loss(self) -> None:
        self._state.counters.degraded += 1
        self._trouble.log("Redis is away: messages reach the clients of this node only")
