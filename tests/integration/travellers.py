"""Clients that come back when they are told to, through a load balancer that asks who is ready."""

import asyncio
import json
import random
import struct
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

RETRY_S = 0.1
HANDSHAKE = """\
GET /parked/NAME HTTP/1.1\r
Host: localhost\r
Connection: Upgrade\r
Upgrade: websocket\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
\r
"""
CLOSE = 0x88


@dataclass
class Stay:
    """One socket's life, as its client saw it; ``until_s`` is infinite while it is open."""

    node: str
    since_s: float
    until_s: float = float("inf")
    code: int = 0
    hint_s: float = 0.0


class Balancer:
    """Asks each backend every tenth of a second, as a load balancer does, and sends newcomers to those ready."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = tuple(ports)
        self.ready: dict[int, str] = {}  # port -> node_id

    async def watch(self) -> None:
        while True:
            await asyncio.gather(*map(self._look_at, self.ports))
            await asyncio.sleep(RETRY_S)

    async def _look_at(self, port: int) -> None:
        node = await ready_node(port)
        if node:
            self.ready[port] = node
        else:
            self.ready.pop(port, None)

    def pick(self) -> int | None:
        return random.choice(list(self.ready)) if self.ready else None


async def ready_node(port: int) -> str:
    """Return the node_id that ``/readyz`` says, or "" when it does not say 200."""
    with suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        if b" 200 " in head.split(b"\r\n")[0]:
            return str(json.loads(body)["node_id"])
    return ""


@dataclass
class Traveller:
    """One client: connects, stays until it is closed, waits as it was told, connects again."""

    name: str
    balancer: Balancer
    stays: list[Stay] = field(default_factory=list)
    refused: int = 0

    async def travel(self) -> None:
        while True:
            port = self.balancer.pick()
            node = self.balancer.ready.get(port or 0, "")
            if port is None or not await self._visit(port, node):
                self.refused += 1
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(self.stays[-1].hint_s)

    async def _visit(self, port: int, node: str) -> bool:
        """Return False when no socket was opened."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        try:
            writer.write(HANDSHAKE.replace("NAME", self.name).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                return False
            stay = Stay(node, time.monotonic())
            self.stays.append(stay)
            await self._stay(reader, writer, stay)
        except (OSError, asyncio.IncompleteReadError):
            return False
        else:
            return True
        finally:
            writer.close()

    async def _stay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stay: Stay) -> None:
        try:
            opcode, payload = 0, b""
            while opcode != CLOSE:
                opcode, payload = await read_frame(reader)
            stay.code = struct.unpack("!H", payload[:2])[0]
            stay.hint_s = json.loads(payload[2:] or b"{}").get("reconnect_in_ms", 0) / 1000
            writer.write(bytes((CLOSE, 0x82, 0, 0, 0, 0)) + payload[:2])  # masked with zeros
        finally:
            stay.until_s = time.monotonic()

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """For each move, the seconds without a socket, and how many of them it was told to wait."""
        moves = zip(self.stays, self.stays[1:], strict=False)
        return [(after.since_s - before.until_s, before.hint_s) for before, after in moves]

    def was_at(self, node: str, from_s: float, to_s: float, tolerance_s: float) -> bool:
        """Whether it had a socket there at some time between these, or nearly."""
        return any(
            stay.node == node and stay.since_s - tolerance_s <= to_s and stay.until_s + tolerance_s >= from_s
            for stay in self.stays
        )

    def stayed(self, from_s: float, to_s: float) -> Stay | None:
        """Return the one socket that it had all the time between these."""
        return next((stay for stay in self.stays if stay.since_s <= from_s and to_s <= stay.until_s), None)


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await reader.readexactly(2)
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    return first, await reader.readexactly(size)


def peak_per_s(moments_s: Sequence[float]) -> int:
    """Return the most moments in any one second."""
    ordered = sorted(moments_s)
    return max((bisect_right(ordered, at_s + 1.0) - n for n, at_s in enumerate(ordered)), default=0)


def codes(travellers: Sequence[Traveller]) -> Counter[int]:
    """Count with what code sockets were closed."""
    return Counter(stay.code for one in travellers for stay in one.stays if stay.until_s != float("inf"))
