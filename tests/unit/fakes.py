"""What unit tests put in the place of a socket, a node and a clock."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi_websocket_stabilizer.config import WebSocketConfig
from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.local.lifecycle import OF_WRITES, Ended
from fastapi_websocket_stabilizer.local.sends import SendLimiter
from fastapi_websocket_stabilizer.models import CloseCause, Message
from fastapi_websocket_stabilizer.names import ConnectionId
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.runtime.tasks import Tasks
from fastapi_websocket_stabilizer.streams.stream import Streams
from fastapi_websocket_stabilizer.wire.messages import Encoded, encode

LIMIT = 1 << 20


def text(message: str) -> Encoded:
    return encode(message, LIMIT)


async def turns(count: int = 20) -> None:
    """Let everything that is ready run, and what that makes ready, and so on."""
    for _ in range(count):
        await asyncio.sleep(0)


class Clock:
    """Moves the running loop's clock forward: all that is due then runs at the loop's next turn."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time: Callable[[], float] = loop.time
        self._ahead_s = 0.0
        loop.time = self.now  # type: ignore[method-assign]  # the loop of one test

    def now(self) -> float:
        return self._time() + self._ahead_s

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds


@dataclass(eq=False)
class Socket:
    """Release 1.1's four methods. Sends and closes wait for ``may_send``, ``may_close``; ``error`` fails sends."""

    error: Exception | None = None
    sent: list[Any] = field(default_factory=list)
    closes: list[tuple[int, str]] = field(default_factory=list)
    may_send: asyncio.Event = field(default_factory=asyncio.Event)
    may_close: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_send.set()
        self.may_close.set()

    async def send_text(self, data: str) -> None:
        await self.may_send.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(data)

    send_json = send_bytes = send_text

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.may_close.wait()
        self.closes.append((code, reason))

    def stall(self) -> None:
        self.may_send.clear()


class Node:
    """An ``Owner`` that writes down what it is told, and forgets a connection when told to."""

    def __init__(self, **settings: Any) -> None:
        self.config = WebSocketConfig(**settings)
        self.limiter = SendLimiter(lambda: self.config.max_concurrent_broadcast)
        self.counters = Counters()
        self.streams = Streams(
            Tasks(logging.getLogger()), self.counters, lambda: self.config.max_message_size
        )
        self.lost_connections: list[tuple[str, Ended, str]] = []
        self.ended: list[tuple[str, CloseCause, int, str]] = []
        self.room_calls: list[tuple[str, str]] = []

    def limits(self) -> Any:
        return self.config

    async def send(self, connection: Connection, message: Encoded) -> str | None:
        return await connection.settled(connection.push(message))

    def encode(self, message: Message) -> Encoded:
        return encode(message, self.config.max_message_size)

    def lost(self, connection: Connection, why: Ended, error: str) -> None:
        if connection.end(OF_WRITES[why], error):
            self.lost_connections.append((connection.client_id, why, error))

    def gone(self, connection: Connection, error: str) -> None:
        if connection.end(CloseCause.PEER_GONE, error):
            self.lost_connections.append((connection.client_id, Ended.GONE, error))

    async def end(self, connection: Connection, cause: CloseCause, code: int, reason: str) -> None:
        if connection.end(cause):
            self.ended.append((connection.client_id, cause, code, reason))

    async def join_room(self, connection: Connection, room: str) -> None:
        self.room_calls.append(("join", room))

    async def update_metadata(self, connection: Connection, given: Any, *, replaces: bool) -> None:
        """Do nothing."""

    async def leave_room(self, connection: Connection, room: str) -> None:
        self.room_calls.append(("leave", room))

    async def request(self, connection: Connection, name: str, data: Any, timeout_s: float) -> Any:
        raise AssertionError("no unit test asks through its owner")

    def is_pong(self, message: str | bytes) -> bool:
        return message == "pong"


_numbers = iter(range(1, 1 << 62))


def connect(client_id: str = "alice", socket: Any = None, node: Node | None = None) -> Connection:
    """Return a connection that no table has; its socket is a mock unless given."""
    connection_id = ConnectionId(f"node.{next(_numbers)}")
    return Connection(node or Node(), client_id, connection_id, socket or Socket(), {})
