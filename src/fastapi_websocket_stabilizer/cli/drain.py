"""Asks a node to drain from anywhere that reaches Redis, and watches it do so: ``stabilizer drain``."""

import asyncio
import json
from collections.abc import Callable

from ..backends.redis.keys import Keys
from ..backends.redis.publishers import Publisher
from ..backends.redis.reading import Reader
from ..backends.redis.stores import RedisNodes
from ..config import WebSocketConfig
from ..models import NodeInfo
from ..names import NodeId
from ..registry.directory import node_info
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters

LOOK_EVERY_S = 0.5
PATIENCE_S = 5.0
"""Seconds that a node may take longer than it was told, to answer and to release."""


class RemoteError(Exception):
    """What an operator has to know: the node is not there, or does not do it."""


class Operator(Publisher):
    """A publisher that also sees the nodes and may ask one to drain. It holds no lease: nobody sees it."""

    def __init__(self, config: WebSocketConfig) -> None:
        if config.redis_url is None:
            raise RemoteError("which Redis? give --redis-url, or set WS_REDIS_URL")
        super().__init__(
            config.redis_url,
            namespace=config.namespace,
            timeout_s=config.redis_timeout_s,
            envelope_keys=config.envelope_keys,
        )
        reader = Reader(Counters())
        self._nodes = RedisNodes(Keys(config.namespace), self._pipeline, self._pipeline, reader)

    async def nodes(self) -> list[NodeInfo]:
        """Return every live node."""
        await self._start()
        renewal = await self._nodes.renew(NodeId("operator"), b"", 1)  # holds nothing, and is told who lives
        live = sorted(renewal.live)
        infos = await self._nodes.infos(live)
        shown = [node_info(node, info, n) for node, (info, n) in zip(live, infos, strict=True) if info]
        return [info for info in shown if info is not None]

    async def find(self, name: str) -> NodeInfo:
        """Return the live node with this node_id, or the only one with this name.

        Raises:
            RemoteError: There is none, or there are several.
        """
        nodes = await self.nodes()
        found = [n for n in nodes if n.node_id == name] or [n for n in nodes if n.name == name]
        if len(found) == 1:
            return found[0]
        listed = "".join(f"\n  {n.node_id}  {n.name}  {n.connections} connections" for n in found or nodes)
        if found:
            raise RemoteError(f"{len(found)} nodes are called {name!r}; name one by its node_id:{listed}")
        raise RemoteError(f"no live node is called {name!r}; there are {len(nodes)}:{listed}")

    async def ask_to_drain(self, node: NodeId, over_s: float) -> None:
        """Put the request in the node's inbox.

        Raises:
            RemoteError: The node does not listen.
        """
        body = json.dumps({"do": "drain", "over_s": float(over_s)})
        envelope = self._outgoing.request(node, body)
        if not await self._bus.publish_node(node, envelope):
            raise RemoteError(f"node {node} holds its lease and does not listen: is it frozen, or cut off?")


async def run_drain(config: WebSocketConfig, name: str, over_s: float, say: Callable[[str], None]) -> None:
    """Have a node drain, say what happens, and return when it holds no connection or has left.

    Raises:
        RemoteError: It is not there, does not listen, or is not done in time.
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
        end = "it has left the registry" if node is None else "it takes no new ones until it is restarted"
        say(f"{title}: no connection left after {running_loop().time() - began_s:.1f} s; {end}")


async def _again(operator: Operator, node_id: NodeId) -> NodeInfo | None:
    return next((node for node in await operator.nodes() if node.node_id == node_id), None)
