"""``ports.Backend`` on Redis: three connections per node and server, however many clients it has."""

from collections.abc import Awaitable, Callable

from ...config import WebSocketConfig
from ...metrics import Counters
from ...names import NodeId
from ...ports import Receive
from .bus import Ear, RedisBus
from .cluster_bus import ClusterBus
from .keys import Keys
from .stores import RedisNodes, RedisPresence, RedisRooms, RedisTokens
from .topology import topology_at
from .urls import parse


class RedisBackend:
    """Commands, lease renewal and bus, each on a connection of its own."""

    def __init__(self, config: WebSocketConfig, receive: Receive, counters: Counters) -> None:
        keys, location = Keys(config.namespace), parse(config.redis_url or "")
        self._topology = topology = topology_at(location, config.redis_timeout_s, counters)
        self._keys = keys
        self._pipeline = topology.commands("commands")
        # A renewal that takes longer than a third of the lease is better asked for again.
        lease_timeout_s = min(config.redis_timeout_s, config.lease_ttl_s / 3)
        self._leases = topology.commands("lease", lease_timeout_s, keys.leases)
        self._subscriber = topology.channels(Ear(keys, receive, counters).hear)
        self._inbox = ""
        self.bus: RedisBus | ClusterBus = topology.bus(keys, self._pipeline, self._subscriber)
        self.presence: RedisPresence = RedisPresence(keys, self._pipeline)
        self.rooms: RedisRooms = RedisRooms(keys, self._pipeline)
        self.tokens: RedisTokens = RedisTokens(keys, self._pipeline)
        self.nodes: RedisNodes = RedisNodes(keys, self._pipeline, self._leases)

    def watch(
        self,
        on_gap: Callable[[], None],
        pause: Callable[[], Awaitable[object] | None],
        before_queueing: Callable[[], None],
    ) -> None:
        """Say whom to tell when the bus lost messages, and whom to ask before the next is read.

        ``before_queueing`` may queue what must not be overtaken by the command that comes next.
        """
        self._subscriber.on_gap, self._subscriber.pause = on_gap, pause
        self._pipeline.before_queueing = before_queueing

    async def start(self, node: NodeId) -> None:
        try:
            await self._pipeline.start()
            await self._leases.start()
            await self._subscriber.start()
            await self._subscriber.subscribe(self._keys.all)
            await self.rename(node)
        except BaseException:
            await self.stop()
            raise

    async def rename(self, node: NodeId) -> None:
        if self._inbox:
            self._subscriber.unsubscribe(self._inbox)
        self._inbox = self._keys.inbox(node)
        await self._subscriber.subscribe(self._inbox)

    async def stop(self) -> None:
        await self._subscriber.stop()
        await self.bus.settle()
        await self._pipeline.stop()
        await self._leases.stop()
        await self._topology.stop()
        self._inbox = ""

    @property
    def is_connected(self) -> bool:
        return self._subscriber.is_connected

    @property
    def run_id(self) -> str:
        """Changes when another server, or a restarted one, answers; in a cluster, for any part of it."""
        if self._pipeline.is_ordered:
            return self._leases.run_id
        return f"{self._leases.run_id} {self._pipeline.run_id}"

    @property
    def queued_bytes(self) -> int:
        return self._pipeline.queued_bytes
