"""``ports.Backend`` on Redis: three connections per node, however many clients it has."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from ...config import WebSocketConfig
from ...metrics import Counters, Stopwatch
from ...names import NodeId
from ...ports import Bus, Receive
from .bus import Ear, RedisBus, Subscriber
from .canary import Canary
from .client import ConnectionFactory
from .keys import Keys
from .pipeline import Pipeline
from .stores import RedisNodes, RedisPresence, RedisRooms, RedisTokens


class RedisBackend:
    """Commands, lease renewal and bus, each on a connection of its own."""

    def __init__(
        self,
        config: WebSocketConfig,
        receive: Receive,
        counters: Counters,
        bus_lag: Stopwatch | None = None,
    ) -> None:
        url = config.redis_url or ""
        factory, keys = ConnectionFactory(url, config.redis_timeout_s), Keys(config.namespace)
        # A renewal that takes longer than a third of the lease is better asked for again.
        lease_factory = ConnectionFactory(url, min(config.redis_timeout_s, config.lease_ttl_s / 3))
        self._keys = keys
        self._pipeline = Pipeline(factory, counters, "commands")
        self._leases = Pipeline(lease_factory, counters, "lease")
        self._subscriber = Subscriber(factory, counters, Ear(keys, receive, counters).hear)
        self._inbox = ""
        self._deaf_after_s = 2 * config.renew_interval_s
        lag = Stopwatch() if bus_lag is None else bus_lag
        channel = keys.canary(secrets.token_hex(8))
        self._canary = Canary(self._subscriber, self._publish, channel, counters, lag)
        self._channels = keys.all, channel
        self.bus: Bus = RedisBus(keys, self._pipeline, self._subscriber)
        self.presence: RedisPresence = RedisPresence(keys, self._pipeline)
        self.rooms: RedisRooms = RedisRooms(keys, self._pipeline)
        self.tokens: RedisTokens = RedisTokens(keys, self._pipeline)
        self.nodes: RedisNodes = RedisNodes(keys, self._pipeline, self._leases)

    def watch(
        self,
        on_gap: Callable[[], None],
        on_return: Callable[[float], None],
        pause: Callable[[], Awaitable[object] | None],
        before_queueing: Callable[[], None],
    ) -> None:
        """Say whom to tell when the bus is lost and when it hears again, and whom to ask before the next is read.

        ``on_return`` is told for how many seconds messages may have been lost.
        ``before_queueing`` may queue what must not be overtaken by the command that comes next.
        """

        def returned(seconds: float) -> None:
            self._canary.restart()  # what was sent before is gone
            on_return(seconds)

        self._subscriber.on_gap, self._subscriber.on_return = on_gap, returned
        self._subscriber.pause = pause
        self._pipeline.before_queueing = before_queueing

    async def start(self, node: NodeId) -> None:
        try:
            await self._pipeline.start()
            await self._leases.start()
            await self._subscriber.start()
            self._canary.restart()
            for channel in self._channels:
                await self._subscriber.subscribe(channel)
            await self.rename(node)
        except BaseException:
            await self.stop()
            raise

    def start_later(self, node: NodeId) -> None:
        self._canary.restart()
        self._inbox = self._keys.inbox(node)
        for channel in (*self._channels, self._inbox):
            self._subscriber.want(channel)
        self._pipeline.serve()
        self._leases.serve()
        self._subscriber.serve()

    def _publish(self, channel: str, data: bytes) -> "asyncio.Future[object]":
        return self._pipeline.send("PUBLISH", channel, data, idempotent=False)

    def beat(self) -> None:
        self._canary.beat()

    async def rename(self, node: NodeId) -> None:
        if self._inbox:
            self._subscriber.unsubscribe(self._inbox)
        self._inbox = self._keys.inbox(node)
        await self._subscriber.subscribe(self._inbox)

    async def stop(self) -> None:
        await self._subscriber.stop()
        await self._pipeline.stop()
        await self._leases.stop()
        self._inbox = ""

    @property
    def is_connected(self) -> bool:
        return self._subscriber.is_connected

    @property
    def is_deaf(self) -> bool:
        return self._canary.unheard_for_s() > self._deaf_after_s

    @property
    def run_id(self) -> str:
        """Changes when another server, or a restarted one, answers."""
        return self._leases.run_id

    @property
    def queued_bytes(self) -> int:
        return self._pipeline.queued_bytes
