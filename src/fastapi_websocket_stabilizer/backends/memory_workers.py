"""Workers in one process."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

from ..names import NodeId
from .workers import MAX_WORKERS

Groups = dict[str, dict[int, tuple[NodeId, bytes]]]


class MemoryWorkers:
    """``workers.WorkerStore``, on the groups of a hub."""

    def __init__(
        self, groups: Groups, lock: AbstractContextManager[Any], is_live: Callable[[NodeId], bool]
    ) -> None:
        self._groups, self._lock, self._is_live = groups, lock, is_live

    async def take(self, group: str, node: NodeId, dead: Collection[NodeId] = ()) -> tuple[int, bytes]:
        with self._lock:
            held = self._groups.setdefault(group, {})
            for number in range(MAX_WORKERS):
                holder, body = held.get(number, (NodeId(""), b""))
                if holder in (node, *dead) or not self._is_live(holder):
                    held[number] = node, body
                    return number, body
        return -1, b""

    async def publish(self, group: str, number: int, node: NodeId, body: bytes) -> None:
        with self._lock:
            self._groups.setdefault(group, {})[number] = node, body

    async def give_back(self, group: str, number: int) -> None:
        with self._lock:
            self._groups.get(group, {}).pop(number, None)

    async def read(self, group: str) -> dict[int, tuple[NodeId, bytes]]:
        with self._lock:
            return dict(self._groups.get(group, {}))
