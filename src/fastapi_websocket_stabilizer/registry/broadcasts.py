"""Broadcasts of a node with logs: each is stored as the entry of a log, or says that it is none."""

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ..backends.appending import appended
from ..backends.log_ports import Append, Appended, LogBounds, LogKind, LogName
from ..backends.policies import Policy, Target
from ..backends.ports import Bus
from ..exceptions import BackendUnavailableError, BroadcastFailedError, WebSocketStabilizerError
from ..local.batches import Outcome, settle, took
from ..local.sends import first_step
from ..models import BroadcastResult, Sent
from ..runtime.loops import running_loop
from ..wire.channels import Channel
from ..wire.envelopes import VOLATILE, Envelope
from ..wire.messages import Encoded
from .logs import channel_of
from .outbound import Outbound
from .replies import is_report
from .state import NodeState


@dataclass(slots=True, eq=False)
class Copy:
    """One publication of a message: the only one, or that to one of several rooms.

    Attributes:
        bounds: Those of the log that stores it; None if it is not stored.
        echo: This node's outcome; None if the message does not come back.
        nodes: Number of nodes that Redis passed it to.
        id: Its id in the log, or 0.
    """

    log: LogName
    bounds: LogBounds | None
    channel: Channel
    envelope: Envelope
    echo: "asyncio.Future[Outcome | None] | None" = None
    nodes: int = 0
    id: int = 0


