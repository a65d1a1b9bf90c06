"""Three replicas behind nginx, a network with faults before it, and numbers that clients have to get."""

import asyncio
import itertools
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    Mailbox,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from tests.integration.client_replicas import SETTINGS, Replica
from tests.integration.cluster import SMALL_LEASE
from tests.support.nginx import balancer, nginx_command, wait_for_listener
from tests.support.process import ChildProcess, free_port
from tests.support.waiting import eventually

NAMES = ("app1", "app2", "app3")
DRAIN_OVER_S = 1.0
HEARTBEAT_S = 1.0
"""Silence after which a server sends a sign of life. A client waits 15 s longer until it takes a socket for dead."""
PAUSE_S = 0.04
"""Time between two numbers."""
BOXED = 5
"""One of so many numbers goes to the mailboxes as well."""
MAILBOX = Mailbox(messages=20_000, bytes=8_388_608)
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Network:
    """The network between clients and a port."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._swallowed: set[asyncio.Task[None]] = set()
        self.is_cut = self.refuses = False
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        links = list(self._links)
        self.cut()
        await asyncio.gather(*links, return_exceptions=True)

    def cut(self) -> None:
        """End all connections and each new one until ``mend()``."""
        self.is_cut = True
        self._end(list(self._links))

    def mend(self) -> None:
        """Carry each new connection, and end those that ``swallow`` has left."""
        self.is_cut = self.refuses = False
        self._end(list(self._swallowed))

    def swallow(self) -> None:
        """Lose each further byte of the connections there are, the end of one included.

        A browser also has idle ones, and asks on them for the next page.
        """
        self._swallowed |= set(self._links)

    def _end(self, links: Iterable["asyncio.Task[None]"]) -> None:
        for link in links:
            for writer in self._links[link]:
                writer.transport.abort()
            link.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links[link] = [writer]
        try:
            if self.refuses:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(FORBIDDEN)
            elif not self.is_cut:
                answers, there = await asyncio.open_connection("127.0.0.1", self._target)
                self._links[link].append(there)
                pumps = [self._pump(link, reader, there), self._pump(link, answers, writer)]
                await asyncio.gather(*pumps)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side is gone, or cut() was called
        finally:
            for each in self._links.pop(link):
                each.close()
            self._swallowed.discard(link)

    async def _pump(
        self, link: "asyncio.Task[None]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            if link not in self._swallowed:
                writer.write(data)
                await writer.drain()
        if link not in self._swallowed:
            writer.close()


@dataclass(frozen=True, slots=True)
class Count:
    """How a client got numbers: of those sent to it, and of those that it got."""

    sent: int
    missed: int
    doubled: int
    overtaken: int
    losses: int

    @property
    def is_whole(self) -> bool:
        return not (self.missed or self.doubled or self.overtaken or self.losses)


def count(sent: Sequence[int], got: Sequence[int], losses: int) -> Count:
    times = Counter(got)
    overtaken = sum(after < before for before, after in itertools.pairwise(got))
    doubled = sum(number - 1 for number in times.values())
    return Count(len(sent), len(set(sent) - times.keys()), doubled, overtaken, losses)


class Numbers:
    """Numbers that are stored for a room and for mailboxes while the block runs."""

    def __init__(self, publisher: WebSocketConnectionManager, room: str, *clients: str) -> None:
        self._publisher, self._clients = publisher, clients
        self.room = room
        self.sent: list[int] = []
        self.boxed: list[int] = []
        self._unsure: set[int] = set()
        self._is_over = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="numbers")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Send no further numbers, and wait for the last one."""
        self._is_over = True
        await self._task

    async def more(self, numbers: int = 10) -> None:
        """Wait until so many further numbers were sent."""
        wanted = len(self.sent) + numbers
        await eventually(lambda: len(self.sent) >= wanted, timeout_s=30, what=f"{numbers} numbers more")

    async def _run(self) -> None:
        number = 0
        while not self._is_over:
            number += 1
            await self._send(number)
            await asyncio.sleep(PAUSE_S)

    async def _send(self, number: int) -> None:
        """Store a number. On a machine without a free core, Redis may answer too late: then it counts for nothing."""
        try:
            await self._publisher.broadcast([number], room=self.room)
            self.sent.append(number)
            if number % BOXED == 0:
                for client in self._clients:
                    await self._publisher.send_to_client(client, {"boxed": number}, store=True)
                self.boxed.append(number)
        except BackendUnavailableError:
            self._unsure.add(number)

    def counts(self, seen: Sequence[Any]) -> tuple[Count, Count]:
        """Return what a client saw of the room and of its mailbox."""
        lost = [event["lost"] for event in seen if isinstance(event, dict) and "lost" in event]
        in_room = [event[0] for event in seen if isinstance(event, list)]
        in_box = [event["boxed"] for event in seen if isinstance(event, dict) and "boxed" in event]
        in_room, in_box = ([each for each in got if each not in self._unsure] for got in (in_room, in_box))
        return count(self.sent, in_room, lost.count(self.room)), count(self.boxed, in_box, lost.count(0))

    def has_all(self, seen: Sequence[Any]) -> bool:
        return all(found.missed == 0 for found in self.counts(seen))


