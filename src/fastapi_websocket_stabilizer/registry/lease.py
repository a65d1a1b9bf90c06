"""This node's lease, and which other nodes hold one.

The lease is counted by Redis. Here it is only *remaining* time, counted down on the monotonic clock: a step
of this machine's wall clock changes nothing.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from ..backends.ports import NodeStore, Renewal
from ..config import WebSocketConfig
from ..exceptions import LOSSES
from ..names import NodeId
from ..runtime.loops import running_loop
from ..runtime.turnstile import Turnstile

REMEMBERED_DEAD = 4096
"""Nodes known to have lapsed; a lapsed node_id never lives again."""


RETRY_S = 0.5
"""From a beat without an answer to the next: what was refused meanwhile is waiting."""


class Listener(Protocol):
    """What the beats are for."""

    def store_lost(self, error: Exception) -> None:
        """Redis did not answer, or refused us."""
        ...

    def store_answered(self) -> None:
        """Redis answered; told before anything that follows from it."""
        ...

    async def lease_gone(self, *, has_lapsed: bool) -> "asyncio.Future[None]":
        """The lease is gone. It ``has_lapsed``, or it was lost with all other content, or was never taken.

        Returns what is to be done before a node that was frozen serves anything.
        """
        ...

    def store_changed(self) -> None:
        """The lease is held, by another server than before, or by one that was emptied meanwhile."""
        ...

    def renewed(self, renewal: Renewal) -> None:
        """The lease is held (again)."""
        ...


class Lease:
    """Renews the lease every beat and tells who lives."""

    def __init__(
        self,
        nodes: NodeStore,
        config: WebSocketConfig,
        describe: Callable[[], bytes],
        listener: Listener,
        server: Callable[[], str],
    ) -> None:
        self._nodes, self._config, self._describe = nodes, config, describe
        self._listener, self._server = listener, server
        self._server_seen = self._epoch = ""
        self._was_taken = False  # the lease of the present node_id
        self._node = NodeId("")
        self._live: dict[NodeId, float] = {}
        self._dead: OrderedDict[NodeId, None] = OrderedDict()
        self._learned_at_s = 0.0
        self._verified_at_s = 0.0  # when the last renewal was sent whose outcome was dealt with
        self._held_since_s = 0.0
        self._verified: asyncio.Future[None] | None = None
        self._reclaiming: asyncio.Future[None] | None = None  # after the lease was found lapsed
        self._turnstile = Turnstile(self.unverified)
        self._now_s: Callable[[], float] = lambda: 0.0  # the loop's, from the first lease on
        self._hurry = asyncio.Event()
        self._is_lost = False

    @property
    def _ttl_ms(self) -> int:
        return int(self._config.lease_ttl_s * 1000)

    def may_sweep(self) -> bool:
        """Whether the lease was held for one whole lease, without a break, on the server that answers now.

        Else the first node back after an outage, a failover or a clock step of Redis would bury the living.
        """
        return running_loop().time() - self._held_since_s >= self._config.lease_ttl_s

    async def register(self, node: NodeId) -> None:
        """Take a lease under a node_id that was never used."""
        self.begin(node)
        now_s = self._now_s()
        self._epoch = await self._nodes.register(node, self._describe(), self._ttl_ms)
        self._live[node] = now_s + self._config.lease_ttl_s
        self._was_taken = True

    def begin(self, node: NodeId) -> None:
        """Be ``node``, whose lease the first beat will find missing unless it is taken before."""
        self._now_s = running_loop().time
        self._node, self._server_seen, self._epoch = node, self._server(), ""
        self._was_taken = False
        self._held_since_s = self._verified_at_s = running_loop().time()

    def hurry(self) -> None:
        """Beat now."""
        self._hurry.set()

    async def run(self) -> None:
        """Beat until cancelled; then nobody waits for a beat any more."""
        self._hurry = asyncio.Event()
        try:
            while True:
                await self._pause()
                await self._beat()
        finally:
            self._note_beat(math.inf)

    async def _pause(self) -> None:
        interval_s = self._config.renew_interval_s
        with suppress(TimeoutError):
            async with asyncio.timeout(min(interval_s, RETRY_S) if self._is_lost else interval_s):
                await self._hurry.wait()
        self._hurry.clear()

    async def beat(self) -> None:
        """Beat once now, out of turn."""
        await self._beat()

    async def _beat(self) -> None:
        sent_at_s = running_loop().time()
        try:
            renewal = await self._renew()
            self._is_lost = False
            has_moved = self._has_moved(renewal.epoch)
            self._listener.store_answered()
            if not renewal.held:
                await self._lapsed(was_frozen=self._is_stale(sent_at_s), has_moved=has_moved)
            elif has_moved:
                self._listener.store_changed()
            self._listener.renewed(renewal)
        except LOSSES as error:
            self._is_lost = True
            self._listener.store_lost(error)
            self._held_since_s = running_loop().time()
        finally:
            self._note_beat(sent_at_s)

    def _note_beat(self, sent_at_s: float) -> None:
        self._verified_at_s = sent_at_s
        if self._verified is not None:
            self._verified.set_result(None)
            self._verified = None

    def _has_moved(self, epoch: str) -> bool:
        """Whether another server answers, or the same one with other content: it may have forgotten anything."""
        expected, found = (self._server_seen, self._epoch or epoch), (self._server(), epoch)
        self._server_seen, self._epoch = found
        has_moved = found != expected
        if has_moved:
            self._held_since_s = running_loop().time()
        return has_moved

    async def _lapsed(self, *, was_frozen: bool, has_moved: bool) -> None:
        reclaiming = await self._listener.lease_gone(has_lapsed=self._was_taken and not has_moved)
        # Whoever was awake has heard what became of its clients, or has served them without Redis anyway.
        self._reclaiming = reclaiming if was_frozen else None

    def _is_stale(self, now_s: float) -> bool:
        return now_s - self._verified_at_s >= self._config.lease_ttl_s

    async def _renew(self) -> Renewal:
        now_s = running_loop().time()
        renewal = await self._nodes.renew(self._node, self._describe(), self._ttl_ms)
        # Counted from before the question, so that nobody is ever shown longer than his lease.
        self._live = {node: now_s + remaining_ms / 1000 for node, remaining_ms in renewal.live.items()}
        self._learned_at_s = running_loop().time()
        return renewal

    async def beaten(self) -> None:
        """Wait for the outcome of a beat that begins now: it learns whether Redis lost its content, or us."""
        asked_at_s = self._now_s()
        while self._verified_at_s < asked_at_s:
            if self._verified is None:
                self._verified = running_loop().create_future()
            self._hurry.set()
            await asyncio.wait([self._verified])

    def unverified(self) -> "asyncio.Future[None] | None":
        """What to wait for before serving anything, after a freeze longer than the lease; usually None.

        Others may have swept us and taken over our clients meanwhile; the next beat finds out. An attempt is
        enough: while Redis is away, local sends go on.
        """
        if self._reclaiming is not None and not self._reclaiming.done():
            return self._reclaiming
        if not self._is_stale(running_loop().time()):
            return None
        if self._verified is None:
            self._verified = running_loop().create_future()
            self._hurry.set()
        return self._verified

    @property
    def must_wait(self) -> bool:
        """Whether ``unverified()``, or an earlier caller still waits for that."""
        if self._turnstile.is_free and self._now_s() - self._verified_at_s < self._config.lease_ttl_s:
            # Asked for each message, so it is written out instead of called.
            return self._reclaiming is not None and not self._reclaiming.done()
        return not self._turnstile.is_free or self.unverified() is not None

    async def verified(self) -> None:
        """Wait until it is not ``unverified()``. Callers go on in the order in which they came."""
        await self._turnstile.passed()

    async def live_among(self, nodes: Iterable[NodeId]) -> set[NodeId]:
        """Return those that hold a lease; one that is not known is looked up before it is called dead."""
        asked = set(nodes)
        unknown = {node for node in asked if not self._is_live(node) and node not in self._dead}
        if unknown or (asked and self._is_outdated()):
            await self._renew()
            self._bury(node for node in unknown if not self._is_live(node))
        return {node for node in asked if self._is_live(node)}

    async def all_live(self) -> list[NodeId]:
        """Return every node that holds a lease now."""
        await self._renew()
        return sorted(node for node in self._live if self._is_live(node))

    def known_live(self) -> set[NodeId]:
        """Return the nodes that held a lease at the last beat."""
        return {node for node in self._live if self._is_live(node)}

    def _is_live(self, node: NodeId) -> bool:
        return self._live.get(node, 0.0) > running_loop().time()

    def _is_outdated(self) -> bool:
        age_s = running_loop().time() - self._learned_at_s
        return age_s > 2 * self._config.renew_interval_s

    def _bury(self, nodes: Iterable[NodeId]) -> None:
        for node in nodes:
            self._dead[node] = None
            if len(self._dead) > REMEMBERED_DEAD:
                self._dead.popitem(last=False)
