"""One node of a simulation, and the sockets of its clients."""

import asyncio
import contextvars
import json
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi_websocket_stabilizer import (
    Connection,
    History,
    PresenceEvent,
    WebSocketConfig,
    WebSocketConnectionManager,
    close_codes,
)
from fastapi_websocket_stabilizer.registry.registry import Registry
from tests.simulation.loop import NODE
from tests.simulation.network import SimHub, SimLink
from tests.simulation.schedule import BEAT_S, LEASE_S, Policy

TIMEOUT_S = 0.5
CONFIG = WebSocketConfig(
    lease_ttl_s=LEASE_S, renew_interval_s=BEAT_S, redis_timeout_s=TIMEOUT_S, num_shards=1,
    heartbeat_interval=3600.0, heartbeat_timeout=3600.0, log_level="CRITICAL",
    client_presence=("r0",),
)  # fmt: skip
KEPT = {"k": History(messages=3, seconds=60)}
"""The history of rooms that followers read."""
Note = Callable[[str, PresenceEvent], None]


class SimManager(WebSocketConnectionManager):
    """A manager on a simulated link."""

    def __init__(self, hub: SimHub, rng: random.Random, policy: Policy, history: dict[str, History]) -> None:
        self._hub, self._rng = hub, rng
        super().__init__(replace(CONFIG, on_backend_loss=policy, history=history))

    async def start(self) -> None:
        """Join the registry, without the search for the server of this process, which takes long."""
        await self._registry.start()

    def _make_registry(self) -> Registry:
        return Registry(self.config, self._log, self._open_link)

    def _open_link(self, *arguments: Any) -> SimLink:
        self.link = SimLink(self._hub, self._rng, *arguments)
        return self.link

    @property
    def registry(self) -> Registry:
        return self._registry


@dataclass(eq=False)
class Socket:
    """One client's socket, from the client's side."""

    client: str
    node: "Node"
    sent_away: Callable[[float], None]
    closes_after_s: float = 0.0
    received: list[str] = field(default_factory=list)
    closed_with: tuple[int, str] | None = None
    began_s: float | None = None
    claimed_s: float | None = None
    connection: Connection | None = None
    hung_up: bool = False

    async def send_text(self, data: str) -> None:
        if self.closed_with is not None:
            raise OSError("closed")
        self.received.append(data)

    send_json: Any = send_text
    send_bytes: Any = send_text

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if self.closed_with is not None:
            return
        self.closed_with = (code, reason)
        if code == close_codes.SERVICE_RESTART:
            self.sent_away(json.loads(reason)["reconnect_in_ms"] / 1000)
        await asyncio.sleep(self.closes_after_s)

    @property
    def is_open(self) -> bool:
        return self.closed_with is None and not self.node.has_crashed and self.connection is not None


class Node:
    """One process of a node."""

    def __init__(
        self,
        name: str,
        hub: SimHub,
        rng: random.Random,
        note: Note,
        policy: Policy = "degrade",
        history: dict[str, History] | None = None,
    ) -> None:
        self.name, self.has_crashed, self.is_frozen = name, False, False
        self.has_started = self.is_draining = False
        self._note = note
        self.context = contextvars.copy_context()
        self.context.run(NODE.set, name)
        self.manager: SimManager = self.context.run(SimManager, hub, rng, policy, history or {})
        self.manager.on_presence(self._reported)
        self.number = 0

    def _reported(self, event: PresenceEvent) -> None:
        if not self.has_crashed:
            self._note(self.name, event)

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run a coroutine in the context of this node."""
        return asyncio.get_running_loop().create_task(coroutine, context=self.context.copy())
