"""``stabilizer drain``: requests the drain of a node over Redis and shows its progress."""

import asyncio
import json
from collections.abc import Callable

from ..backends.redis.keys import Keys
from ..backends.redis.publisher import Publisher
from ..backends.redis.reading import Reader
from ..backends.redis.stores import RedisNodes
from ..config import WebSocketConfig
from ..models import NodeInfo
from ..names import NodeId
from ..registry.directory import node_info
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters

LOOK_EVERY_S = 0.5
"""Seconds between two polls of the node."""
PATIENCE_S = 5.0
"""Seconds that a node gets beyond the drain window, to respond and to release its connections."""


class RemoteError(Exception):
    """The node does not exist, or did not carry out the request."""


class Operator(Publisher):
    """A publisher that can also list the nodes and request a drain. It holds no lease, so it is not listed."""

    def __init__(self, config: WebSocketConfig) -> None:
        if config.redis_url is None:
            raise RemoteError("no Redis URL: give --redis-url, or set WS_REDIS_URL")
        super().__init__(
            config.redis_url,
            namespace=config.namespace,
            timeout_s=config.redis_timeout_s,
            envelope_keys=config.envelope_keys,
        )
        reader = Reader(Counters())
        self._nodes = RedisNodes(Keys(config.namespace), self._pipeline, self._pipeline, reader)

    async def nodes(self) -> list[NodeInfo]:
        """Return all live nodes."""
        await self._start()
        live = sorted(await self._nodes.live())
        infos = await self._nodes.infos(live)
        shown = [node_info(node, info, n) for node, (info, n) in zip(live, infos, strict=True) if info]
        return [info for info in shown if info is not None]

    async def find(self, name: str) -> NodeInfo:
        """Return the live node with this node_id, or the only one with this name.

        Raises:
            RemoteError: No node, or more than one, has this name.
        """
        nodes = await self.nodes()
        found = [n for n in nodes if n.node_id == name] or [n for n in nodes if n.name == name]
        if len(found) == 1:
            return found[0]
        listed = "".join(f"\n  {n.node_id}  {n.name}  {n.connections} connections" for n in found or nodes)
        if found:
            raise RemoteError(f"{len(found)} nodes are called {name!r}; give the node_id of one:{listed}")
        raise RemoteError(f"no live node is called {name!r}; there are {len(nodes)}:{listed}")

    async def ask_to_drain(self, node: NodeId, over_s: float) -> None:
        """Publish a drain request to the node's inbox.

        Raises:
            RemoteError: The node is not subscribed to its inbox.
        """
        body = json.dumps({"do": "drain", "over_s": float(over_s)})
        envelope = self._outgoing.request(node, body)
        if not await self._bus.publish_node(node, envelope):
            raise RemoteError(
                f"node {node} holds its lease but is not subscribed: it may be frozen or cut off from Redis"
            )


async def run_drain(config: WebSocketConfig, name: str, over_s: float, say: Callable[[str], None]) -> None:
    """Drain a node, and return when it has no connection left or has left the registry.

    Each line of progress is passed to ``say``.

    Raises:
        RemoteError: The node does not exist, is not subscribed, or did not finish in time.
        BackendUnavailableError: Redis did not answer.
    """
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
