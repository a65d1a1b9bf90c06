"""Envelopes that come in: handed on by kind; messages are fanned out, and the asking node is answered."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..local.batches import Broadcast, DirectMessages, Outcome, settle, took, written
from ..local.connection import Connection
from ..names import ConnectionId
from ..runtime.logs import Occasionally
from ..wire.channels import Channel
from ..wire.envelopes import CONNECTION, Envelope, Kind
from ..wire.messages import Encoded
from .inboxes import Inboxes
from .state import NodeState

Act = Callable[[Envelope], None]
"""Does what an envelope asks for; raises ``ValueError`` for one that is malformed."""
MAX_REPORTED_ERRORS = 100
"""Errors that one node reports in its confirmation of a broadcast."""


class Inbound:
    """The receiving end of ``Outbound``: drops what came before, and hands each envelope on by its kind."""

    def __init__(self, state: NodeState, inboxes: Inboxes, acts: Mapping[Kind, Act]) -> None:
        self._state, self._inboxes = state, inboxes
        self._malformed = Occasionally(state.log)
        self._acts: dict[Kind, Act] = {
            Kind.BROADCAST: self.deliver,
            Kind.DIRECT: self.deliver,
            Kind.REPLY: self._resolve,
            **acts,
        }

    def receive(self, channel: Channel, envelope: Envelope, size: int) -> None:
        """Take an envelope from the bus."""
        if channel.room and channel.room not in self._state.shards.rooms:
            return  # left, and the server has not heard of it yet
        counters = self._state.counters
        arrival = self._state.sequences.observe(
            channel, envelope.sender, envelope.sequence, envelope.previous
        )
        if channel.kind != "inbox":  # its previous envelope may have gone to another node
            counters.bus_lost += arrival.lost
        if arrival.is_to_be_dropped:
            counters.bus_duplicates += arrival.duplicate
            counters.bus_late += arrival.late
            return
        try:
            act = self._acts.get(envelope.kind)
            if act is None:
                raise ValueError(f"nothing is done about a {envelope.kind.name} envelope")
            act(envelope)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            counters.bus_malformed += 1
            self._malformed.log("envelope dropped", sender=envelope.sender, error=str(error))

    def _resolve(self, envelope: Envelope) -> None:
        self._state.replies.resolve(envelope.ask, envelope.sender, json.loads(envelope.body))

    def deliver(self, envelope: Envelope) -> None:
        """Fan messages out, then answer the node that asked, or the call here that waits."""
        if envelope.kind is Kind.DIRECT:
            self._deliver_parts(envelope)
            return
        is_own = self._state.is_own(envelope.sender)
        done = partial(self._delivered, envelope, is_own)
        exclude = envelope.exclude
        spared = frozenset(filter(None, map(self._spared, exclude))) if exclude else frozenset()
        broadcast = Broadcast(envelope.message(), envelope.targets, frozenset(exclude), done, spared)
        if is_own:
            self._state.in_flight.arrived(envelope.sequence, broadcast)
        else:
            self._state.fan_out.submit(broadcast)

    def _spared(self, name: str) -> Connection | None:
        """Return the connection here that an exclusion names; None for a client, and for one elsewhere."""
        if not name.startswith(CONNECTION):
            return None
        return self._state.shards.get(ConnectionId(name.removeprefix(CONNECTION)))

    def _deliver_parts(self, envelope: Envelope) -> None:
        messages: list[tuple[Encoded, Sequence[str]]] = []
        for part in envelope.parts:
            message = part.message(), part.targets
            if part.ask:  # what became of exactly this one
                question = replace(envelope, targets=tuple(part.targets), ask=part.ask, parts=())
                self._state.fan_out.submit(DirectMessages(messages))
                self._state.fan_out.submit(
                    DirectMessages([message], done=partial(self._delivered, question, False))
                )
                messages = []
            else:
                messages.append(message)
        self._state.fan_out.submit(DirectMessages(messages))

    def _delivered(self, envelope: Envelope, comes_back: bool, outcome: Outcome) -> None:
        if comes_back:
            self._state.in_flight.resolve(envelope.sequence, outcome)
        if envelope.ask:
            self._state.tasks.spawn(self._confirm(envelope, outcome), "confirm")

    async def _confirm(self, envelope: Envelope, outcome: Outcome) -> None:
        await settle(outcome, self._state.config)
        failed = {client_id for client_id, _ in outcome.errors}
        slow = [each for each in self._addressed(envelope) if each.client_id not in failed]
        # Whoever asks must hear of the others in time, so all slow ones together get half a write's deadline.
        deadline_s = self._state.config.write_timeout_s / 2
        outcomes = await asyncio.gather(*(written(connection, deadline_s) for connection in slow))
        for connection, error in zip(slow, outcomes, strict=True):
            if error is not None:
                outcome.errors.append((connection.client_id, error))
                outcome.succeeded -= 1
        await self._inboxes.reply(envelope.sender, envelope.ask, self._report(envelope, outcome))

    def _report(self, envelope: Envelope, outcome: Outcome) -> Any:
        if envelope.kind is Kind.DIRECT:
            return [c for c in envelope.targets if took(self._state.shards, c, outcome)]
        errors = outcome.errors[:MAX_REPORTED_ERRORS]
        return [outcome.total, outcome.excluded, outcome.succeeded, len(outcome.errors), errors]

    def _addressed(self, envelope: Envelope) -> list[Connection]:
        """The local sockets that still have something to write; the others were written to at once."""
        shards = self._state.shards
        if envelope.kind is Kind.DIRECT:
            found = [connection for c in envelope.targets for connection in shards.of_client(c)]
        else:
            rooms, exclude = set(envelope.targets), set(envelope.exclude)
            found = [
                c
                for c in shards
                if (not rooms or rooms & c.rooms)
                and exclude.isdisjoint((c.client_id, CONNECTION + c.connection_id))
            ]
        return [connection for connection in found if connection.is_writing]
