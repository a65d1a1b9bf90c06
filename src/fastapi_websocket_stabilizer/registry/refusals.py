"""Refusals of new clients: their texts, and the close of a socket that was accepted."""

import asyncio
import random
from contextlib import suppress
from typing import Any

from ..exceptions import DrainingError
from ..local.transport import is_accepted
from .pace import RETURN_WITHIN_S

UNREACHABLE = "the registry cannot be reached"
"""Close reason if Redis is unavailable. Clients must not see its address."""


def soon_ms() -> int:
    """Return a random time in which a client that meets a drain connects again."""
    return int(1000 * RETURN_WITHIN_S * random.random())


def is_draining() -> DrainingError:
    """Return the error for a new client during and after a drain."""
    return DrainingError("this node is draining: connect again, to another")


async def turn_away(websocket: Any, code: int, reason: str, within_s: float) -> None:
    """Close the socket of a rejected client, if it was accepted. A close that fails or is too late is ignored."""
    if is_accepted(websocket):
        with suppress(Exception):  # slow or gone: the caller raises the reason of the rejection
            async with asyncio.timeout(within_s):
                await websocket.close(code=code, reason=reason)
