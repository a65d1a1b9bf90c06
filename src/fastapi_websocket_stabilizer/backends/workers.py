"""Values that the processes of one group publish: the workers of one server, whose metrics are scraped as one.

A group has numbers from 0. A live process holds one, and its successor gets the lowest that is free. So the number is
a label of metrics that does not multiply when processes are replaced.
"""

from collections.abc import Collection
from typing import Protocol

from ..names import NodeId

MAX_WORKERS = 256
"""Largest number of processes of one group."""
KEPT_S = 3600
"""Seconds after which a group is forgotten that publishes nothing. A scraper looks more often."""


class WorkerStore(Protocol):
    """The numbers of groups, and what their holders have published last."""

    async def take(self, group: str, node: NodeId, dead: Collection[NodeId] = ()) -> tuple[int, bytes]:
        """Take the lowest number that no live node holds. Return it, and what its last holder has published.

        ``dead`` are nodes whose process is known to have ended, although they still have a lease. The number is -1 if
        ``MAX_WORKERS`` live nodes hold one each.
        """
        ...

    async def publish(self, group: str, number: int, node: NodeId, body: bytes) -> None:
        """Publish what others read of this node."""
        ...

    async def give_back(self, group: str, number: int) -> None:
        """Remove what the holder of a number has published, because it ends in order."""
        ...

    async def read(self, group: str) -> dict[int, tuple[NodeId, bytes]]:
        """Return the last holder of each number, which may be dead, and what it has published."""
        ...
