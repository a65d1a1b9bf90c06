"""Messages that come in for this node's sockets: fanned out, and whoever asked is told what became of them."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..local.backlog import DROPPED, settled
from ..local.connection import Connection
from ..local.jobs import Job, Mail, Tally
from ..local.owner import Limits
from ..local.shards import Shards
from ..names import ConnectionId, NodeId
from ..wire.envelopes import CONNECTION, Envelope, Kind
from ..wire.messages import Encoded, Form
from .state import NodeState

MAX_REPORTED_ERRORS = 100
"""Errors that one node reports in its confirmation of a broadcast."""


class Inbound:
    """The receiving end of ``Sender``."""

    def __init__(self, state: NodeState) -> None:
        self._state = state

    def deliver(self, envelope: Envelope) -> None:
        """Fan messages out, then answer the node that asked, or the call here that waits."""
        if envelope.kind is Kind.DIRECT:
            self._deliver_parts(envelope)
            return
        is_own = self._state.is_own(envelope.sender)
        done = partial(self._delivered, envelope, is_own)
        exclude = envelope.exclude
        spared = frozenset(filter(None, map(self._spared, exclude))) if exclude else frozenset()
        job = Job(envelope.message(), envelope.targets, frozenset(exclude), done, spared)
        if is_own:
            self._state.in_flight.arrived(envelope.sequence, job)
        else:
            self._state.fan_out.submit(job)

    def _spared(self, name: str) -> Connection | None:
        """Return the connection here that an exclusion names; None for a client, and for one elsewhere."""
        if not name.startswith(CONNECTION):
            return None
        return self._state.shards.get(ConnectionId(name.removeprefix(CONNECTION)))

    def _deliver_parts(self, envelope: Envelope) -> None:
        letters: list[tuple[Encoded, Sequence[str]]] = []
        for part in envelope.parts:
            letter = part.message(), part.targets
            if part.ask:  # what became of exactly this one
                question = replace(envelope, targets=tuple(part.targets), ask=part.ask, parts=())
                self._state.fan_out.submit(Mail(letters))
                self._state.fan_out.submit(Mail([letter], done=partial(self._delivered, question, False)))
                letters = []
            else:
                letters.append(letter)
        self._state.fan_out.submit(Mail(letters))

    def _delivered(self, envelope: Envelope, comes_back: bool, tally: Tally) -> None:
        if comes_back:
            self._state.in_flight.resolve(envelope.sequence, tally)
        if envelope.ask:
            self._state.tasks.spawn(self._confirm(envelope, tally), "confirm")

    async def _confirm(self, envelope: Envelope, tally: Tally) -> None:
        await settle(tally, self._state.config)
        failed = {client_id for client_id, _ in tally.errors}
        slow = [each for each in self._addressed(envelope) if each.client_id not in failed]
        # Whoever asks must hear of the others in time, so all slow ones together get half a write's deadline.
        deadline_s = self._state.config.write_timeout_s / 2
        outcomes = await asyncio.gather(*(written(connection, deadline_s) for connection in slow))
        for connection, error in zip(slow, outcomes, strict=True):
            if error is not None:
                tally.errors.append((connection.client_id, error))
                tally.succeeded -= 1
        await self.answer(envelope.sender, envelope.ask, self._report(envelope, tally))

    def _report(self, envelope: Envelope, tally: Tally) -> Any:
        if envelope.kind is Kind.DIRECT:
            return [c for c in envelope.targets if took(self._state.shards, c, tally)]
        errors = tally.errors[:MAX_REPORTED_ERRORS]
        return [tally.total, tally.excluded, tally.succeeded, len(tally.errors), errors]

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

    async def answer(self, node: NodeId, ask: int, answer: Any) -> None:
        """Answer a question of another node, or of this one."""
        if self._state.is_own(node):
            self._state.replies.resolve(ask, self._state.node_id, answer)
            return
        sequence, previous = self._state.sequencer.next("inbox")
        own = self._state.node_id
        reply = Envelope(
            own, sequence, previous, Kind.REPLY, form=Form.JSON, body=json.dumps(answer), ask=ask
        )
        await self._state.backend.bus.publish_node(node, reply)


def took(shards: Shards, client_id: str, tally: Tally) -> bool:
    """Whether a socket of the client took the message: one that failed is not registered any more."""
    dropped = sum(c == client_id and error == DROPPED for c, error in tally.errors)
    return len(shards.of_client(client_id)) > dropped


async def settle(tally: Tally, limits: Limits) -> None:
    """Wait for what is pending, and count it."""
    if not tally.pending:
        return
    pending, tally.pending = tally.pending, []
    outcomes = await asyncio.gather(*(settled(outcome, limits) for _, outcome in pending))
    for (client_id, _), error in zip(pending, outcomes, strict=True):
        if error is None:
            tally.succeeded += 1
        else:
            tally.errors.append((client_id, error))


async def written(connection: Connection, timeout_s: float) -> str | None:
    """Wait until everything queued for a socket was written; return the error if it was not."""
    try:
        async with asyncio.timeout(timeout_s):
            return await connection.drained()
    except TimeoutError:
        return f"not written within {timeout_s:g} s"
