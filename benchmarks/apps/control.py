"""How the harness asks a replica to send: ``POST /control``, answered when its calls have returned.

Runs under release 1.1's interpreter too, so it knows nothing but FastAPI.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.messages import json_message, text_message

Broadcast = Callable[..., Awaitable[object]]
Direct = Callable[[str, Any], Awaitable[object]]
Job = Callable[[], Awaitable[object]]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Order(BaseModel):
    """What to send: broadcasts, or to each of ``targets``; ``rate`` is calls a second, 0 as fast as possible."""

    count: int = 0
    in_flight: int = 1
    first: int = 0
    size: int = 128
    is_json: bool = False
    rate: float = 0.0
    targets: list[str] = []
    is_watched: bool = False
    """Whether the answer names the longest turn of the event loop."""
    room: str = ""
    """Where broadcasts go; empty for everybody."""
    excluded: list[str] = []
    """Who is left out of broadcasts, in turn: a chat leaves each sender out of his own message."""

    def message(self, sequence: int) -> Any:
        """Return one message, stamped now: text, or an object that is to be sent as JSON."""
        return (json_message if self.is_json else text_message)(sequence, self.size)


class Turns:
    """The CPU time of the longest turn of the event loop: of all callbacks that ran in it together."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._is_over = False
        self._last_s = 0.0

    def watch(self) -> None:
        """Begin to watch."""
        self._last_s = time.thread_time()
        asyncio.get_running_loop().call_soon(self._turn)

    def end(self) -> None:
        """Watch no more."""
        self._is_over = True

    def _turn(self) -> None:
        now_s = time.thread_time()
        self.longest_s, self._last_s = max(self.longest_s, now_s - self._last_s), now_s
        if not self._is_over:
            asyncio.get_running_loop().call_soon(self._turn)


def add_control(app: FastAPI, broadcast: Broadcast, direct: Direct) -> None:
    """Let ``app`` be asked to send."""

    @app.get("/control")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/control")
    async def control(order: Order) -> dict[str, float]:
        started, turns = time.monotonic(), Turns()
        if order.is_watched:
            turns.watch()
        await run(order, broadcast, direct)
        turns.end()
        return {"seconds": time.monotonic() - started, "longest_turn_ms": turns.longest_s * 1000}


def control_app(broadcast: Broadcast, direct: Direct, lifespan: Lifespan | None = None) -> FastAPI:
    """Return an application that can only be asked to send."""
    app = FastAPI(lifespan=lifespan)
    add_control(app, broadcast, direct)
    return app


async def run(order: Order, broadcast: Broadcast, direct: Direct) -> None:
    """Make the calls of ``order``, and return when all have returned."""
    jobs = _directs(order, direct) if order.targets else _broadcasts(order, broadcast)
    if order.rate:
        async with asyncio.TaskGroup() as group:
            async for job in _paced(jobs, order.rate):
                group.create_task(_call(job))
    else:
        await asyncio.gather(*(_work(jobs) for _ in range(order.in_flight)))


def _broadcasts(order: Order, broadcast: Broadcast) -> Iterator[Job]:
    for sequence in range(order.first, order.first + order.count):
        left_out = [order.excluded[sequence % len(order.excluded)]] if order.excluded else []
        where = {"room": order.room} if order.room else {}
        yield lambda sequence=sequence, left_out=left_out, where=where: (  # type: ignore[misc]
            broadcast(order.message(sequence), *left_out, **where)
        )


def _directs(order: Order, direct: Direct) -> Iterator[Job]:
    for sequence in range(order.first, order.first + order.count):
        for target in order.targets:
            yield lambda sequence=sequence, target=target: (  # type: ignore[misc]
                direct(target, order.message(sequence))
            )


async def _work(jobs: Iterable[Job]) -> None:
    for job in jobs:
        await job()


async def _call(job: Job) -> None:
    await job()


async def _paced(jobs: Iterable[Job], rate: float) -> AsyncIterator[Job]:
    due = time.monotonic()
    for job in jobs:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield job
        due += 1 / rate