class Stage:
    """Replicas, nginx and network, and a manager beside them that holds no clients."""

    def __init__(
        self, replicas: list[Replica], network: Network, publisher: WebSocketConnectionManager
    ) -> None:
        self.replicas, self.network, self.publisher = replicas, network, publisher

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.network.port}"

    async def replica_of(self, client: str) -> Replica:
        """Return the replica that holds a client."""

        async def find() -> Replica:
            (entry,) = await self.publisher.presence(client)
            names = {node.node_id: node.name for node in await self.publisher.nodes()}
            return self.replicas[NAMES.index(names[entry.node])]

        return await eventually(find, timeout_s=20, what=f"the replica of {client}")

    async def replace(self, replica: Replica) -> None:
        """Drain a replica and start another one in its place, as a deploy does."""
        await asyncio.to_thread(replica.process.stop)
        await self.restart(replica)

    async def restart(self, replica: Replica) -> None:
        replica.start()
        await replica.ready()


def _end(replica: Replica) -> None:
    replica.process.kill()


@asynccontextmanager
async def stage(redis_url: str) -> AsyncIterator[Stage]:
    """Start everything. It ends with the block."""
    namespace = f"stage-{secrets.token_hex(4)}"
    settings = {
        "WS_DRAIN_OVER_S": f"{DRAIN_OVER_S:g}",
        "WS_HEARTBEAT_INTERVAL": f"{HEARTBEAT_S:g}",
        "WS_MAILBOX": json.dumps(asdict(MAILBOX)),
    }
    own: dict[str, Any] = {**SETTINGS, **SMALL_LEASE, "log_level": "ERROR", "mailbox": MAILBOX}
    own |= {"drain_over_s": DRAIN_OVER_S, "heartbeat_interval": HEARTBEAT_S}
    port = free_port()
    async with AsyncExitStack() as stack:
        replicas = [Replica(redis_url, namespace, WS_NODE_NAME=name, **settings) for name in NAMES]
        for replica in replicas:
            stack.callback(_end, replica)
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="fws-nginx-")))
        ports = {name: replica.port for name, replica in zip(NAMES, replicas, strict=True)}
        nginx = stack.enter_context(ChildProcess(nginx_command(directory, balancer(port, ports))))
        config = WebSocketConfig(redis_url=redis_url, namespace=namespace, **own)
        publisher = await stack.enter_async_context(WebSocketConnectionManager(config))
        await asyncio.gather(*(replica.ready() for replica in replicas))
        await asyncio.to_thread(wait_for_listener, nginx, port)
        yield Stage(replicas, await stack.enter_async_context(Network(port)), publisher)
