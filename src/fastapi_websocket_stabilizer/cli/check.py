"""``stabilizer check``, ``nodes`` and ``top`` look at a registry again and again, because rates need two looks."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from ..config import WebSocketConfig
from ..exceptions import BackendUnavailableError
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


async def looks(
    operator: Operator, namespace: str, every_s: float, warn: Callable[[str], None] | None = None
) -> AsyncGenerator[Report, None]:
    """Look at a registry again and again, and yield what has happened since the look before.

    With ``warn``, it goes on after a look that Redis has not answered, and says so. Otherwise it raises as ``look``.
    """
    before, began_s = await operator.scrape(), running_loop().time()
    while True:
        await asyncio.sleep(every_s)
        try:
            now, now_s = await operator.scrape(), running_loop().time()
        except BackendUnavailableError as error:
            if warn is None:
                raise
            warn(str(error))
            continue
        yield report_of(namespace, Look(before.samples, now.samples, now_s - began_s, now.missing))
        before, began_s = now, now_s