class Broadcasts:
    """Sends broadcasts, and stores those that the settings or the caller want to be stored.

    A message to several rooms of which one has a log is published to each of them. Otherwise ``Outbound`` sends it.
    """

    def __init__(self, state: NodeState, bus: Bus, outbound: Outbound, policy: Policy) -> None:
        self._state, self._bus, self._outbound, self._policy = state, bus, outbound, policy
        self._in_flight, self._replies = state.in_flight, state.replies

    def send(
        self,
        message: Encoded,
        exclude: Sequence[str],
        rooms: Sequence[str],
        confirm: float | None,
        *,
        store: bool | None,
        key: str | None,
    ) -> Awaitable[BroadcastResult]:
        """Send one message; see ``WebSocketConnectionManager.broadcast``.

        Raises:
            ConfigurationError: ``store`` or ``key`` is given, and the message of one room is not stored.
        """
        if not self._policy and not store and key is None:
            return self._outbound.broadcast(message, exclude, rooms, confirm)  # without logs at no cost
        targets = self._policy.targets(rooms, store=store, key=key)
        if not targets:
            return self._outbound.broadcast(message, exclude, rooms, confirm)
        if store is False:
            exclude = [*exclude, VOLATILE]
        return self._send(message, exclude, targets, confirm, key or "")

    async def to_mailbox(
        self, client_id: str, message: Encoded, confirm: float | None, *, store: bool, key: str | None
    ) -> Sent:
        """Store a message for a client, and send it to its sockets; see ``send_to_client``.

        Raises:
            ConfigurationError: There are no mailboxes, or ``key`` is given without ``store``.
        """
        target = self._policy.box(client_id, store=store, key=key)
        (copy,), (outcome,) = await self._published(
            message, (), [target], key or "", asks=confirm is not None
        )
        is_delivered = await self._is_delivered(client_id, copy, outcome, confirm)
        return Sent(stored=True, delivered=is_delivered, id=copy.id)

    async def _is_delivered(
        self, client_id: str, copy: Copy, outcome: Outcome | None, confirm: float | None
    ) -> bool:
        """Return whether a stored message has reached a socket of its client, or a node that holds one."""
        if confirm is not None:
            with suppress(BroadcastFailedError):  # all its sockets failed
                asked = [(copy.envelope.ask, copy.nodes)]
                result = await self._outbound.confirmed(asked, confirm, heard=True, names_matter=False)
                return result.succeeded > 0
            return False
        if outcome is None:
            return copy.nodes > 0
        await settle(outcome, self._state.config)
        self._state.counters.messages_failed += len(outcome.errors)
        return copy.nodes > 1 or took(self._state.shards, client_id, outcome)

    async def _send(
        self,
        message: Encoded,
        exclude: Sequence[str],
        targets: Sequence[Target],
        confirm: float | None,
        key: str,
    ) -> BroadcastResult:
        copies, outcomes = await self._published(message, exclude, targets, key, asks=confirm is not None)
        result = await self._result(copies, outcomes, confirm)
        ids = {copy.channel.room: copy.id for copy in copies if copy.id}
        return replace(result, id=next(iter(ids.values()), None), ids=ids)

    async def _published(
        self, message: Encoded, exclude: Sequence[str], targets: Sequence[Target], key: str, *, asks: bool
    ) -> tuple[list[Copy], list[Outcome | None]]:
        """Publish a copy to each target; return them, and their outcomes on this node."""
        await self._outbound.in_turn()
        copies: list[Copy] = []
        try:
            self._check_reachable(targets)
            self._state.counters.broadcasts += targets[0].log.kind is not LogKind.BOX
            copies = self._copies(message, exclude, targets, asks=asks)
            await self._publish(copies, key)
            return copies, [await self._echoed(copy) for copy in copies]
        except BaseException as error:
            if any(target.bounds for target in targets):
                self._count_failure(error)
            for copy in copies:
                self._give_up_on(copy, error)
            raise

    def _check_reachable(self, targets: Sequence[Target]) -> None:
        """Raise at once while Redis is away: what cannot be stored must not be delivered."""
        if any(target.bounds for target in targets):
            self._state.check_reachable()
        else:
            self._outbound.check_reachable()

    def _count_failure(self, error: BaseException) -> None:
        if isinstance(error, BackendUnavailableError) and error.outcome_unknown:
            self._state.counters.history_unconfirmed += 1
        elif isinstance(error, WebSocketStabilizerError):
            self._state.counters.history_refused += 1

    def _copies(
        self,
        message: Encoded,
        exclude: Sequence[str],
        targets: Sequence[Target],
        *,
        asks: bool,
    ) -> list[Copy]:
        """Number all copies, one after the other, before the first is published."""
        names, outgoing, found = [log.name for log, _ in targets if log.name], self._state.outgoing, []
        for log, bounds in targets:
            channel, ask = channel_of(log), 0
            if asks:
                ask = self._replies.open(is_report)
            if bounds is None:
                envelope = outgoing.broadcast(channel, message, exclude, names, ask)
            else:
                envelope = outgoing.stored(message, exclude, names, ask)
            found.append(Copy(log, bounds, channel, envelope))
        for copy in found:
            copy.echo = self._outbound.expect(copy.envelope, copy.channel, is_stored=copy.bounds is not None)
        return found

    # Publishing

    async def _publish(self, copies: Sequence[Copy], key: str) -> None:
        stored = [(c, Append(c.log, c.envelope, c.bounds, key)) for c in copies if c.bounds is not None]
        answers = self._state.backend.logs.append([append for _, append in stored])
        calls = [self._stored(c, a, answer) for (c, a), answer in zip(stored, answers, strict=True)]
        # A degrading bus would deliver the others here without Redis, although this call raises then.
        bus = self._state.backend.bus if stored else self._bus
        calls += [_volatile(bus, copy) for copy in copies if copy.bounds is None]
        if len(calls) == 1:
            await calls[0]
            return
        started = [
            _started(call) for call in calls
        ]  # all in this step, so that no later message overtakes one
        for error in await asyncio.gather(*started, return_exceptions=True):
            if error is not None:
                raise error

    async def _stored(self, copy: Copy, append: Append, answer: "asyncio.Future[Appended]") -> None:
        logs, timeout_s = self._state.backend.logs, self._state.config.redis_timeout_s
        found = await appended(logs, append, answer, timeout_s, self._count_repeat)
        copy.id, copy.nodes = found.entry, found.nodes
        counters = self._state.counters
        counters.history_appends += found.is_new
        counters.history_trimmed_messages += found.trimmed.messages
        counters.history_trimmed_bytes += found.trimmed.bytes
        counters.history_trimmed_age += found.trimmed.age
        if not found.is_new and append.key:  # an earlier call has published it
            self._in_flight.resolve(copy.envelope.sequence, None)

    def _count_repeat(self) -> None:
        self._state.counters.history_repeats += 1

    # The outcome

    async def _echoed(self, copy: Copy) -> Outcome | None:
        return await self._outbound.echoed(copy.echo, copy.envelope.sequence)

    def _give_up_on(self, copy: Copy, error: BaseException) -> None:
        self._replies.close(copy.envelope.ask)
        self._outbound.give_up_on(copy.envelope.sequence, error)

    async def _result(
        self, copies: Sequence[Copy], outcomes: Sequence[Outcome | None], confirm: float | None
    ) -> BroadcastResult:
        heard = [outcome for outcome in outcomes if outcome is not None]
        nodes = max(copy.nodes for copy in copies)
        if confirm is not None:
            asked = [(copy.envelope.ask, copy.nodes) for copy in copies]
            names_matter = not copies[0].channel.room
            return await self._outbound.confirmed(
                asked, confirm, heard=bool(heard), names_matter=names_matter
            )
        for outcome in heard:
            await settle(outcome, self._state.config)
        errors = [error for outcome in heard for error in outcome.errors]
        self._state.counters.messages_failed += len(errors)
        total, succeeded = (sum(getattr(each, name) for each in heard) for name in ("total", "succeeded"))
        return BroadcastResult(total, succeeded, len(errors), errors, nodes=nodes, heard=bool(heard))


async def _volatile(bus: Bus, copy: Copy) -> None:
    copy.nodes = await bus.publish(copy.channel, copy.envelope)


def _started(call: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
    """Run a coroutine up to its first wait, and return its outcome."""
    try:
        rest = first_step(call)
    except Exception as error:  # noqa: BLE001 - the outcome of one copy, which the caller raises
        failed: asyncio.Future[None] = running_loop().create_future()
        failed.set_exception(error)
        return failed
    return asyncio.ensure_future(_nothing() if rest is None else rest)


async def _nothing() -> None:
    """Return at once."""
