"""``stabilizer check``, ``nodes`` and ``top`` look at a registry again and again, because rates need two looks."""

import asyncio
from collections.abc import AsyncGenerator

from ..config import WebSocketConfig
from ..observe.look import Look
from ..observe.report import Report, report_of
from ..runtime.loops import running_loop
from .operator import Operator


async def look(config: WebSocketConfig, over_s: float) -> Report:
    """Look at a registry twice, ``over_s`` seconds apart.

    Raises:
        RemoteError: There is no URL.
        BackendUnavailableError: Redis did not answer.
    """
    async with Operator(config) as operator:
        async for report in looks(operator, config.namespace, over_s):
            return report
    raise AssertionError("looks never end")


async def looks(operator: Operator, namespace: str, every_s: float) -> AsyncGenerator[Report, None]:
    """Look at a registry again and again, and yield what has happened since the look before. Raises as ``look``."""
    before, began_s = await operator.scrape(), running_loop().time()
    while True:
        await asyncio.sleep(every_s)
        now, now_s = await operator.scrape(), running_loop().time()
        yield report_of(namespace, Look(before.samples, now.samples, now_s - began_s, now.missing))
        before, began_s = now, now_s
