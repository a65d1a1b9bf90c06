"""Checks of the other nodes at each beat: settings that differ, and leases that last too long."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ..exceptions import LOSSES
from ..names import NodeId
from ..retention import NOTHING
from .directory import FOREIGN, read_object
from .state import NodeState

MAX_TOLD = 100
"""Maximum number of differences that one process logs, each once."""
SHOWN = 100
"""Maximum characters of another node's name or value in the log, because another program may have written it."""


class Agreement:
    """Compares each new node with this one, and logs each difference once."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._compared: set[NodeId] = set()
        self._told: set[tuple[str, str]] = set()

    def meet(self, live: Iterable[NodeId]) -> None:
        """Compare the new nodes among the live ones, in the background."""
        others = {node for node in live if not self._state.is_own(node)}
        self._compared &= others
        if new := sorted(others - self._compared):
            self._state.tasks.spawn(self._compare(new), "compare-settings")

    async def _compare(self, nodes: list[NodeId]) -> None:
        with suppress(*LOSSES):  # the next beat tries again
            infos = await self._state.backend.nodes.infos(nodes)
            self._compared.update(nodes)
            for info, _ in infos:
                with suppress(*FOREIGN):  # nodes() counts malformed values
                    self._compare_with(read_object(info or b"{}"))

    def _compare_with(self, other: dict[str, Any]) -> None:
        silent = {"stored": NOTHING}  # nodes that store nothing do not say so
        here = silent | self._state.config.shared()
        settings = silent | dict(other.get("settings") or {})
        for name in here.keys() & settings.keys():
            if here[name] != settings[name]:
                self._tell(
                    name, here[name], settings[name], other, "all replicas of a registry need the same value"
                )
        mine, theirs = self._state.served.application, other.get("application")
        if mine and theirs and mine != theirs:
            self._tell("application", mine, theirs, other, "give each application a namespace of its own")

    def _tell(self, name: str, mine: object, theirs: object, other: dict[str, Any], remedy: str) -> None:
        value = repr(theirs)[:SHOWN]
        if (name, value) not in self._told and len(self._told) < MAX_TOLD:
            self._told.add((name, value))
            self._state.log.warning(
                "replicas of one registry differ: %s is %r on this node (%r) and %s on node %r; %s",
                name,
                mine,
                self._state.name,
                value,
                str(other["name"])[:SHOWN],
                remedy,
            )


class Deadlines:
    """Shortens leases of other nodes that last longer than their nodes request, after a clock step of Redis.

    A live node renews its lease anyway. A dead one would otherwise be shown for as long as the step was.
    """

    def __init__(self, state: NodeState) -> None:
        self._state = state
        # Lease that each node requests, for nodes with a longer one than ours; None if it is unknown.
        self._lifetimes: dict[NodeId, int | None] = {}

    def look(self, live: Mapping[NodeId, int]) -> None:
        """Check the remaining ms of each lease, and shorten leases in the background."""
        own_ms = int(self._state.config.lease_ttl_s * 1000)
        longer = {n: left for n, left in live.items() if left > own_ms and not self._state.is_own(n)}
        self._lifetimes = {n: ms for n, ms in self._lifetimes.items() if n in longer}
        if any(self._is_too_long(node, left_ms) for node, left_ms in longer.items()):
            self._state.tasks.spawn(self._shorten(longer), "shorten-leases")

    def _is_too_long(self, node: NodeId, left_ms: int) -> bool:
        lifetime_ms = self._lifetimes.get(node, 0)  # 0: not read yet
        return lifetime_ms is not None and left_ms > lifetime_ms

    async def _shorten(self, longer: Mapping[NodeId, int]) -> None:
        with suppress(*LOSSES):  # the next beat tries again
            await self._ask(node for node in longer if node not in self._lifetimes)
            shortened = [node for node, left_ms in longer.items() if await self._is_shortened(node, left_ms)]
            if shortened:
                self._state.counters.leases_shortened += len(shortened)
                self._state.log.warning(
                    "the clock of Redis was stepped back: %d leases ended too late, and were shortened",
                    len(shortened),
                )

    async def _is_shortened(self, node: NodeId, left_ms: int) -> bool:
        lifetime_ms = self._lifetimes[node]
        if lifetime_ms is None or left_ms <= lifetime_ms:
            return False
        return await self._state.backend.nodes.shorten(node, lifetime_ms)

    async def _ask(self, nodes: Iterable[NodeId]) -> None:
        asked = list(nodes)
        for node, (info, _) in zip(asked, await self._state.backend.nodes.infos(asked), strict=True):
            self._lifetimes[node] = None
            with suppress(*FOREIGN):
                settings = read_object(info or b"{}")["settings"]
                self._lifetimes[node] = int(float(settings["lease_ttl_s"]) * 1000)
