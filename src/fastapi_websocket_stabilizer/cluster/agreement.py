"""Nodes of one registry whose settings differ where they must not, and applications that share one by mistake."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ..exceptions import LOSSES
from ..names import NodeId
from .context import Context
from .directory import FOREIGN, read_object

MAX_TOLD = 100
"""Differences that one process logs, each once."""
SHOWN = 100
"""Characters of another node's name or value in the log: somebody else may have written it."""


class Agreement:
    """Compares this node with each node that it meets for the first time, and logs each difference once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._compared: set[NodeId] = set()
        self._told: set[tuple[str, str]] = set()

    def meet(self, live: Iterable[NodeId]) -> None:
        """Compare the new ones among the live nodes, in the background."""
        others = {node for node in live if not self._context.is_own(node)}
        self._compared &= others
        if new := sorted(others - self._compared):
            self._context.tasks.spawn(self._compare(new), "compare-settings")

    async def _compare(self, nodes: list[NodeId]) -> None:
        with suppress(*LOSSES):  # the next beat tries again
            infos = await self._context.backend.nodes.infos(nodes)
            self._compared.update(nodes)
            for info, _ in infos:
                with suppress(*FOREIGN):  # nodes() counts what nobody of ours has written
                    self._compare_with(read_object(info or b"{}"))

    def _compare_with(self, other: dict[str, Any]) -> None:
        here, settings = self._context.config.shared(), dict(other.get("settings") or {})
        for name in here.keys() & settings.keys():
            if here[name] != settings[name]:
                self._tell(
                    name, here[name], settings[name], other, "all replicas of a registry need the same value"
                )
        mine, theirs = self._context.served.application, other.get("application")
        if mine and theirs and mine != theirs:
            self._tell("application", mine, theirs, other, "give each application a namespace of its own")

    def _tell(self, name: str, mine: object, theirs: object, other: dict[str, Any], remedy: str) -> None:
        value = repr(theirs)[:SHOWN]
        if (name, value) not in self._told and len(self._told) < MAX_TOLD:
            self._told.add((name, value))
            self._context.log.warning(
                "replicas of one registry differ: %s is %r on this node (%r) and %s on node %r; %s",
                name,
                mine,
                self._context.name,
                value,
                str(other["name"])[:SHOWN],
                remedy,
            )
