"""What a client is told that is to connect to another node, or later."""

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

from .. import close_codes
from ..exceptions import DrainingError
from ..local.transport import is_accepted
from .pace import RETURN_WITHIN_S

UNREACHABLE = "the registry cannot be reached"
"""What strangers are told of Redis' troubles: not its address."""


def come_back(in_ms: int) -> str:
    """Return the close reason that says when to connect again; RFC 6455 leaves 123 bytes for it."""
    return json.dumps({"reconnect_in_ms": in_ms}, separators=(",", ":"))


async def refuse(websocket: Any, within_s: float) -> None:
    """Send a newcomer elsewhere: with 1012 if it was accepted already, else its refusal is an HTTP answer.

    Raises:
        DrainingError: Always, and within ``within_s`` seconds.
    """
    in_ms = int(1000 * RETURN_WITHIN_S * random.random())
    await turn_away(websocket, close_codes.SERVICE_RESTART, come_back(in_ms), within_s)
    raise is_draining()


def is_draining() -> DrainingError:
    """Return the error for a newcomer during and after a drain."""
    return DrainingError("this node is draining: connect again, to another")


async def turn_away(websocket: Any, code: int, reason: str, within_s: float) -> None:
    """Close a newcomer if it was accepted, whether or not it takes the close; else its refusal is an HTTP answer."""
    if is_accepted(websocket):
        with suppress(Exception):  # slow, or gone: what is raised is why it was turned away
            async with asyncio.timeout(within_s):
                await websocket.close(code=code, reason=reason)
