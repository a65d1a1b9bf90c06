"""Questions of operators to all nodes, asked through this one: what they hold, and what happens on them.

``stabilizer`` on the command line asks the same from outside. See ``cli/operator``.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from ..exceptions import LOSSES, ConnectionNotFoundError, RequestFailedError
from ..models import NodeInfo
from ..names import ConnectionId, NodeId, check_client_id, node_of
from .directory import Directory, node_info
from .drain import Drain
from .inboxes import Inboxes
from .requests import Requests
from .state import NodeState
from .tail import followed
from .telemetry import Scrape, Telemetry
from .views import Answered, Question, answered, is_answer, request_of

AWAY = "Redis does not answer, so other nodes cannot be asked"
HERE = NodeId("")
"""The sender of questions to this node itself, which may get another node_id."""


class Survey:
    """Asks the nodes of a registry. While Redis is away, it shows what this node holds."""

    def __init__(
        self,
        state: NodeState,
        inboxes: Inboxes,
        *,
        directory: Directory,
        telemetry: Telemetry,
        requests: Requests,
        drain: Drain,
    ) -> None:
        self._state, self._inboxes, self._directory = state, inboxes, directory
        self._telemetry, self._requests, self._drain = telemetry, requests, drain

    async def nodes(self) -> list[NodeInfo]:
        """Return all live nodes; only this one while Redis is away."""
        try:
            self._state.check_reachable()
            return await self._directory.nodes()
        except LOSSES:
            here = node_info(self._state.node_id, self._state.describe(), len(self._state.shards))
            return [] if here is None else [here]

    async def scrape(self) -> Scrape:
        """Return what each node has published last. While Redis is away, as ``nodes``."""
        try:
            self._state.check_reachable()
            return await self._telemetry.of_cluster()
        except LOSSES:
            return Scrape([self._telemetry.own()], 0)

    async def ask(self, question: Question, nodes: Iterable[NodeId]) -> Answered:
        """Ask nodes what they hold, and wait for the answers up to ``redis_timeout_s``."""
        asked = list(nodes)
        others = [node for node in asked if not self._state.is_own(node)]
        found, timeout_s = Answered({}, {}), self._state.config.redis_timeout_s
        if others:
            try:
                self._state.check_reachable()
                found = answered(question, others, await self._answers(question, others), timeout_s)
            except LOSSES:
                found = Answered({}, dict.fromkeys(others, AWAY))
        if len(others) < len(asked):
            own = self._state.node_id
            try:
                found.found[own] = await self._requests.views.answer(question)
            except RequestFailedError as error:
                found.silent[own] = str(error)
        return found

    async def _answers(self, question: Question, nodes: list[NodeId]) -> dict[NodeId, Any]:
        body = json.dumps(request_of(question))
        with self._state.replies.opened(is_answer) as ask:
            calls = [self._inboxes.request(node, node, body, ask) for node in nodes]
            took = sum(await asyncio.gather(*calls))
            return await self._state.replies.gather(ask, took, self._state.config.redis_timeout_s)

    async def listed(self, client_id: str) -> list[tuple[NodeId, ConnectionId]]:
        """Return the connections of a client that the registry lists, the newest first; none while Redis is away.

        Raises:
            InvalidNameError: The name is illegal.
        """
        check_client_id(client_id)
        try:
            self._state.check_reachable()
            (entries,) = await self._state.backend.presence.entries([client_id])
        except LOSSES:
            return []
        return [(node_of(entry.connection_id), entry.connection_id) for entry in entries]

    async def disconnect(
        self, client_id: str, code: int, reason: str, connection_id: str | None = None
    ) -> int:
        """Disconnect a client, as ``manager.disconnect``; return the number of closed connections.

        Raises:
            InvalidNameError: The name is illegal.
            ConnectionNotFoundError: The client is not connected.
            BackendUnavailableError: A node, or Redis, did not answer.
        """
        check_client_id(client_id)
        close = {"do": "close", "code": code, "reason": reason, "connection_id": connection_id}
        return await self._requests.act(client_id, close)

    async def begin_to_drain(self, node: NodeId, over_s: float) -> None:
        """Have a node begin a drain.

        Raises:
            ConnectionNotFoundError: The node is not subscribed to its inbox, or does not exist.
            BackendUnavailableError: Redis did not answer.
        """
        if self._state.is_own(node):
            self._state.tasks.spawn(self._drain.run(over_s), "drain")
            return
        body = json.dumps({"do": "drain", "over_s": float(over_s)})
        if not await self._inboxes.request(node, node, body, 0):
            raise ConnectionNotFoundError(
                f"no node {node!r} is subscribed: it may be gone, frozen or cut off"
            )

    def tail(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield messages of all nodes, each with the events since the last one, until the caller ends.

        Raises:
            RequestFailedError: Too many operators watch this node.
        """
        return followed(self._state.replies, _Watch(self._state, self._inboxes, self.nodes))


class _Watch:
    """A watch of all nodes through this one."""

    def __init__(
        self, state: NodeState, inboxes: Inboxes, nodes: Callable[[], Awaitable[list[NodeInfo]]]
    ) -> None:
        self._state, self._inboxes, self._nodes = state, inboxes, nodes
        self._asked: set[NodeId] = set()

    async def begin(self, ask: int) -> list[str]:
        self._state.tail.watch((HERE, ask), partial(self._hear, ask))
        body, silent = json.dumps({"do": "watch"}), list[str]()
        try:
            for info in await self._nodes():
                node = info.node_id
                if not self._state.is_own(node):
                    self._asked.add(node)
                    if not await self._inboxes.request(node, node, body, ask):
                        silent.append(
                            f"node {info.name} ({node}) is not subscribed: it may be frozen or cut off"
                        )
        except LOSSES:
            silent.append(AWAY)  # the other nodes are asked again later
        return silent

    async def _hear(self, ask: int, message: dict[str, Any]) -> None:
        self._state.replies.resolve(ask, self._state.node_id, message)

    async def end(self, ask: int) -> None:
        self._state.tail.unwatch((HERE, ask))
        # In a task, because the caller may be cancelled.
        self._state.tasks.spawn(self._end_elsewhere(ask), "end-a-watch")

    async def _end_elsewhere(self, ask: int) -> None:
        body = json.dumps({"do": "unwatch", "ask": ask})
        with suppress(*LOSSES):  # they stop by themselves
            for node in self._asked:
                await self._inboxes.request(node, node, body, 0)
