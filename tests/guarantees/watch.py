"""What operators are alerted of while a fault is injected: both replicas are looked at all the time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from fastapi_websocket_stabilizer.observe.look import Look
from fastapi_websocket_stabilizer.observe.rules import problems
from fastapi_websocket_stabilizer.registry.telemetry import Sample
from tests.integration.cluster import RemoteError

from .world import Seat, World

LOOK_S = 0.1
ANSWER_S = 0.5
"""Seconds to wait for a replica. A frozen one shows nothing, as to a scraper."""


class Alerts:
    """The alerts that have fired, and what each has found first."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._began_s = time.monotonic()
        self._first: list[Sample] = []

    @classmethod
    @asynccontextmanager
    async def during(cls, world: World) -> AsyncIterator["Alerts"]:
        """Look at both replicas until the block ends."""
        alerts = cls()
        await alerts._look(world)
        watching = asyncio.create_task(alerts._go_on(world))
        try:
            yield alerts
            await alerts._look(world)
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _go_on(self, world: World) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look(world)

    async def _look(self, world: World) -> None:
        answers = await asyncio.gather(*map(_sample, (world.far, world.near)))
        now = [sample for sample in answers if sample is not None]
        self._first = self._first or now
        for problem in problems(Look(self._first, now, time.monotonic() - self._began_s)):
            self.found.setdefault(problem.rule.name, problem.finding.what)


async def _sample(seat: Seat) -> Sample | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            return Sample(**await seat.replica.call("sample"))
    except (TimeoutError, OSError, RemoteError, aiohttp.ClientError):
        return None
