"""``stabilizer drain``: requests the drain of a node over Redis and shows its progress."""

import asyncio
from collections.abc import Callable

from ..config import WebSocketConfig
from ..models import NodeInfo
from ..names import NodeId
from ..runtime.loops import running_loop
from .operator import Operator, RemoteError

LOOK_EVERY_S = 0.5
"""Seconds between two polls of the node."""
PATIENCE_S = 5.0
"""Seconds that a node gets beyond the drain window, to respond and to release its connections."""


async def run_drain(
    config: WebSocketConfig, name: str, over_s: float | None, say: Callable[[str], None]
) -> None:
    """Drain a node, and return when it has no connection left or has left the registry.

    ``over_s`` is ``drain_over_s`` of the settings if it is None.
    Each line of progress is passed to ``say``.

    Raises:
        RemoteError: The node does not exist, is not subscribed, or did not finish in time.
        BackendUnavailableError: Redis did not answer.
    """
    over_s = config.drain_over_s if over_s is None else over_s
    async with Operator(config) as operator:
        node: NodeInfo | None = await operator.find(name)
        assert node is not None
        title, began_s, had = f"{node.name} ({node.node_id})", running_loop().time(), node.connections
        await operator.ask_to_drain(node.node_id, over_s)
        say(f"{title}: asked to drain {had:,} connections within {over_s:g} s")
        while node is not None and (node.connections or not node.draining):
            took_s = running_loop().time() - began_s
            if took_s > (over_s if node.draining else 0) + PATIENCE_S:
                state = "draining" if node.draining else "not draining"
                raise RemoteError(
                    f"{title}: {state} after {took_s:.0f} s, {node.connections:,} connections left"
                )
            await asyncio.sleep(LOOK_EVERY_S)
            before, node = node.connections, await _again(operator, node.node_id)
            if node is not None and node.connections != before:
                say(f"{title}: {node.connections:,} left")
        end = "it has left the registry" if node is None else "it refuses new ones until it is restarted"
        say(f"{title}: no connection left after {running_loop().time() - began_s:.1f} s; {end}")


async def _again(operator: Operator, node_id: NodeId) -> NodeInfo | None:
    return next((node for node in await operator.nodes() if node.node_id == node_id), None)
