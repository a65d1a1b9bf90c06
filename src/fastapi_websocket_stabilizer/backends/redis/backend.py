"""``ports.Backend`` on Redis: three connections per node, however many clients it has."""

import asyncio
import secrets

from ...config import WebSocketConfig
from ...metrics import Counters
from ...names import NodeId
from ...ports import Bus, Receive, Watcher
from .bus import Ear, RedisBus, Subscriber
from .canary import Canary
from .client import ConnectionFactory
from .guard import Guard, Signer
from .keys import Keys
from .pipeline import Pipeline
from .reading import Reader
from .stores import RedisNodes, RedisPresence, RedisRooms, RedisTokens


class RedisBackend:
    """Commands, lease renewal and bus, each on a connection of its own."""

    def __init__(self, config: WebSocketConfig, receive: Receive, counters: Counters) -> None:
        url = config.redis_url or ""
        factory, keys = ConnectionFactory(url, config.redis_timeout_s), Keys(config.namespace)
        # A renewal that takes longer than a third of the lease is better asked for again.
        lease_factory = ConnectionFactory(url, min(config.redis_timeout_s, config.lease_ttl_s / 3))
        self._keys = keys
        self._pipeline = Pipeline(factory, counters, "commands")
        self._leases = Pipeline(lease_factory, counters, "lease")
        self._signer = Signer(config.envelope_keys, keys) if config.envelope_keys else None
        self._guard = Guard(self._signer, counters) if self._signer else None
        self._subscriber = Subscriber(factory, counters, Ear(keys, receive, counters, self._guard).hear)
        self._inbox, reader = "", Reader(counters)
        self._deaf_after_s = 2 * config.renew_interval_s
        channel = keys.canary(secrets.token_hex(8))
        self._canary = Canary(self._subscriber, self._publish, channel, counters)
        self._channels = keys.all, channel
        self.bus: Bus = RedisBus(keys, self._pipeline, self._subscriber, self._signer, self._guard)
        self.presence: RedisPresence = RedisPresence(keys, self._pipeline, reader)
        self.rooms: RedisRooms = RedisRooms(keys, self._pipeline, reader)
        self.tokens: RedisTokens = RedisTokens(keys, self._pipeline, reader)
        self.nodes: RedisNodes = RedisNodes(
            keys, self._pipeline, self._leases, reader, self._signer.clock if self._signer else None
        )

    def watch(self, watcher: Watcher) -> None:
        def returned(seconds: float) -> None:
            self._canary.restart()  # what was sent before is gone
            watcher.gap_ended(seconds)

        self._subscriber.on_gap, self._subscriber.on_return = watcher.gap_began, returned
        self._subscriber.pause, self._canary.heard_after = watcher.pause, watcher.heard_after
        self._pipeline.before_queueing = watcher.before_queueing
        if self._guard is not None:
            self._guard.opened_at = watcher.opened_at

    async def start(self, node: NodeId) -> None:
        try:
            await self._pipeline.start()
            await self._leases.start()
            if self._guard is not None:
                await self.nodes.learn_time()
                self._guard.start()
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
