"""A replica that is flooded: an echo for calm clients, a sink, and a door that accepts too late."""

import asyncio
import time
from typing import Any

from fastapi import FastAPI

from benchmarks.apps.environment import NAMESPACE, REDIS_URL
from fastapi_websocket_stabilizer import Connection, Identity, WebSocketConfig, WebSocketConnectionManager

TICK_S = 0.0005

manager = WebSocketConnectionManager(WebSocketConfig(redis_url=REDIS_URL, namespace=NAMESPACE))
app = FastAPI(lifespan=manager.lifespan)


class Turns:
    """The CPU time between two ticks of the event loop: at least that of its longest turn."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._last_s = time.thread_time()

    def tick(self) -> None:
        """Look, and look again with the next turn."""
        now_s = time.thread_time()
        self.longest_s, self._last_s = max(self.longest_s, now_s - self._last_s), now_s
        asyncio.get_running_loop().call_later(TICK_S, self.tick)


turns = Turns()


async def echo(connection: Connection, message: str | bytes) -> None:
    """Say it back."""
    await connection.send(message)


async def swallow(connection: Connection, message: str | bytes) -> None:
    """Do nothing."""


@manager.websocket(app, "/calm", on_message=echo)
async def identify_calm(client_id: str) -> Identity:
    """Take anybody."""
    return Identity(client_id)


@manager.websocket(app, "/flood", on_message=swallow)
async def identify_flood(client_id: str) -> Identity:
    """Take anybody."""
    return Identity(client_id)


@manager.websocket(app, "/door")
async def identify_never(client_id: str) -> Identity:
    """Decide too late."""
    await asyncio.sleep(3600)
    return Identity(client_id)


@app.get("/watch")
async def watch() -> None:
    """Begin to watch turns."""
    turns.tick()


@app.get("/state")
async def state() -> dict[str, Any]:
    """Say how the replica is, and forget the longest turn."""
    longest_s, turns.longest_s = turns.longest_s, 0.0
    counters = manager.statistics().counters
    return {
        "longest_turn_ms": longest_s * 1000,
        "leases_refused": counters["leases_refused"],
        "reads_deferred": counters.get("reads_deferred", 0),
    }


@app.get("/online")
async def online(prefix: str) -> int:
    """Count the clients of the registry whose name begins so."""
    return len({entry.client_id async for entry in manager.clients() if entry.client_id.startswith(prefix)})
