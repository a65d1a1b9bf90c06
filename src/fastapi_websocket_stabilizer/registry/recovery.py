"""Reactions to beats, outages and bus gaps: repeat claims, compare with the registry, sweep dead nodes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..backends.ports import Renewal
from ..exceptions import LOSSES
from ..models import BusGap
from ..names import NodeId
from .claims import Claims
from .degrade import DegradingBus
from .history import History
from .inspection import Inspection
from .keeping import Keeping
from .lease import Lease
from .peers import Agreement, Deadlines
from .reclaims import Reclaims
from .state import NodeState
from .sweep import Sweeper
from .telemetry import Telemetry
from .tokens import Tokens
from .watching import Watching


class Recovery:
    """Listener of the lease and of the bus."""

    def __init__(
        self,
        state: NodeState,
        lease: Lease,
        *,
        claims: Claims,
        reclaims: Reclaims,
        tokens: Tokens,
        keeping: Keeping,
        watching: Watching,
        sweeper: Sweeper,
        history: History,
        telemetry: Telemetry,
        degrading: DegradingBus | None,
    ) -> None:
        self._state, self._lease, self._claims, self._reclaims = state, lease, claims, reclaims
        self._tokens, self._keeping, self._history, self._degrading = tokens, keeping, history, degrading
        self._watching, self._telemetry = watching, telemetry
        self.sweeper: Sweeper = sweeper
        self._inspection = Inspection(state, lease, claims, reclaims)
        self._agreement = Agreement(state)
        self._deadlines = Deadlines(state)
        self._sweeping: set[NodeId] = set()
        self._is_catching_up = self._must_compare = self._must_tidy = False
        self._must_share_secret = self._must_revoke = self._must_begin = self._is_asked_again = False

    # Events of the lease

    def store_lost(self, error: Exception) -> None:
        """Record that Redis is unavailable, and deliver the messages in flight here if the policy is "degrade"."""
        if not self._state.is_away:
            self._state.is_away = True
            self._state.log.warning("Redis is away: %s", error, extra={"node_id": self._state.node_id})
            if self._degrading is not None:
                self._degrading.deliver_in_flight()

    def store_answered(self) -> None:
        """Record that Redis answers, and check the bus."""
        if self._state.is_away:
            self._state.is_away = False
            self._state.log.warning("Redis is back", extra={"node_id": self._state.node_id})
        self._state.backend.beat()

    def rename(self, *, has_lapsed: bool = False) -> None:
        """Take a new node_id for this node and its connections. The next beat claims them again."""
        self._state.rename(has_lapsed=has_lapsed)
        self._reclaims.rename_all()

    async def lease_gone(self, *, has_lapsed: bool) -> "asyncio.Future[None]":
        """Take a new node_id, and register all connections again under it.

        The result ends when they are registered. The beat does not wait for it.
        """
        state = self._state
        state.counters.leases_refused += 1
        self.rename(
            has_lapsed=has_lapsed
        )  # before any call can fail, as the next beat may find the new lease held
        state.log.warning("lease lapsed; registering again", extra={"node_id": state.node_id})
        # A Redis that lost the lease may have lost the secret, and the redemptions of tokens.
        self._must_share_secret = self._must_revoke = self._must_begin = True
        with suppress(*LOSSES):  # the bus subscribes when it is back
            await state.backend.rename(state.node_id)
        await self._lease.register(state.node_id)
        return state.tasks.spawn(self._reclaim(), "reclaim")

    async def _reclaim(self) -> None:
        with suppress(*LOSSES):  # the next beat continues
            await self._reclaims.run()
        for former in self._state.former_ids:
            # Connections that ended here since: no other node may exist, or know of them.
            self._start_sweep(former, self.sweeper.sweep_former)

    def store_changed(self) -> None:
        """Claim everything again, because another server or lost content may mean old or missing entries."""
        self._must_share_secret = self._must_revoke = self._must_begin = self._must_tidy = True
        self._reclaims.all_again()
        self._watching.gap()

    def renewed(self, renewal: Renewal) -> None:
        """Continue with all pending work, check the other nodes, and sweep lapsed ones."""
        self._must_share_secret |= not self._tokens.is_shared_as(renewal.secret)
        self._reclaims.revocations.meet(renewal.now_ms / 1000)
        self._state.tasks.spawn(self._catch_up(), "catch-up")
        self._state.tasks.spawn(self._telemetry.publish(), "statistics")
        self._history.beat()
        self._agreement.meet(renewal.live)
        self._deadlines.look(renewal.live)
        if self._lease.may_sweep():
            for node in renewal.lapsed:
                self._start_sweep(node, self.sweeper.sweep)

    # Events of the bus

    def gap_began(self) -> None:
        """Stop waiting for own messages, and do not count the gap as losses of their senders."""
        if self._degrading is None:
            self._state.in_flight.give_up_published()
        else:
            self._degrading.deliver_in_flight()
        self._history.listen()
        self._state.sequences.gap()
        self._lease.hurry()  # to learn whether all of Redis is unavailable

    def gap_ended(self, seconds: float) -> None:
        """Report the gap to the application, and compare with the registry, as evicts may have been missed."""
        state = self._state
        self._history.listen()
        state.counters.bus_gaps += 1
        state.log.warning("the bus is back", extra={"node_id": state.node_id, "away_s": round(seconds, 3)})
        state.tasks.spawn(state.hooks.run(state.hooks.on_bus_gap, BusGap(seconds)), "on-bus-gap")
        self._must_compare = True
        self._watching.gap()
        if not state.is_away:
            state.tasks.spawn(self._catch_up(), "catch-up")

    # Pending work. It stays pending if Redis fails again.

    async def _catch_up(self) -> None:
        self._is_asked_again = self._is_catching_up  # perhaps for a step that is already done
        if self._is_catching_up:
            return
        self._is_catching_up = True
        try:
            await self._do_what_is_due()
        finally:
            self._is_catching_up = False
        if self._is_asked_again:
            await self._catch_up()

    async def _do_what_is_due(self) -> None:
        if self._must_share_secret:
            await self._tokens.share_secret()
            self._must_share_secret = False
        if self._must_begin:
            await self._history.begin_again()
            self._must_begin = False
        if self._must_revoke:
            await self._tokens.revoke_redeemed()
            self._must_revoke = False
        await self._reclaims.run()
        await self._keeping.repeat()
        self._watching.repeat()
        await self._claims.release_pending()
        await self._claims.repeat_evicts()
        self._reclaims.successions.repeat()
        if self._must_compare:
            await self._compare()
        if self._must_tidy:
            await self._inspection.tidy()
            self._must_tidy = False
        await self._inspection.inspect()

    async def release_rest(self) -> bool:
        """Release what the closes of a shutdown have left, and run hooks for at most ``redis_timeout_s``.

        Return False if events are left to the sweeper of this node.

        Raises:
            BackendUnavailableError: Redis does not answer.
        """
        reports = await self._claims.release_pending()
        await self._state.tasks.settle(self._state.config.redis_timeout_s)
        cut_short = [report for report in reports if report.cancelled()]
        if cut_short:  # their lines are pending again
            self._state.is_out_of_time = True
            reports = [*set(reports).difference(cut_short), *await self._claims.release_pending()]
            await self._state.tasks.settle(self._state.config.redis_timeout_s)
        return all(report.done() and not report.cancelled() and report.result() for report in reports)

    async def _compare(self) -> None:
        self._must_compare = False  # first: a new gap is another reason
        try:
            await self._inspection.compare_all()
        except BaseException:
            self._must_compare = True
            raise

    # Sweeping

    def _start_sweep(self, node: NodeId, sweep: Callable[[NodeId], Awaitable[None]]) -> None:
        if node not in self._sweeping:
            self._sweeping.add(node)
            self._state.tasks.spawn(self._sweep(node, sweep), f"sweep-{node}")

    async def _sweep(self, node: NodeId, sweep: Callable[[NodeId], Awaitable[None]]) -> None:
        try:
            await sweep(node)
        finally:
            self._sweeping.discard(node)
