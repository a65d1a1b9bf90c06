"""Costs of operators: ``python -m benchmarks.operators``. A registry of many nodes, of which one process is real."""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import redis
from fastapi import FastAPI
from tests.integration.asgi import Caller
from tests.support.servers import Missing, RedisServer, find_row

from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.cli.operator import Operator
from fastapi_websocket_stabilizer.names import NodeId

SERVER = "valkey-9.1"
NODES = 200
ROUNDS = 20
LEASE_MS = 600_000
BUSY = {
    "connections_opened": 812_345, "messages_sent": 91_234_567, "broadcasts": 123_456, "bus_messages": 7_654_321,
    "redis_commands": 3_456_789, "redis_batches": 1_234_567, "heartbeat_pings": 456_789, "history_appends": 98_765,
    "direct_batches": 54_321, "sockets_paused": 4_321, "history_reads": 321, "resumes_whole": 54_321,
    "closed:peer_closed": 700_000, "closed:peer_gone": 54_321, "closed:timed_out": 4_321, "closed:released": 43_210,
    "sent:1000": 43_210, "received:1000": 600_000, "received:1001": 100_000, "received:1006": 54_321,
    "handshake:accepted": 812_345, "handshake:unauthenticated": 4_321,
}  # fmt: skip
"""Totals of a node that was busy for days."""


def main() -> int:
    """Measure, and print the figures as Markdown."""
    binary = find_row(SERVER)
    if isinstance(binary, Missing):
        print(binary.reason, file=sys.stderr)
        return 2
    with RedisServer(binary) as server:
        asyncio.run(_measure(server))
    return 0


async def _measure(server: RedisServer) -> None:
    config = WebSocketConfig(redis_url=server.url, log_level="ERROR")
    async with WebSocketConnectionManager(config) as manager:
        size = await _populate(manager)
        app = FastAPI()
        app.include_router(manager.admin_router(prefix="/admin"))
        caller = Caller(app, "/admin/api/", {})
        answer = await caller.get("overview")
        print(f"{SERVER} {server.version}, {NODES} nodes, median of {ROUNDS}\n")
        print("| | |\n|---|---:|")
        print(f"| values of a busy node in a beat | {size:,} bytes |")
        print(f"| answer of `/api/overview` | {len(answer.text) / 1000:,.0f} kB |")
        with redis.Redis.from_url(server.url) as client:
            for name, call in {
                "`/api/overview`": lambda: caller.get("overview"),
                "`/metrics` of the cluster": manager._registry.telemetry.of_cluster,
            }.items():
                cpu_ms, wall_ms, redis_ms = await _cost(call, client)
                print(f"| {name}: CPU, time, CPU of Redis | {cpu_ms:.1f}, {wall_ms:.1f}, {redis_ms:.1f} ms |")
            async with Operator(config) as operator:
                cpu_ms, wall_ms, redis_ms = await _cost(operator.scrape, client)
                print(
                    f"| a look of `stabilizer check`: the same | {cpu_ms:.1f}, {wall_ms:.1f}, {redis_ms:.1f} ms |"
                )


async def _populate(manager: WebSocketConnectionManager) -> int:
    """Enter all nodes but one, each with values; return the bytes of these."""
    backend, telemetry = manager._state.backend, manager._registry.telemetry
    await asyncio.sleep(2.0)  # so that the histograms have values
    sample = asdict(telemetry.own())
    histograms = {name: (counts, total_s) for name, (counts, total_s) in sample["histograms"].items()}
    told = {
        name: value
        for name, value in sample.items()
        if name not in ("worker", "node", "totals", "histograms")
    }
    body = json.dumps({**told, "totals": BUSY, "histograms": histograms}).encode()
    for number in range(NODES - 1):
        node, group = NodeId(f"{number:016x}"), f"host-{number}:1"
        info = json.loads(manager._state.describe()) | {"name": f"web-{number}", "group": group}
        await backend.nodes.register(node, json.dumps(info).encode(), LEASE_MS)
        place, _ = await backend.workers.take(group, node, [])
        await backend.workers.publish(group, place, node, body)
    return len(body)


async def _cost(call: Callable[[], Awaitable[object]], client: "redis.Redis") -> tuple[float, float, float]:
    """Return CPU and time of a call in ms, and the CPU of Redis."""
    cpu_ms, wall_ms, redis_ms = list[float](), list[float](), list[float]()
    for _ in range(ROUNDS):
        began_s, cpu_s, used_ms = time.perf_counter(), time.process_time(), _redis_ms(client)
        await call()
        wall_ms.append((time.perf_counter() - began_s) * 1000)
        cpu_ms.append((time.process_time() - cpu_s) * 1000)
        redis_ms.append(_redis_ms(client) - used_ms)
    return statistics.median(cpu_ms), statistics.median(wall_ms), statistics.median(redis_ms)


def _redis_ms(client: "redis.Redis") -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"]) * 1000


if __name__ == "__main__":
    sys.exit(main())
