"""One server or a cluster: creates the connections for commands, channels and the bus."""

from collections.abc import Callable

from ...names import PARTITIONS
from ...runtime.metrics import Counters
from .bus import RedisBus, RedisPublishing
from .cluster.bus import ClusterBus, ClusterPublishing, ClusterSubscriber, publish_command
from .cluster.router import LEASES, Router
from .cluster.slots import SlotTable
from .connection import ConnectionFactory
from .guard import Guard, Signer
from .keys import Keys, slot_of
from .pipeline import Pipeline, not_measured
from .ports import CommandConnection, Listener, Subscription
from .probes import Canaries
from .subscriber import Subscriber
from .urls import Address, Location

Flush = Callable[[], None]
Measured = Callable[[float], None]
PARTITION_SLOTS = {tag: slot_of(tag) for tag in map("{:02x}".format, range(PARTITIONS))}
"""The slot of each partition's hash tag."""


class Server:
    """One server; behind Sentinels, the current primary."""

    def __init__(
        self,
        location: Location,
        timeout_s: float,
        counters: Counters,
        answered_after: Measured = not_measured,
    ) -> None:
        self._factory, self._counters = ConnectionFactory(location, timeout_s), counters
        self._answered_after = answered_after

    def commands(
        self, name: str, flush_earlier_sends: Flush, timeout_s: float | None = None, *_: str
    ) -> Pipeline:
        factory = self._factory.within(timeout_s or self._factory.timeout_s)
        pipeline = Pipeline(
            factory, self._counters, name, flush_earlier_sends, answered_after=self._answered_after
        )
        self._on_moved(pipeline.abort)
        return pipeline

    def _on_moved(self, give_up: Callable[[], None]) -> None:
        if self._factory.sentinels is not None:
            self._factory.sentinels.listen(give_up)

    def publish_command(self) -> str:
        return "PUBLISH"

    def channels(self, listener: Listener, canaries: Canaries, *, knows_server: bool = False) -> Subscriber:
        subscriber = Subscriber(self._factory, self._counters, listener, knows_server=knows_server)
        canaries.watch(subscriber)
        self._on_moved(subscriber.reconnect)
        return subscriber

    def publishing(
        self, keys: Keys, commands: CommandConnection, signer: Signer | None = None
    ) -> RedisPublishing:
        return RedisPublishing(keys, commands, signer)

    def bus(
        self,
        keys: Keys,
        commands: CommandConnection,
        channels: Subscription,
        signer: Signer | None,
        guard: Guard | None,
    ) -> RedisBus:
        return RedisBus(keys, commands, channels, signer, guard)

    def tags(self) -> list[str]:
        """Return no partition, because the only server is that of the leases."""
        return []

    def watch(self) -> None:
        """Begin to query the Sentinels, if there are any, for a new primary."""
        if self._factory.sentinels is not None:
            self._factory.sentinels.watch()

    async def stop(self) -> None:
        """Stop the queries."""
        if self._factory.sentinels is not None:
            await self._factory.sentinels.stop()


class Cluster:
    """Several primaries, each with some of the slots."""

    def __init__(
        self,
        location: Location,
        timeout_s: float,
        counters: Counters,
        answered_after: Measured = not_measured,
    ) -> None:
        self._factory, self._counters = ConnectionFactory(location, timeout_s), counters
        self._answered_after = answered_after
        self._table = SlotTable(self._factory, location.seeds)

    def commands(
        self, name: str, flush_earlier_sends: Flush, timeout_s: float | None = None, *keys: str
    ) -> Router:
        """Return a router; its ``start`` connects to the primaries of ``keys``, or to all without keys."""
        factory = self._factory.within(timeout_s or self._factory.timeout_s)
        return Router(
            self._table, factory, self._counters, name, flush_earlier_sends, keys, self._answered_after
        )

    def publish_command(self) -> str:
        return publish_command(self._table)

    def channels(
        self, listener: Listener, canaries: Canaries, *, knows_server: bool = False
    ) -> ClusterSubscriber:
        return ClusterSubscriber(
            self._table, self._factory, self._counters, listener, canaries, knows_server=knows_server
        )

    def publishing(
        self, keys: Keys, commands: CommandConnection, signer: Signer | None = None
    ) -> ClusterPublishing:
        return ClusterPublishing(keys, commands, self._table, signer)

    def bus(
        self,
        keys: Keys,
        commands: CommandConnection,
        channels: Subscription,
        signer: Signer | None,
        guard: Guard | None,
    ) -> ClusterBus:
        return ClusterBus(keys, commands, channels, self._table, signer, guard)

    def tags(self) -> list[str]:
        """Return one partition of each primary that has any, except the primary of the leases."""
        found: dict[Address, str] = {}
        for tag, slot in PARTITION_SLOTS.items():
            found.setdefault(self._table.owner(slot), tag)
        found.pop(self._table.owner(slot_of(LEASES)), None)
        return list(found.values())

    def watch(self) -> None:
        """Begin to poll the slot map."""
        self._table.serve()

    async def stop(self) -> None:
        """Stop polling the slot map."""
        await self._table.stop()


def topology_at(
    location: Location, timeout_s: float, counters: Counters, answered_after: Measured = not_measured
) -> Server | Cluster:
    """Return the topology of a location. For ``answered_after`` see ``Pipeline``."""
    kind = Cluster if location.kind == "cluster" else Server
    return kind(location, timeout_s, counters, answered_after)
