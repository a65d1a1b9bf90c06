"""A view of a registry from outside, over Redis: it works when no node answers HTTP."""

import json
from collections.abc import Iterable

from ..backends.redis.keys import Keys
from ..backends.redis.publisher import Publisher
from ..backends.redis.reading import Reader
from ..backends.redis.stores import RedisNodes
from ..backends.redis.workers import RedisWorkers
from ..config import WebSocketConfig
from ..models import NodeInfo
from ..names import NodeId
from ..registry.directory import group_of, node_info
from ..registry.telemetry import Sample, read_groups
from ..runtime.metrics import Counters


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
        keys = Keys(config.namespace)
        self._nodes = RedisNodes(keys, self._pipeline, self._pipeline, reader)
        self._workers = RedisWorkers(keys, self._pipeline, reader)

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

    async def samples(self) -> list[Sample]:
        """Return what each live node has published with its last beat.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        await self._start()
        live = sorted(await self._nodes.live())
        groups = dict.fromkeys(group_of(info) for info, _ in await self._nodes.infos(live))

        async def live_among(nodes: Iterable[NodeId]) -> set[NodeId]:
            return set(nodes).intersection(live)

        samples, _ = await read_groups(self._workers, groups, live_among)
        return sorted(samples, key=lambda sample: (sample.name, sample.worker, sample.node))

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
