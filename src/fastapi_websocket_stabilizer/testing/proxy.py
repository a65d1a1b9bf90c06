"""A TCP proxy with faults on demand, for the network between a replica and its Redis or its clients."""

import asyncio
import socket
import struct
from typing import Self

_CHUNK_BYTES = 64 * 1024
_SLICE_S = 0.02
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST instead of FIN


class TcpProxy:
    """A proxy that forwards every connection on ``port`` to one target.

    >>> async with TcpProxy("127.0.0.1", server.port) as proxy:
    ...     proxy.cut()
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._refuses = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._bytes_per_s: float | None = None
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self.port: int = 0

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        tasks = list(self._links)
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._links)

    def cut(self) -> None:
        """Reset all connections, and each new one, until ``resume()``."""
        self._refuses = True
        for task, writers in self._links.items():
            _reset(writers)  # here and not in the cancelled task, so that the RSTs are sent when this returns
            task.cancel()

    def blackhole(self) -> None:
        """Forward neither data nor the end of a connection, in both directions, until ``resume()``.

        Data sent in that time is held and not lost, because TCP never skips bytes. To lose it, call ``cut()`` before
        ``resume()``.
        """
        self._flows.clear()

    def retarget(self, host: str, port: int) -> None:
        """Reset all connections and forward new ones to another target, as a failover behind one address does."""
        self._target = host, port
        self.cut()
        self.resume()

    def throttle(self, bytes_per_s: float) -> None:
        """Limit each direction of each connection to ``bytes_per_s``, until ``resume()``."""
        self._bytes_per_s = bytes_per_s

    def resume(self) -> None:
        """Forward at full speed again, including connections that ``blackhole()`` held."""
        self._refuses = False
        self._bytes_per_s = None
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._links[task] = [writer]
        try:
            if self._refuses:
                _reset(writers)
            else:
                await self._carry(reader, writers)
        except (OSError, asyncio.CancelledError):
            pass  # the target is gone, or cut() was called; only __aexit__ awaits this task
        finally:
            del self._links[task]
            for opened in writers:
                opened.close()

    async def _carry(self, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter]) -> None:
        await self._flows.wait()
        answers, upstream = await asyncio.open_connection(*self._target)
        client = writers[0]
        writers.append(upstream)
        pumps = [
            asyncio.create_task(self._pump(reader, upstream)),
            asyncio.create_task(self._pump(answers, client)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(_CHUNK_BYTES)
            await self._flows.wait()
            if not data:
                return
            while self._bytes_per_s is not None and data:
                part = max(1, int(self._bytes_per_s * _SLICE_S))
                writer.write(data[:part])
                data = data[part:]
                await asyncio.sleep(_SLICE_S)
                if writer.is_closing():
                    return
            writer.write(data)
            await writer.drain()


def _reset(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        connection: socket.socket = writer.get_extra_info("socket")
        if connection.fileno() != -1:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()
