"""Faults of a Redis with several servers, behind Sentinels or as a cluster."""

import asyncio

from redis.crc import key_slot

from tests.faults.verbs import frozen
from tests.support.servers import RedisServer

from .rows import row
from .world import ClusterWorld, SentinelWorld

PROMOTED = "Redis has promoted another server"
WHOLE = "then all clients listed and reached"
REPAIRED = (
    "The registry is complete within two beats of the promotion. "
    "Data that the new primary had missed is repaired."
)


@row("Sentinel: the primary is killed", REPAIRED, SentinelWorld)
async def sentinel_primary_killed(world: SentinelWorld) -> dict[str, float]:
    await world.until(world.is_in_order)
    former = world.group.primary
    await asyncio.to_thread(former.kill)
    times = await _replaced_by_sentinels(world, former)
    await asyncio.to_thread(former.start)
    return times


@row(
    "Sentinel: the primary is frozen, and resumes when another one has taken its place",
    REPAIRED,
    SentinelWorld,
)
async def sentinel_primary_frozen(world: SentinelWorld) -> dict[str, float]:
    await world.until(world.is_in_order)
    former = world.group.primary
    async with frozen(former):
        times = await _replaced_by_sentinels(world, former)
    await world.until(world.is_in_order)
    await world.until(world.is_whole)
    return times


@row("Sentinel: primary and replica are exchanged (`SENTINEL FAILOVER`)", REPAIRED, SentinelWorld)
async def sentinel_failover(world: SentinelWorld) -> dict[str, float]:
    await world.until(world.is_in_order)
    former = world.group.primary
    await asyncio.to_thread(world.group.failover)
    return await _replaced_by_sentinels(world, former)


async def _replaced_by_sentinels(world: SentinelWorld, former: RedisServer) -> dict[str, float]:
    promoted_s = await world.until(lambda: world.group.primary is not former)
    return {PROMOTED: promoted_s, WHOLE: await world.until(world.is_whole)}


@row("Cluster: the primary of the leases is killed", REPAIRED, ClusterWorld)
async def cluster_primary_of_leases_killed(world: ClusterWorld) -> dict[str, float]:
    return await _killed(world, world.keys.leases)


@row("Cluster: the primary of the channel of all broadcasts is killed", REPAIRED, ClusterWorld)
async def cluster_primary_of_broadcasts_killed(world: ClusterWorld) -> dict[str, float]:
    return await _killed(world, world.keys.all)


async def _killed(world: ClusterWorld, key: str) -> dict[str, float]:
    cluster = world.cluster
    former = cluster.owner_of(key)
    await world.until(lambda: cluster.replica_of(former) is not None)
    await asyncio.to_thread(former.kill)
    promoted_s = await world.until(lambda: cluster.owner_of(key) is not former)
    whole_s = await world.until(world.is_whole)
    await asyncio.to_thread(former.start)
    return {PROMOTED: promoted_s, WHOLE: whole_s}


@row(
    "Cluster: every key of one primary is deleted (`FLUSHALL`), for each primary in turn",
    "Each beat checks each primary. The registry is complete within two beats and the time to claim again.",
    ClusterWorld,
)
async def cluster_primary_flushed(world: ClusterWorld) -> dict[str, float]:
    await asyncio.to_thread(world.next_primary().flush)
    return {"all clients listed and reached": await world.until(world.is_whole)}


@row(
    "Cluster: the slot of the channel of all broadcasts moves to another primary",
    "Each node subscribes there. No node stops receiving, and no message is delivered twice.",
    ClusterWorld,
)
async def cluster_slot_moved(world: ClusterWorld) -> dict[str, float]:
    cluster, key = world.cluster, world.keys.all
    former = cluster.owner_of(key)
    target = next(server for server in world.primaries if server is not former)
    await asyncio.to_thread(cluster.move, key_slot(key.encode()), target)
    return {"all clients listed and reached": await world.until(world.is_whole)}
