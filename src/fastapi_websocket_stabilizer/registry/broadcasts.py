"""Broadcasts of a node with logs: each is stored as the entry of a log, or says that it is none."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace

from ..backends.log_ports import Append, Appended, LogBounds, LogKind, LogName
from ..backends.policies import Policy
from ..backends.ports import Bus
from ..exceptions import BackendUnavailableError, ConfigurationError
from ..local.batches import Outcome, settle
from ..models import BroadcastResult
from ..runtime.loops import running_loop
from ..wire.channels import Channel, channel_to
from ..wire.envelopes import VOLATILE, Envelope
from ..wire.messages import Encoded
from .outbound import Outbound
from .replies import is_report
from .state import NodeState

MAX_KEY = 512
"""Longest key of a message, in characters."""


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
        logs = [LogName(LogKind.ROOM, room) for room in rooms] or [LogName(LogKind.ALL)]
        bounds = [self._policy.bounds(log) for log in logs] if self._policy else [None] * len(logs)
        _check(logs, bounds, store=store, key=key)
        if not any(bounds):
            return self._outbound.broadcast(message, exclude, rooms, confirm)
        if store is False:
            exclude, bounds = [*exclude, VOLATILE], [None] * len(logs)
        return self._send(message, exclude, list(zip(logs, bounds, strict=True)), confirm, key or "")

    async def _send(
        self,
        message: Encoded,
        exclude: Sequence[str],
        logs: Sequence[tuple[LogName, LogBounds | None]],
        confirm: float | None,
        key: str,
    ) -> BroadcastResult:
        await self._outbound.in_turn()
        self._check_reachable(logs)
        self._state.counters.broadcasts += 1
        copies = self._copies(message, exclude, logs, asks=confirm is not None)
        try:
            await self._publish(copies, key)
            outcomes = [await self._echoed(copy) for copy in copies]
        except BaseException as error:
            for copy in copies:
                self._give_up_on(copy, error)
            raise
        result = await self._result(copies, outcomes, confirm)
        ids = {copy.channel.room: copy.id for copy in copies if copy.id}
        return replace(result, id=next(iter(ids.values()), None), ids=ids)

    def _check_reachable(self, logs: Sequence[tuple[LogName, LogBounds | None]]) -> None:
        """Raise at once while Redis is away: what cannot be stored must not be delivered."""
        if any(bounds for _, bounds in logs):
            self._state.check_reachable()
        else:
            self._outbound.check_reachable()

    def _copies(
        self,
        message: Encoded,
        exclude: Sequence[str],
        logs: Sequence[tuple[LogName, LogBounds | None]],
        *,
        asks: bool,
    ) -> list[Copy]:
        """Number all copies, one after the other, before the first is published."""
        rooms, outgoing, found = [log.name for log, _ in logs if log.name], self._state.outgoing, []
        for log, bounds in logs:
            channel, ask = channel_to([log.name] if log.name else ()), 0
            if asks:
                ask = self._replies.open(is_report)
            if bounds is None:
                envelope = outgoing.broadcast(channel, message, exclude, rooms, ask)
            else:
                envelope = outgoing.stored(message, exclude, rooms, ask)
            found.append(Copy(log, bounds, channel, envelope))
        for copy in found:
            copy.echo = self._outbound.expect(
                copy.envelope, copy.channel.room, is_stored=copy.bounds is not None
            )
        return found

    # Publishing

    async def _publish(self, copies: Sequence[Copy], key: str) -> None:
        stored = [(c, Append(c.log, c.envelope, c.bounds, key)) for c in copies if c.bounds is not None]
        answers = self._state.backend.logs.append([append for _, append in stored])
        deadline_s = running_loop().time() + self._state.config.redis_timeout_s
        calls = [
            self._stored(c, a, answer, deadline_s) for (c, a), answer in zip(stored, answers, strict=True)
        ]
        calls += [self._volatile(copy) for copy in copies if copy.bounds is None]
        if len(calls) == 1:
            await calls[0]
            return
        results = await asyncio.gather(*calls, return_exceptions=True)
        for error in results:
            if error is not None:
                raise error

    async def _volatile(self, copy: Copy) -> None:
        copy.nodes = await self._bus.publish(copy.channel, copy.envelope)

    async def _stored(
        self, copy: Copy, append: Append, answer: "asyncio.Future[Appended]", deadline_s: float
    ) -> None:
        appended = await self._appended(append, answer, deadline_s)
        copy.id, copy.nodes = appended.entry, appended.nodes
        self._state.counters.history_appends += appended.is_new
        if not appended.is_new and append.key:  # an earlier call has published it
            self._in_flight.resolve(copy.envelope.sequence, None)

    async def _appended(
        self, append: Append, answer: "asyncio.Future[Appended]", deadline_s: float
    ) -> Appended:
        """Wait for an append. If its outcome is unknown, repeat it until the deadline: it is stored once.

        Raises:
            BackendUnavailableError: There is no answer. ``outcome_unknown`` is true if it may have been stored.
        """
        began_s, loop = deadline_s - self._state.config.redis_timeout_s, running_loop()
        while True:
            try:
                return await answer
            except BackendUnavailableError as error:
                if not error.outcome_unknown or loop.time() >= deadline_s:
                    raise
            self._state.counters.history_repeats += 1
            await asyncio.sleep(0)
            again = Append(append.log, append.envelope, append.bounds, append.key, loop.time() - began_s)
            (call,) = self._state.backend.logs.append([again])
            answer = asyncio.ensure_future(_until(deadline_s, call))

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


async def _until(deadline_s: float, answer: "asyncio.Future[Appended]") -> Appended:
    """Wait for an answer until a time of the loop's clock."""
    try:
        async with asyncio.timeout_at(deadline_s):
            return await answer
    except TimeoutError:
        raise BackendUnavailableError(
            "Redis did not say whether a message was stored", outcome_unknown=True
        ) from None


def _check(
    logs: Sequence[LogName], bounds: Sequence[LogBounds | None], *, store: bool | None, key: str | None
) -> None:
    """Check that a message can be stored if the caller wants that.

    Raises:
        ConfigurationError: It cannot, or ``key`` is no key.
    """
    if key is not None and (not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY):
        raise ConfigurationError(f"key must be a string of 1 to {MAX_KEY} characters, got {str(key)[:80]!r}")
    if not store and key is None:
        return
    what = "store=True" if store else "a key"
    if store is False:
        raise ConfigurationError(f"{what} needs a message that is stored, and store is False")
    for log, found in zip(logs, bounds, strict=True):
        if found is None:
            where = f"room {log.name!r}" if log.name else "messages to everybody"
            setting = "history" if log.name else "history_for_all"
            raise ConfigurationError(f"{what} needs a history for {where}: set {setting}")
