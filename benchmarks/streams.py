"""CPU for each token of a language model, as a broadcast and in a stream: ``python -m benchmarks.streams``."""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis.asyncio
from tests.support.servers import Missing, RedisServer, find_row

from fastapi_websocket_stabilizer import History, WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.testing import FakeWebSocket

SERVER = "valkey-9.1"
ROUNDS = 5
TOKENS = 500
TOKENS_PER_S = 100
"""Pace of a fast model."""
ANSWERS = 10
"""Answers at the same time, each in a room of its own."""
READERS = 3
"""Sockets in each room."""
TOKEN = " token"

Answer = Callable[[WebSocketConnectionManager, str], Awaitable[None]]


@dataclass
class Cost:
    """What the tokens of one round cost: microseconds of CPU for each, and appends for each answer."""

    process_us: float
    redis_us: float
    appends: float
    frames: float


async def pause(manager: WebSocketConnectionManager, room: str) -> None:
    """Produce the tokens, and send nothing."""
    for _ in range(TOKENS):
        await asyncio.sleep(1 / TOKENS_PER_S)


async def broadcast(manager: WebSocketConnectionManager, room: str) -> None:
    """Send each token as a message."""
    for number in range(TOKENS):
        await asyncio.sleep(1 / TOKENS_PER_S)
        await manager.broadcast({"answer": 17, "seq": number, "text": TOKEN}, room=room)


async def stream(manager: WebSocketConnectionManager, room: str) -> None:
    """Write each token to a stream."""
    async with manager.stream(room) as answer:
        for _ in range(TOKENS):
            await asyncio.sleep(1 / TOKENS_PER_S)
            await answer.write(TOKEN)


def main() -> int:
    """Measure, and print the figures as Markdown."""
    binary = find_row(SERVER)
    if isinstance(binary, Missing):
        print(binary.reason, file=sys.stderr)
        return 2
    with RedisServer(binary) as server:
        asyncio.run(_measure_all(server))
    return 0


async def _measure_all(server: RedisServer) -> None:
    print(
        f"{SERVER} {server.version}, {ANSWERS} answers of {TOKENS} tokens, {TOKENS_PER_S} tokens a second each,"
    )
    print(f"{READERS} readers of each, median of {ROUNDS} rounds\n")
    print("| room | sent as | CPU of the process | CPU of Redis | entries of an answer | messages a reader |")
    print("|---|---|---:|---:|---:|---:|")
    for prefix, name in (("plain:", "no history"), ("chat:", "history")):
        costs = {each: await _cost(server, each, prefix) for each in (broadcast, stream)}
        for each, cost in costs.items():
            cells = (
                f"{cost.process_us:.0f} µs | {cost.redis_us:.1f} µs | {cost.appends:.0f} | {cost.frames:.0f}"
            )
            print(f"| {name} | {each.__name__} | {cells} |", flush=True)


async def _cost(server: RedisServer, answer: Answer, prefix: str) -> Cost:
    """Return the median of each cost, without that of producing the tokens."""
    rounds = []
    for _ in range(ROUNDS):
        idle, busy = await _round(server, pause, prefix), await _round(server, answer, prefix)
        process_us, redis_us = busy.process_us - idle.process_us, busy.redis_us - idle.redis_us
        rounds.append(Cost(process_us, redis_us, busy.appends, busy.frames))
    return Cost(*(statistics.median(values) for values in zip(*map(_values, rounds), strict=True)))


def _values(cost: Cost) -> tuple[float, ...]:
    return cost.process_us, cost.redis_us, cost.appends, cost.frames


async def _round(server: RedisServer, answer: Answer, prefix: str) -> Cost:
    config = WebSocketConfig(
        redis_url=server.url, history={"chat:": History(messages=1000)}, log_level="ERROR"
    )
    async with WebSocketConnectionManager(config) as manager, redis.asyncio.Redis(port=server.port) as client:
        rooms = [f"{prefix}{number}" for number in range(ANSWERS)]
        sockets = [await _enter(manager, room, reader) for room in rooms for reader in range(READERS)]
        appends, redis_s, process_s = _appends(manager), await _redis_s(client), time.process_time()
        await asyncio.gather(*(answer(manager, room) for room in rooms))
        process_s, redis_s = time.process_time() - process_s, await _redis_s(client) - redis_s
        tokens_in_millions = ANSWERS * TOKENS / 1e6
        frames = sum(len(socket.received) for socket in sockets) / len(sockets)
        appended = (_appends(manager) - appends) / ANSWERS
        return Cost(process_s / tokens_in_millions, redis_s / tokens_in_millions, appended, frames)


async def _enter(manager: WebSocketConnectionManager, room: str, reader: int) -> FakeWebSocket:
    socket = FakeWebSocket()
    connection = await asyncio.create_task(manager.connect(f"{reader} of {room}", socket))
    await connection.join(room)
    return socket


def _appends(manager: WebSocketConnectionManager) -> int:
    return manager.statistics().counters["history_appends"]


async def _redis_s(client: redis.asyncio.Redis) -> float:
    info = await client.info("cpu")
    return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])


if __name__ == "__main__":
    sys.exit(main())
