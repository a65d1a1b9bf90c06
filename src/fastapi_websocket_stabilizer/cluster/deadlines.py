"""Leases that end later than they can: the clock of Redis was stepped back after they were renewed."""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from ..exceptions import LOSSES
from ..names import NodeId
from .context import Context
from .directory import FOREIGN, read_object


class Deadlines:
    """Looks at the leases of other nodes, and shortens one that lasts longer than its node ever asks for.

    A node that lives renews its lease anyway. Without this, a dead one would be shown for as long as the step was.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        # What each node asks for, if that is longer than our own lease, or None if it does not tell.
        self._lifetimes: dict[NodeId, int | None] = {}

    def look(self, live: Mapping[NodeId, int]) -> None:
        """Look at the remaining ms of each lease; what is to be done about one is done in the background."""
        own_ms = int(self._context.config.lease_ttl_s * 1000)
        longer = {n: left for n, left in live.items() if left > own_ms and not self._context.is_own(n)}
        self._lifetimes = {n: ms for n, ms in self._lifetimes.items() if n in longer}
        if any(self._is_too_long(node, left_ms) for node, left_ms in longer.items()):
            self._context.tasks.spawn(self._shorten(longer), "shorten-leases")

    def _is_too_long(self, node: NodeId, left_ms: int) -> bool:
        lifetime_ms = self._lifetimes.get(node, 0)  # not asked yet: perhaps
        return lifetime_ms is not None and left_ms > lifetime_ms

    async def _shorten(self, longer: Mapping[NodeId, int]) -> None:
        with suppress(*LOSSES):  # the next beat tries again
            await self._ask(node for node in longer if node not in self._lifetimes)
            shortened = [node for node, left_ms in longer.items() if await self._is_shortened(node, left_ms)]
            if shortened:
                self._context.counters.leases_shortened += len(shortened)
                self._context.log.warning(
                    "the clock of Redis was stepped back: %d leases ended too late, and were shortened",
                    len(shortened),
                )

    async def _is_shortened(self, node: NodeId, left_ms: int) -> bool:
        lifetime_ms = self._lifetimes[node]
        if lifetime_ms is None or left_ms <= lifetime_ms:
            return False
        return await self._context.backend.nodes.shorten(node, lifetime_ms)

    async def _ask(self, nodes: Iterable[NodeId]) -> None:
        asked = list(nodes)
        for node, (info, _) in zip(asked, await self._context.backend.nodes.infos(asked), strict=True):
            self._lifetimes[node] = None
            with suppress(*FOREIGN):
                settings = read_object(info or b"{}")["settings"]
                self._lifetimes[node] = int(float(settings["lease_ttl_s"]) * 1000)
