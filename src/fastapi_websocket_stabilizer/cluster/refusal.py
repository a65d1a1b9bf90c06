"""What a client is told that is to connect to another node."""

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

from .. import close_codes
from ..exceptions import DrainingError
from ..local.transport import is_accepted
from .pace import RETURN_WITHIN_S


def come_back(in_ms: int) -> str:
    """Return the close reason that says when to connect again; RFC 6455 leaves 123 bytes for it."""
    return json.dumps({"reconnect_in_ms": in_ms}, separators=(",", ":"))


async def refuse(websocket: Any, within_s: float) -> None:
    """Send a newcomer elsewhere: with 1012 if it was accepted already, else its refusal is an HTTP answer.

    Raises:
        DrainingError: Always, and within ``within_s`` seconds.
    """
    if is_accepted(websocket):
        in_ms = int(1000 * RETURN_WITHIN_S * random.random())
        await turn_away(websocket, close_codes.SERVICE_RESTART, come_back(in_ms), within_s)
    raise DrainingError("this node is draining: connect again, to another")


async def turn_away(websocket: Any, code: int, reason: str, within_s: float) -> None:
    """Close an accepted socket that is nobody's; whether it takes the close changes nothing for the caller."""
    with suppress(TimeoutError, OSError, RuntimeError):  # slow, or gone
        async with asyncio.timeout(within_s):
            await websocket.close(code=code, reason=reason)
