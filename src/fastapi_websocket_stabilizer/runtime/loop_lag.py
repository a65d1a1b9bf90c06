"""How much later than asked for the event loop continues: other callbacks, or the machine, kept it busy."""

import asyncio

from .loops import running_loop
from .metrics import Histogram

EVERY_S = 0.5
"""Seconds between two looks. A stall that is shorter is seen with the probability of its share of that."""


async def watch(lags: Histogram) -> None:
    """Measure until cancelled."""
    now_s = running_loop().time
    while True:
        due_s = now_s() + EVERY_S
        await asyncio.sleep(EVERY_S)
        lags.add(max(0.0, now_s() - due_s))
