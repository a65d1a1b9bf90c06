"""A view of a registry from outside, over Redis: it works when no node answers HTTP."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from .. import close_codes
from ..backends.redis.bus import EnvelopeReader
from ..backends.redis.guard import Guard
from ..backends.redis.ports import Listener, Subscription
from ..backends.redis.probes import Canaries
from ..backends.redis.publisher import Publisher
from ..backends.redis.reading import Reader
from ..backends.redis.stores import RedisNodes, RedisPresence
from ..backends.redis.workers import RedisWorkers
from ..config import WebSocketConfig
from ..exceptions import ClientInputError, WebSocketStabilizerError
from ..models import NodeInfo
from ..names import ConnectionId, NodeId, check_client_id, node_of
from ..registry.directory import group_of, node_info
from ..registry.replies import PendingReplies
from ..registry.tail import followed
from ..registry.telemetry import Sample, Scrape, read_groups
from ..registry.views import Answered, Question, answered, is_answer, request_of
from ..runtime.metrics import Counters
from ..wire import foreign_json
from ..wire.channels import Channel
from ..wire.envelopes import Envelope, Kind

TRIES = 3
"""Nodes that are asked to carry out an order, until one answers."""


class RemoteError(Exception):
    """The node does not exist, or did not carry out the request."""


class Operator(Publisher):
    """A publisher that can also look at the nodes, and ask them. It holds no lease, so it is not listed."""

    def __init__(self, config: WebSocketConfig) -> None:
        if config.redis_url is None:
            raise RemoteError("no Redis URL: give --redis-url, or set WS_REDIS_URL")
        super().__init__(
            config.redis_url,
            namespace=config.namespace,
            timeout_s=config.redis_timeout_s,
            envelope_keys=config.envelope_keys,
        )
        counters, keys = Counters(), self._keys
        reader = Reader(counters)
        self._nodes = RedisNodes(keys, self._pipeline, self._pipeline, reader)
        self._workers = RedisWorkers(keys, self._pipeline, reader)
        self._presence = RedisPresence(keys, self._pipeline, reader)
        self._guard = Guard(self._signer, counters, lambda _: 0.0) if self._signer else None
        self._channels = self._open_channels(counters)
        self._is_listening = False
        self._replies = PendingReplies()

    def _open_channels(self, counters: Counters) -> Subscription:
        """Create the connection on which answers arrive."""
        envelopes = EnvelopeReader(self._keys, self._received, counters, self._guard)
        listener = Listener(envelopes.read, lambda: None, lambda: None, lambda _: None)
        publish_command = self._topology.publish_command
        canaries = Canaries(self._keys, self._pipeline, publish_command, counters, lambda _: None)
        return self._topology.channels(listener, canaries)

    def _received(self, _: Channel, envelope: Envelope, size: int) -> None:
        with suppress(ValueError, ClientInputError):  # a stranger may have sent it
            if envelope.kind is Kind.REPLY and isinstance(envelope.body, str):
                self._replies.resolve(envelope.ask, envelope.sender, foreign_json.load(envelope.body))

    async def _listen(self) -> None:
        await self._start()
        if not self._is_listening:
            if self._guard is not None:
                self._guard.start()
            await self._channels.start()
            await self._channels.subscribe(self._keys.inbox(self._outgoing.sender))
            self._is_listening = True

    async def close(self) -> None:
        """Disconnect from Redis."""
        if self._is_listening:
            self._is_listening = False
            await self._channels.stop()
        await super().close()

    async def nodes(self) -> list[NodeInfo]:
        """Return all live nodes."""
        await self._start()
        live = sorted(await self._nodes.live())
        infos = await self._nodes.infos(live)
        shown = [node_info(node, info, n) for node, (info, n) in zip(live, infos, strict=True) if info]
        return [info for info in shown if info is not None]

    async def those(self, name: str | None) -> list[NodeInfo]:
        """Return all live nodes, or the one that ``find`` finds."""
        return await self.nodes() if name is None else [await self.find(name)]

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
        """Return the samples of ``scrape``."""
        return (await self.scrape()).samples

    async def scrape(self) -> Scrape:
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
        samples.sort(key=lambda sample: (sample.name, sample.worker, sample.node))
        return Scrape(samples, max(0, len(live) - len(samples)))

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

    async def ask(self, question: Question, nodes: Iterable[NodeId]) -> Answered:
        """Ask nodes what they hold, and wait for the answers up to ``redis_timeout_s``.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        asked = list(nodes)
        answers = await self._answers({node: node for node in asked}, request_of(question), self._timeout_s)
        return answered(question, asked, answers, self._timeout_s)

    async def _answers(
        self, targets: Mapping[NodeId, str], request: dict[str, Any], timeout_s: float
    ) -> dict[NodeId, Any]:
        """Send a request to nodes, each about a target, and return the answers that arrive in time."""
        await self._listen()
        body = json.dumps(request)
        with self._replies.opened(is_answer) as ask:
            calls = [
                self._bus.publish_node(node, self._outgoing.request(target, body, ask))
                for node, target in targets.items()
            ]
            return await self._replies.gather(ask, sum(await asyncio.gather(*calls)), timeout_s)

    async def listed(self, client_id: str) -> list[tuple[NodeId, ConnectionId]]:
        """Return the connections of a client that Redis lists, with their nodes, the newest first.

        Raises:
            InvalidNameError: The name is illegal.
            BackendUnavailableError: Redis did not answer.
        """
        check_client_id(client_id)
        await self._start()
        (entries,) = await self._presence.entries([client_id])
        return [(node_of(entry.connection_id), entry.connection_id) for entry in entries]

    async def disconnect(
        self, client_id: str, code: int, reason: str, connection_id: str | None = None
    ) -> int:
        """Have a node disconnect a client, as ``manager.disconnect``; return the number of closed connections.

        Raises:
            InvalidNameError, ConfigurationError: The name is illegal, or the code may not be sent.
            RemoteError: There is no live node, none answered, or the client is not connected.
            BackendUnavailableError: Redis did not answer.
        """
        check_client_id(client_id)
        close_codes.check(code)
        live = [info.node_id for info in await self.nodes()]
        holders = {node for node, _ in await self.listed(client_id)}
        if not live:
            raise RemoteError("there is no live node that could disconnect a client")
        close = {"do": "disconnect", "code": code, "reason": reason, "connection_id": connection_id}
        # Others first: a node that holds the client may be the one that is in trouble.
        for node in sorted(live, key=lambda node: node in holders)[:TRIES]:
            # The node waits for other nodes in turn.
            match (await self._answers({node: client_id}, close, 2 * self._timeout_s)).get(node):
                case int(count):
                    return count
                case [_, text, _]:
                    raise RemoteError(str(text))
        raise RemoteError(f"no node has answered, so it is not known whether {client_id!r} was closed")

    def tail(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield messages of all nodes, each with the events since the last one, until the caller ends.

        Raises:
            BackendUnavailableError: Redis did not answer.
        """
        return followed(self._replies, _Watch(self._tell, self.nodes))

    async def _tell(self, node: NodeId, request: dict[str, Any], ask: int) -> int:
        """Send a request to a node; return 1 if it is subscribed to its inbox, else 0."""
        await self._listen()
        return await self._bus.publish_node(node, self._outgoing.request(node, json.dumps(request), ask))


class _Watch:
    """A watch of all nodes from outside."""

    def __init__(
        self,
        tell: Callable[[NodeId, dict[str, Any], int], Awaitable[int]],
        nodes: Callable[[], Awaitable[list[NodeInfo]]],
    ) -> None:
        self._tell, self._nodes = tell, nodes
        self._asked: set[NodeId] = set()

    async def begin(self, ask: int) -> list[str]:
        silent = list[str]()
        for info in await self._nodes():
            self._asked.add(info.node_id)
            if not await self._tell(info.node_id, {"do": "watch"}, ask):
                silent.append(
                    f"node {info.name} ({info.node_id}) is not subscribed: it may be frozen or cut off"
                )
        return silent

    async def end(self, ask: int) -> None:
        with suppress(WebSocketStabilizerError):  # they stop by themselves
            for node in self._asked:
                await self._tell(node, {"do": "unwatch", "ask": ask}, 0)
