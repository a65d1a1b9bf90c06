"""``ports.Backend`` on Redis: three connections per node and server, however many clients it has."""

from ...config import WebSocketConfig
from ...names import NodeId
from ...runtime.metrics import Counters
from ...wire.channels import Channel
from ..ports import Bus, Listening, Watcher
from .bus import EnvelopeReader
from .guard import Guard, Signer
from .keys import Keys
from .logs import Gathered, RedisLogs
from .pipeline import no_earlier_sends
from .ports import Listener
from .probes import Canaries, Epochs
from .reading import Reader
from .revocations import RedisRevocations
from .rosters import RedisRosters
from .sessions import RedisSessions
from .stores import RedisNodes, RedisPresence, RedisRooms, RedisTokens
from .topology import topology_at
from .urls import parse
from .workers import RedisWorkers


class RedisBackend:
    """Commands, lease renewal and bus, each on a connection of its own.

    Args:
        config: The settings.
        watcher: The callbacks of the node.
        counters: The counters of the node.
        stores: Whether messages are stored; None: by the settings. Then the appends of one tick share a call, which
            costs every command a function call, and the bus asks servers for their run_id.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        watcher: Watcher,
        counters: Counters,
        *,
        stores: bool | None = None,
    ) -> None:
        stores = config.stores if stores is None else stores
        keys, location = Keys(config.namespace), parse(config.redis_url or "")
        self._topology = topology = topology_at(
            location, config.redis_timeout_s, counters, watcher.answered_after
        )
        self._keys, self._counters = keys, counters
        gathered = Gathered(watcher.flush_earlier_sends)
        flush_earlier_sends = gathered.flush_earlier if stores else watcher.flush_earlier_sends
        self._pipeline = topology.commands("commands", flush_earlier_sends)
        # Retry a renewal after a third of the lease, otherwise one lost reply could cost the lease.
        lease_timeout_s = min(config.redis_timeout_s, config.lease_ttl_s / 3)
        self._leases = topology.commands("lease", no_earlier_sends, lease_timeout_s, keys.leases)
        self._signer = Signer(config.envelope_keys, keys) if config.envelope_keys else None
        self._guard = Guard(self._signer, counters, watcher.opened_at) if self._signer else None
        self._deaf_after_s = 2 * config.renew_interval_s
        self._gap_ended = watcher.gap_ended
        self._canaries = Canaries(
            keys, self._pipeline, topology.publish_command, counters, watcher.heard_after
        )
        envelopes = EnvelopeReader(keys, watcher.receive, counters, self._guard)
        listener = Listener(envelopes.read, watcher.pause, watcher.gap_began, self._returned)
        self._subscriber = topology.channels(listener, self._canaries, knows_server=stores)
        self._epochs = Epochs(keys, self._pipeline, topology.tags)
        self._inbox, reader = "", Reader(counters)
        bus = topology.bus(keys, self._pipeline, self._subscriber, self._signer, self._guard)
        self.bus: Bus = bus
        self._settle = bus.settle
        self._open_stores(gathered, reader, gathers=stores)

    def _open_stores(self, gathered: Gathered, reader: Reader, *, gathers: bool) -> None:
        keys, pipeline, signer = self._keys, self._pipeline, self._signer
        self.presence: RedisPresence = RedisPresence(keys, pipeline, reader)
        self.rooms: RedisRooms = RedisRooms(keys, pipeline, reader)
        self.tokens: RedisTokens = RedisTokens(keys, pipeline, reader)
        clock = signer.clock if signer else None
        self.nodes: RedisNodes = RedisNodes(keys, pipeline, self._leases, reader, clock)
        self.sessions: RedisSessions = RedisSessions(keys, pipeline, reader, self._counters)
        self.revocations: RedisRevocations = RedisRevocations(keys, pipeline, reader, self._counters)
        self.workers: RedisWorkers = RedisWorkers(keys, pipeline, reader)
        publish_command = self._topology.publish_command
        self.rosters: RedisRosters = RedisRosters(keys, pipeline, reader, publish_command, signer)
        self.logs: RedisLogs = RedisLogs(
            keys, pipeline, gathered, reader, publish_command, signer=signer, gathers=gathers
        )

    def _returned(self, seconds: float) -> None:
        self._canaries.restart()  # canaries sent before the gap do not return
        self._gap_ended(seconds)

    async def start(self, node: NodeId) -> None:
        try:
            await self._pipeline.start()
            await self._leases.start()
            self._topology.watch()
            self._epochs.look()
            if self._guard is not None:
                await self.nodes.learn_time()
                self._guard.start()
            await self._subscriber.start()
            self._canaries.restart()
            await self._subscriber.subscribe(self._keys.all)
            await self.rename(node)
        except BaseException:
            await self.stop()
            raise

    def start_later(self, node: NodeId) -> None:
        if self._guard is not None:
            self._guard.start()
        self._canaries.restart()
        self._inbox = self._keys.inbox(node)
        for channel in (self._keys.all, self._inbox):
            self._subscriber.want(channel)
        self._pipeline.serve()
        self._leases.serve()
        self._topology.watch()
        self._subscriber.serve()

    def beat(self) -> None:
        self._canaries.beat()
        self._epochs.look()

    async def rename(self, node: NodeId) -> None:
        if self._inbox:
            self._subscriber.unsubscribe(self._inbox)
        self._inbox = self._keys.inbox(node)
        await self._subscriber.subscribe(self._inbox)

    async def stop(self) -> None:
        await self._subscriber.stop()
        await self._settle()
        await self._pipeline.stop()
        await self._leases.stop()
        await self._topology.stop()
        self._inbox = ""

    @property
    def is_connected(self) -> bool:
        return self._subscriber.is_connected

    @property
    def is_deaf(self) -> bool:
        return self._canaries.unheard_for_s() > self._deaf_after_s

    @property
    def run_id(self) -> str:
        """The identity of the server; in a cluster, of all primaries and of the content of those without leases.

        The epoch in each renewal identifies the content of the server with the leases.
        """
        if self._pipeline.is_ordered:
            return self._leases.run_id
        return f"{self._leases.run_id} {self._pipeline.run_id} {self._epochs.changes}"

    def listening(self, channel: Channel) -> Listening | None:
        return self._subscriber.listening(self._keys.channel(channel))

    @property
    def heard_to_s(self) -> float:
        return self._canaries.heard_to_s

    @property
    def is_ordered(self) -> bool:
        return self._pipeline.is_ordered

    @property
    def queued_bytes(self) -> int:
        return self._pipeline.queued_bytes
