"""Faults of replicas, of clients, and of their single Redis server."""

import asyncio
import time

import aiohttp

from tests.faults.verbs import frozen, kill_replica, restart_replica, slow_reader
from tests.integration.cluster import DRAIN_SECRET

from .rows import row
from .world import ServerWorld

LARGE = "x" * 100_000
LARGE_MESSAGES = 120
"""Number of messages that overflow two kernel buffers and an outbox for a client that does not read."""
DRAIN_OVER_S = 5.0
AWAY_S = 2.0
"""Seconds that Redis or the network is away in a trial, in addition to the time in the description of the row."""


@row(
    "A replica is killed (`kill -9`)",
    "No reader shows its clients longer than one lease. Another replica removes all its keys and reports each "
    "client's leave once, within lease + 2 beats + the sweep.",
)
async def replica_killed(world: ServerWorld) -> dict[str, float]:
    far, near = world.far, world.near
    node_id, heard = await world.node_id(far), len(await near.replica.call("events"))
    left, staying = set(far.clients), tuple(near.clients)
    began_s = time.monotonic()
    await kill_replica(far.replica)
    await world.until(lambda: near.lists(*staying))
    absent_s = time.monotonic() - began_s

    async def is_over() -> bool:
        events = (await near.replica.call("events"))[heard:]
        gone = [event["client_id"] for event in events if event["kind"] == "left"]
        assert len(gone) == len(set(gone)), f"a leave was reported twice: {gone}"
        return left <= set(gone) and not world.keys_of(node_id)

    await world.until(is_over)
    swept_s = time.monotonic() - began_s
    await restart_replica(far.replica)
    await far.fill()
    await world.until(world.is_whole)
    return {"listed nowhere": absent_s, "keys swept, leaves reported": swept_s}


@row(
    "A replica is frozen (`SIGSTOP`) until the others have swept it, and then resumes",
    "It serves nothing stale, becomes a new node, and claims its clients again. Sockets of clients that have "
    "connected elsewhere are closed.",
)
async def replica_frozen(world: ServerWorld) -> dict[str, float]:
    node_id = await world.node_id(world.far)
    async with frozen(world.far.replica):
        await world.until(lambda: not world.keys_of(node_id))
    return {"all clients listed and reached": await world.until(world.is_whole)}


@row(
    "A replica's event loop is blocked by a handler that computes for longer than the lease",
    "As for a frozen replica.",
)
async def replica_blocked(world: ServerWorld) -> dict[str, float]:
    await world.far.replica.call("block", seconds=world.far.replica.lease_s + AWAY_S)
    return {"all clients listed and reached": await world.until(world.is_whole)}


@row(
    "All replicas are killed at once and started again; their clients reconnect",
    "No stale client remains. Old entries are hidden when their leases end, and swept when a new node has held its "
    "own lease for one whole lease.",
)
async def all_replicas_killed(world: ServerWorld) -> dict[str, float]:
    seats = world.far, world.near
    former = [await world.node_id(seat) for seat in seats]
    began_s = time.monotonic()
    for seat in seats:
        await kill_replica(seat.replica)
    for seat in seats:
        await restart_replica(seat.replica)
        await seat.fill()
    await world.until(world.is_whole)
    whole_s = time.monotonic() - began_s
    await world.until(lambda: not any(map(world.keys_of, former)))
    return {"all clients listed and reached": whole_s, "keys swept": time.monotonic() - began_s}


@row(
    "Redis is killed and comes back empty",
    "Sockets stay open. The registry is complete within two beats of the return.",
)
async def redis_restarted_empty(world: ServerWorld) -> dict[str, float]:
    await asyncio.to_thread(world.server.kill)
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(world.server.start)
    return {"all clients listed and reached": await world.until(world.is_whole)}


@row("Every key is deleted (`FLUSHALL`)", "The registry is complete within two beats.")
async def redis_flushed(world: ServerWorld) -> dict[str, float]:
    await asyncio.to_thread(world.server.flush)
    return {"all clients listed and reached": await world.until(world.is_whole)}


