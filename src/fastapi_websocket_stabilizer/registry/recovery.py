"""What beats, outages and bus gaps have this node do: notice, claim again, compare, tidy up, sweep."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..backends.ports import Renewal
from ..exceptions import LOSSES
from ..models import BusGap
from ..names import NodeId
from .claims import Claims
from .degrade import DegradingBus
from .inspection import Inspection
from .lease import Lease
from .peers import Agreement, Deadlines
from .reclaims import Reclaims
from .state import NodeState
from .sweep import Sweeper
from .tokens import Tokens


class Recovery:
    """Listens to the lease and to the bus."""

    def __init__(
        self,
        state: NodeState,
        lease: Lease,
        *,
        claims: Claims,
        reclaims: Reclaims,
        tokens: Tokens,
        sweeper: Sweeper,
        degrading: DegradingBus | None,
    ) -> None:
        self._state, self._lease, self._claims, self._reclaims = state, lease, claims, reclaims
        self._tokens, self._degrading = tokens, degrading
        self.sweeper: Sweeper = sweeper
        self._inspection = Inspection(state, lease, claims, reclaims)
        self._agreement = Agreement(state)
        self._deadlines = Deadlines(state)
        self._sweeping: set[NodeId] = set()
        self._is_catching_up = self._must_compare = self._must_tidy = False
        self._must_share_secret = self._must_revoke = self._is_asked_again = False

    # What the lease says

    def store_lost(self, error: Exception) -> None:
        """Redis did not answer a beat, or refused us."""
        if not self._state.is_away:
            self._state.is_away = True
            self._state.log.warning("Redis is away: %s", error, extra={"node_id": self._state.node_id})
            if self._degrading is not None:
                self._degrading.deliver_in_flight()

    def store_answered(self) -> None:
        """Redis answered a beat."""
        if self._state.is_away:
            self._state.is_away = False
            self._state.log.warning("Redis is back", extra={"node_id": self._state.node_id})
        self._state.backend.beat()

    async def lease_gone(self, *, has_lapsed: bool) -> "asyncio.Future[None]":
        """The lease lapsed while we were frozen or cut off, or was forgotten: be another node, with the same sockets.

        Returns what a node that was frozen waits for before it serves anything; the beat goes on meanwhile.
        """
        state = self._state
        state.counters.leases_refused += 1
        state.rename(has_lapsed=has_lapsed)
        state.log.warning("lease lapsed; registering again", extra={"node_id": state.node_id})
        # A Redis that forgot the lease may have forgotten the secret, and that a token was redeemed.
        self._must_share_secret = self._must_revoke = True
        self._reclaims.rename_all()  # before anything can fail: the next beat may find the new lease held
        with suppress(*LOSSES):  # heard as soon as the bus is back; until then it is deaf
            await state.backend.rename(state.node_id)
        await self._lease.register(state.node_id)
        return state.tasks.spawn(self._reclaim(), "reclaim")

    async def _reclaim(self) -> None:
        with suppress(*LOSSES):  # the beat goes on with it
            await self._reclaims.run()
        for former in self._state.former_ids:
            # What ended here meanwhile: nobody else may be there, or may know, to do it.
            self._start_sweep(former, self.sweeper.sweep_former)

    def store_changed(self) -> None:
        """Another server answers, or one that was emptied: what it knows of us may be old."""
        self._must_share_secret = self._must_revoke = self._must_tidy = True
        self._reclaims.all_again()

    def renewed(self, renewal: Renewal) -> None:
        """The lease is held: go on with what was not done yet."""
        self._must_share_secret |= not self._tokens.is_shared_as(renewal.secret)
        self._state.tasks.spawn(self._catch_up(), "catch-up")
        self._agreement.meet(renewal.live)
        self._deadlines.look(renewal.live)
        if self._lease.may_sweep():
            for node in renewal.lapsed:
                self._start_sweep(node, self.sweeper.sweep)

    # What the bus says

    def gap_began(self) -> None:
        """Messages are being lost: wait for none of them, and blame nobody for the hole."""
        if self._degrading is None:
            self._state.in_flight.give_up_published()
        else:
            self._degrading.deliver_in_flight()
        self._state.sequences.gap()
        self._lease.hurry()  # is it all of Redis?

    def gap_ended(self, seconds: float) -> None:
        """The bus is subscribed again: tell the application, and look for evicts that were missed."""
        state = self._state
        state.counters.bus_gaps += 1
        state.log.warning("the bus is back", extra={"node_id": state.node_id, "away_s": round(seconds, 3)})
        state.tasks.spawn(state.hooks.run(state.hooks.on_bus_gap, BusGap(seconds)), "on-bus-gap")
        self._must_compare = True
        if not state.is_away:
            state.tasks.spawn(self._catch_up(), "catch-up")

    # What is to be done; it is not lost if Redis fails us again in the middle

    async def _catch_up(self) -> None:
        self._is_asked_again = self._is_catching_up  # and perhaps for what is behind it already
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
        if self._must_revoke:
            await self._tokens.revoke_redeemed()
            self._must_revoke = False
        await self._reclaims.run()
        await self._claims.release_pending()
        await self._claims.repeat_evicts()
        if self._must_compare:
            await self._compare()
        if self._must_tidy:
            await self._inspection.tidy()
            self._must_tidy = False
        await self._inspection.inspect()

    async def _compare(self) -> None:
        self._must_compare = False  # a gap that begins from now on is another reason
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
