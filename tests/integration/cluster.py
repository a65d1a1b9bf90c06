"""What the cluster tests share: fake sockets, managers in this process, and replicas in processes of their own."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import redis
import redis.asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from fastapi_websocket_stabilizer import Connection, WebSocketConfig, WebSocketConnectionManager
from tests.support.forked import ForkedServer
from tests.support.process import free_port
from tests.support.servers import ROWS, Missing, RedisServer, find_row
from tests.support.waiting import eventually

PROJECT = Path(__file__).parents[2]
LEASE_S = 1.5
BEAT_S = 0.4
SMALL_LEASE: dict[str, Any] = {"lease_ttl_s": LEASE_S, "renew_interval_s": BEAT_S}
REPLACED = (1000, "reconnected")
DRAIN_SECRET = "the replicas' secret"


class Socket:
    """Four async methods and nothing else; remembers what it was told."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.closed_with: tuple[int, str] | None = None

    async def send_text(self, data: str) -> None:
        self.received.append(data)

    async def send_json(self, data: Any) -> None:
        self.received.append(data)

    async def send_bytes(self, data: bytes) -> None:
        self.received.append(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed_with = (code, reason)

    @property
    def is_open(self) -> bool:
        return self.closed_with is None


class StalledSocket(Socket):
    """A peer that reads nothing: every send waits until ``gate`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def send_text(self, data: str) -> None:
        await self.gate.wait()
        await super().send_text(data)


async def register(
    manager: WebSocketConnectionManager, client_id: str, socket: Any = None, **metadata: Any
) -> Connection:
    """Connect a fake socket, in a task of its own as a server's handler has, and return the connection."""
    websocket: Any = Socket() if socket is None else socket  # no type checker takes a fake for a WebSocket
    return await asyncio.create_task(manager.connect(client_id, websocket, metadata))


async def join(manager: WebSocketConnectionManager, client_id: str, *rooms: str) -> Socket:
    """Connect a client, put it in rooms, and return its socket."""
    socket = Socket()
    connection = await register(manager, client_id, socket)
    for room in rooms:
        await connection.join(room)
    return socket


async def everyone_hears(sockets: Iterable[Socket], *messages: Any) -> None:
    """Wait until each socket has received exactly ``messages``."""
    for socket in sockets:
        await hears(socket, *messages)


async def hears(socket: "Socket | Client", *messages: Any) -> None:
    """Wait until a socket has received exactly ``messages``."""

    def holds() -> bool:
        wrong = _first_difference(socket.received, list(messages))
        assert wrong is None, wrong
        return True

    await eventually(holds, timeout_s=5)


def _first_difference(received: list[Any], wanted: list[Any]) -> str | None:
    if received == wanted:
        return None
    same = next((n for n, (got, want) in enumerate(zip(received, wanted, strict=False)) if got != want), 0)
    return f"{len(received)} of {len(wanted)}; from {same}: {received[same : same + 12]}"


async def client_ids(manager: WebSocketConnectionManager, node: str | None = None) -> set[str]:
    return {entry.client_id async for entry in manager.clients(node)}


async def knows(manager: WebSocketConnectionManager, *wanted: str, timeout_s: float = 10.0) -> None:
    """Wait until the manager lists exactly these clients in the registry."""

    async def holds() -> bool:
        found = await client_ids(manager)
        missing, extra = sorted(set(wanted) - found), sorted(found - set(wanted))
        assert found == set(wanted), f"{len(missing)} missing {missing[:5]}, {len(extra)} extra {extra[:5]}"
        return True

    await eventually(holds, timeout_s, what=f"the registry lists {len(wanted)} clients")


def counter(manager: WebSocketConnectionManager, name: str) -> int:
    return manager.statistics().counters[name]


def first_row() -> Path:
    """Return the binary of any server that is installed."""
    return next(found for found in map(find_row, ROWS) if not isinstance(found, Missing))


def product_tasks() -> set["asyncio.Task[Any]"]:
    """Return the running tasks that the library made."""
    return {task for task in asyncio.all_tasks() if "fastapi_websocket_stabilizer" in _file_of(task)}


def _file_of(task: "asyncio.Task[Any]") -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    return "" if code is None else str(code.co_filename)


def keys_with(url: str, text: str) -> list[str]:
    """Return the keys that have ``text`` in their name, or in their content.

    What a dead worker has published stays for its successor, so the content of these keys does not count.
    """
    with redis.Redis.from_url(url, decode_responses=True, encoding_errors="replace") as client:
        keys = list(client.scan_iter(count=1000))
        return [
            key for key in keys if text in key or (":workers:" not in key and text in _content(client, key))
        ]


def _content(client: redis.Redis, key: str) -> str:
    match client.type(key):
        case "hash":
            return str(client.hgetall(key))
        case "zset":
            return str(client.zrange(key, 0, -1))
        case "string":
            return str(client.get(key))
        case _:  # none of ours: tests of other files write lists to the same server
            return ""


def channels(url: str, namespace: str) -> list[str]:
    """Return the channels of a namespace that somebody subscribes to."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return [str(channel) for channel in client.pubsub_channels(f"{namespace}:*")]


def connections_to(server: RedisServer) -> int:
    """Return how many connections the server has, this question's not counted."""
    with server.client() as client:
        return len(client.client_list()) - 1


class Publishing:
    """Raw access to a registry's channels, for envelopes that no manager would send."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def publish(self, channel: str, data: bytes) -> int:
        async with redis.asyncio.Redis.from_url(self._url) as client:
            return int(await client.publish(channel, data))


class Managers:
    """Makes managers of one registry in this process and shuts all of them down."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace = url, namespace
        self._made: list[WebSocketConnectionManager] = []

    def config(self, **settings: Any) -> WebSocketConfig:
        own = {"redis_url": self.url, "namespace": self.namespace, "log_level": "ERROR"}
        return WebSocketConfig(**{**own, **SMALL_LEASE, **settings})

    def make(self, **settings: Any) -> WebSocketConnectionManager:
        manager = WebSocketConnectionManager(self.config(**settings))
        self._made.append(manager)
        return manager

    async def start(self, **settings: Any) -> WebSocketConnectionManager:
        manager = self.make(**settings)
        await manager.start()
        return manager

    async def start_many(self, count: int, **settings: Any) -> list[WebSocketConnectionManager]:
        return [await self.start(**settings) for _ in range(count)]

    async def close(self) -> None:
        await asyncio.gather(*(manager.graceful_shutdown(1.0) for manager in self._made))


class RemoteError(Exception):
    """What a replica's manager raised."""


class Replica:
    """One uvicorn process that serves ``replica_app``; kill it, freeze it, ask its manager anything."""

    def __init__(
        self,
        url: str,
        namespace: str,
        name: str,
        *,
        lease_s: float = LEASE_S,
        beat_s: float = BEAT_S,
        **environment: str,
    ) -> None:
        self.url, self.lease_s = url, lease_s
        self._environment = {
            "REPLICA_REDIS_URL": url,
            "REPLICA_NAMESPACE": namespace,
            "REPLICA_NAME": name,
            "REPLICA_LEASE_S": str(lease_s),
            "REPLICA_BEAT_S": str(beat_s),
            "REPLICA_DRAIN_SECRET": DRAIN_SECRET,
            **environment,
        }
        self.start()

    def start(self) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "uvicorn", "tests.integration.replica_app:app"]
        command += ["--port", str(self.port), "--log-level", "warning", "--timeout-graceful-shutdown", "1"]
        self.process = ForkedServer(command, environment=self._environment, directory=PROJECT)

    def stop(self) -> None:
        self.process.stop()

    async def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the replica's manager (or a question of ``replica_app``); return its result as JSON.

        Raises:
            RemoteError: The call raised; has the name of the error.
        """
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"http://127.0.0.1:{self.port}/call/{method}", json=arguments) as response,
        ):
            body = await response.text()
            if response.status != 200:
                raise RemoteError(body)
            return json.loads(body)

    @asynccontextmanager
    async def client(self, client_id: str, *rooms: str, style: str = "serve") -> AsyncIterator["Client"]:
        """Connect a real WebSocket to ``replica_app``; await ``greeted()`` for its registration."""
        query = "&".join(["room=" + room for room in rooms])
        url = f"ws://127.0.0.1:{self.port}/{style}/{client_id}?{query}"
        async with connect(url, proxy=None, ping_interval=None, close_timeout=1) as socket:
            client = Client(socket)
            try:
                yield client
            finally:
                await client.stop()

    async def is_ready(self) -> bool:
        assert self.process.is_running, self.process.output
        return bool(await self.call("ready"))


class Client:
    """A real WebSocket client that keeps what it hears."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.received: list[str | bytes] = []
        self.closed_with: tuple[int, str] | None = None
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                self.received.append(await self.socket.recv())
        except ConnectionClosed:
            code, reason = self.socket.close_code, self.socket.close_reason
            self.closed_with = (code or 1006, reason or "")

    @property
    def is_open(self) -> bool:
        return self.closed_with is None

    async def greeted(self) -> None:
        """Wait for the word that the manager has registered this socket."""
        await eventually(lambda: self.received[:1] == ["registered"], what="registered")

    async def stop(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