@row(
    "Redis is frozen for longer than the lease",
    "No replica is swept. The registry is complete within two beats of the return.",
)
async def redis_frozen(world: ServerWorld) -> dict[str, float]:
    async with frozen(world.server):
        await asyncio.sleep(world.far.replica.lease_s + AWAY_S)
    return {"all clients listed and reached": await world.until(world.is_whole)}


@row(
    "The bus connections are killed (`CLIENT KILL TYPE pubsub`)",
    "They are opened again with full jitter. Messages published in between are lost, counted and reported to "
    "`on_bus_gap`.",
)
async def bus_killed(world: ServerWorld) -> dict[str, float]:
    await asyncio.to_thread(world.server.kill_pubsub)
    return {"all clients listed and reached": await world.until(world.is_whole)}


@row(
    "A replica is cut off from Redis",
    "Its local sends continue. The registry is complete within two beats of the return.",
)
async def network_cut(world: ServerWorld) -> dict[str, float]:
    async with world.network.is_cut():
        await asyncio.sleep(AWAY_S)
    return {"all clients listed and reached": await world.until(world.is_whole)}


@row(
    "The network silently drops every byte between a replica and Redis",
    "Commands end at their deadline, and the canary detects the dead bus. The registry is complete within two beats "
    "of the return.",
)
async def network_black_hole(world: ServerWorld) -> dict[str, float]:
    async with world.network.swallows():
        await asyncio.sleep(world.far.replica.lease_s + AWAY_S)
    return {"all clients listed and reached": await world.until(world.is_whole)}


@row(
    "A message is sent to a client of another replica while Redis is frozen",
    "`False` within `redis_timeout_s` (3 s). No public call hangs.",
)
async def remote_send_while_redis_is_frozen(world: ServerWorld) -> dict[str, float]:
    async with frozen(world.server):
        began_s = time.monotonic()
        taken = await world.near.replica.call("send_to_client", client_id="far0", message="hi")
        took_s = time.monotonic() - began_s
        assert taken is False, taken
    await world.until(world.is_whole)
    return {"answer": took_s}


@row(
    "A message is sent to a client of the same replica while Redis is frozen",
    "Written at once.",
)
async def local_send_while_redis_is_frozen(world: ServerWorld) -> dict[str, float]:
    async with frozen(world.server):
        began_s = time.monotonic()
        taken = await world.near.replica.call("send_to_client", client_id="near0", message="hi")
        took_s = time.monotonic() - began_s
        assert taken is True, taken
    await world.until(world.is_whole)
    return {"answer": took_s}


@row(
    "A client stops reading and is sent 12 MB",
    "It is cut off by its outbox limit or its write deadline (2 s), and its memory is freed. No other client waits "
    "for it.",
)
async def client_that_does_not_read(world: ServerWorld) -> dict[str, float]:
    near = world.near
    began_s = time.monotonic()
    with slow_reader(near.replica, "slow"):
        await world.until(lambda: near.lists(*world.everybody, "slow"))
        for _ in range(LARGE_MESSAGES):
            await near.replica.call("send_to_client", client_id="slow", message=LARGE)
        began_s = time.monotonic()
        await world.until(lambda: near.lists(*world.everybody))
    return {"no longer listed": time.monotonic() - began_s}


@row(
    f"A replica is drained over {DRAIN_OVER_S:g} s",
    "Within that time every client is closed with 1012 and a time to return, whatever it does. No client is listed "
    "afterwards.",
)
async def replica_drained(world: ServerWorld) -> dict[str, float]:
    far, near = world.far, world.near
    began_s = time.monotonic()
    url = f"http://127.0.0.1:{far.replica.port}/drain?over={DRAIN_OVER_S}"
    secret = {"Authorization": f"Bearer {DRAIN_SECRET}"}
    async with aiohttp.ClientSession() as http, http.post(url, headers=secret) as response:
        report = await response.json()
    drained_s = time.monotonic() - began_s
    assert (report["closed_count"], report["failed_count"]) == (len(far.clients), 0), report
    assert {client.closed_with[0] for client in far.clients.values() if client.closed_with} == {1012}
    await world.until(lambda: near.lists(*near.clients))
    absent_s = time.monotonic() - began_s
    await kill_replica(far.replica)
    await restart_replica(far.replica)
    await far.fill()
    await world.until(world.is_whole)
    return {"answered": drained_s, "listed nowhere": absent_s}
