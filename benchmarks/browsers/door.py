"""The one address of all replicas of a system, with faults of the network between it and a page."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Self

CHUNK_BYTES = 65_536
RESET = struct.pack("ii", 1, 0)


class Link:
    """The two sockets of one connection. ``swallows``: what arrives at either is read, and goes nowhere."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = client, server
        self.swallows = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one direction until its end. The end is swallowed as well."""
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if not self.swallows:
                    writer.write(data)
                    await writer.drain()
        if self.swallows:
            await asyncio.Event().wait()
        writer.close()

    def reset(self) -> None:
        """End both sockets with RST."""
        for writer in self.writers:
            found: socket.socket = writer.get_extra_info("socket")
            if found.fileno() != -1:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


class Door:
    """Forwards each connection to the first port that accepts it, as a load balancer does.

    Attributes:
        ports: Where servers may listen, in this order.
        files: Paths that it answers by itself, with their types and contents.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        self.files: dict[str, tuple[str, bytes]] = {}
        self.is_open = True
        self.port = 0
        self._links: dict[asyncio.Task[None], Link | None] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def swallow(self) -> None:
        """Make all connections half-open: both ends stay, and no byte passes. New connections work."""
        for link in self._links.values():
            if link is not None:
                link.swallows = True

    def close(self) -> None:
        """Reset all connections, and refuse new ones."""
        self.is_open = False
        for link in self._links.values():
            if link is not None:
                link.reset()

    def open(self) -> None:
        """Accept connections again."""
        self.is_open = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = None
        try:
            await self._forward(task, reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the measurement
        finally:
            del self._links[task]
            writer.transport.abort()

    async def _forward(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not self.is_open:
            return
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError):
            return
        path = head.split(b" ")[1].decode() if b" " in head else ""
        if path in self.files:
            await _answer(writer, *self.files[path])
            return
        for port in self.ports:
            try:
                answers, server = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            server.write(head)
            link = self._links[task] = Link(writer, server)
            try:
                await asyncio.gather(link.carry(reader, server), link.carry(answers, writer))
            finally:
                server.transport.abort()
            return


async def _answer(writer: asyncio.StreamWriter, content_type: str, content: bytes) -> None:
    lines = "HTTP/1.1 200 OK", f"Content-Type: {content_type}", f"Content-Length: {len(content)}"
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + content)
    with contextlib.suppress(OSError):
        await writer.drain()
        writer.write_eof()
        await asyncio.sleep(0.1)  # the last bytes are on their way
