"""The lease of this node, and the knowledge of which other nodes hold one.

Redis measures the lease. Here it is only *remaining* time, measured on the monotonic clock, so steps of the wall
clock have no effect.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from ..backends.ports import NodeStore, Renewal
from ..config import WebSocketConfig
from ..exceptions import LOSSES
from ..names import NodeId
from ..runtime.loops import running_loop
from .freshness import FreshnessGate

# ruff: noqa: D102 - the methods of both classes are described at ``Lease``

REMEMBERED_DEAD = 4096
"""Maximum number of remembered dead nodes. A lapsed node_id is never used again."""
RETRY_S = 0.5
"""Seconds between a beat without an answer and the next one. Calls that Redis did not accept wait for it."""


class Listener(Protocol):
    """The reactions to beats."""

    def store_lost(self, error: Exception) -> None:
        """Redis did not answer, or rejected this node."""
        ...

    def store_answered(self) -> None:
        """Redis answered. Called before all other calls of the same beat."""
        ...

    async def lease_gone(self, *, has_lapsed: bool) -> "asyncio.Future[None]":
        """The lease is gone: it lapsed, or else it was lost with all other content or never taken.

        The result ends when everything is registered again. A node that was frozen delivers nothing before.
        """
        ...

    def store_changed(self) -> None:
        """The lease is held, but by another server than before, or by one that lost its content."""
        ...

    def renewed(self, renewal: Renewal) -> None:
        """The lease is held (again)."""
        ...


class Lease(Protocol):
    """The lease of this node as the other parts use it.

    Attributes:
        gate: Holds callers back after a freeze that was longer than the lease.
    """

    gate: FreshnessGate

    async def register(self, node: NodeId) -> None:
        """Take a lease under a node_id that was never used."""
        ...

    def begin(self, node: NodeId) -> None:
        """Act as ``node`` without a lease yet. Unless it is taken before, the first beat finds it missing."""
        ...

    async def retire(self, node: NodeId) -> None:
        """Release the lease, and remove the rest of the node from the store."""
        ...

    async def run(self, listener: Listener) -> None:
        """Beat until cancelled. After that, no caller waits for a beat any more."""
        ...

    async def beat(self, listener: Listener) -> None:
        """Beat once now."""
        ...

    def hurry(self) -> None:
        """Start the next beat now."""
        ...

    def may_sweep(self) -> bool:
        """Whether this node may sweep others."""
        ...

    async def live_among(self, nodes: Iterable[NodeId]) -> set[NodeId]:
        """Return those that hold a lease. An unknown node is looked up before it counts as dead."""
        ...

    async def all_live(self) -> list[NodeId]:
        """Return every node that holds a lease now."""
        ...

    def known_live(self) -> set[NodeId]:
        """Return the nodes that held a lease at the last beat."""
        ...


class SoloLease:
    """The lease of a node that shares its registry with no other: always fresh, and every node is live."""

    def __init__(self, own_id: Callable[[], NodeId]) -> None:
        self._own_id = own_id
        self.gate: FreshnessGate = FreshnessGate(float("inf"))

    async def register(self, node: NodeId) -> None:
        """Do nothing: there is no store to register with."""

    def begin(self, node: NodeId) -> None:
        """Do nothing."""

    async def retire(self, node: NodeId) -> None:
        """Do nothing: the content of memory survives a stop."""

    async def run(self, listener: Listener) -> None:
        """Return at once: there is nothing to renew."""

    async def beat(self, listener: Listener) -> None:
        """Do nothing."""

    def hurry(self) -> None:
        """Do nothing."""

    def may_sweep(self) -> bool:
        return False

    async def live_among(self, nodes: Iterable[NodeId]) -> set[NodeId]:
        return set(nodes)

    async def all_live(self) -> list[NodeId]:
        return [self._own_id()]

    def known_live(self) -> set[NodeId]:
        return {self._own_id()}


class RenewedLease:
    """A lease in a shared store: renews it every beat, and learns from the answers which nodes are live."""

    def __init__(
        self,
        nodes: NodeStore,
        config: WebSocketConfig,
        describe: Callable[[], bytes],
        server: Callable[[], str],
    ) -> None:
        self._nodes, self._config, self._describe, self._server = nodes, config, describe, server
        self.gate: FreshnessGate = FreshnessGate(config.lease_ttl_s, self.hurry)
        self._server_seen = self._epoch = ""
        self._was_taken = False  # the lease of the present node_id
        self._node = NodeId("")
        self._live: dict[NodeId, float] = {}
        self._dead: OrderedDict[NodeId, None] = OrderedDict()
        self._learned_at_s = 0.0
        self._held_since_s = 0.0
        self._hurry = asyncio.Event()
        self._is_lost = False

    @property
    def _ttl_ms(self) -> int:
        return int(self._config.lease_ttl_s * 1000)

    def may_sweep(self) -> bool:
        """Whether the lease was held for one whole lease, without a break, on the present server.

        Otherwise the first node back after an outage, a failover or a clock step of Redis would sweep live nodes.
        """
        return running_loop().time() - self._held_since_s >= self._config.lease_ttl_s

    async def register(self, node: NodeId) -> None:
        self.begin(node)
        now_s = running_loop().time()
        self._epoch = await self._nodes.register(node, self._describe(), self._ttl_ms)
        self._live[node] = now_s + self._config.lease_ttl_s
        self._was_taken = True

    def begin(self, node: NodeId) -> None:
        self._node, self._server_seen, self._epoch = node, self._server(), ""
        self._was_taken = False
        self.gate.begin(running_loop().time)
        self._held_since_s = running_loop().time()

    async def retire(self, node: NodeId) -> None:
        await self._nodes.retire(node)

    def hurry(self) -> None:
        self._hurry.set()

    async def run(self, listener: Listener) -> None:
        self._hurry = asyncio.Event()
        try:
            while True:
                await self._pause()
                await self.beat(listener)
        finally:
            self.gate.stay_open()

    async def _pause(self) -> None:
        interval_s = self._config.renew_interval_s
        with suppress(TimeoutError):
            async with asyncio.timeout(min(interval_s, RETRY_S) if self._is_lost else interval_s):
                await self._hurry.wait()
        self._hurry.clear()

    async def beat(self, listener: Listener) -> None:
        sent_at_s = running_loop().time()
        try:
            renewal = await self._renew()
            self._is_lost = False
            has_moved = self._has_moved(renewal.epoch)
            listener.store_answered()
            if not renewal.held:
                was_frozen = not self.gate.is_fresh(sent_at_s)
                registered = await listener.lease_gone(has_lapsed=self._was_taken and not has_moved)
                # A node that was not frozen has received its evicts, or has worked without Redis anyway.
                self.gate.hold(registered if was_frozen else None)
            elif has_moved:
                listener.store_changed()
            listener.renewed(renewal)
        except LOSSES as error:
            self._is_lost = True
            listener.store_lost(error)
            self._held_since_s = running_loop().time()
        finally:
            self.gate.note_beat(sent_at_s)

    def _has_moved(self, epoch: str) -> bool:
        """Whether another server answers, or the same one with other content: it may have lost any entry."""
        expected, found = (self._server_seen, self._epoch or epoch), (self._server(), epoch)
        self._server_seen, self._epoch = found
        has_moved = found != expected
        if has_moved:
            self._held_since_s = running_loop().time()
        return has_moved

    async def _renew(self) -> Renewal:
        now_s = running_loop().time()
        renewal = await self._nodes.renew(self._node, self._describe(), self._ttl_ms)
        # Count from before the call, so that no node is shown for longer than its lease.
        self._live = {node: now_s + remaining_ms / 1000 for node, remaining_ms in renewal.live.items()}
        self._learned_at_s = running_loop().time()
        return renewal

    async def live_among(self, nodes: Iterable[NodeId]) -> set[NodeId]:
        asked = set(nodes)
        unknown = {node for node in asked if not self._is_live(node) and node not in self._dead}
        if unknown or (asked and self._is_outdated()):
            await self._renew()
            self._bury(node for node in unknown if not self._is_live(node))
        return {node for node in asked if self._is_live(node)}

    async def all_live(self) -> list[NodeId]:
        await self._renew()
        return sorted(node for node in self._live if self._is_live(node))

    def known_live(self) -> set[NodeId]:
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
