"""HTTP connections that are kept, for systems that are published to from outside."""

import asyncio
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Self

_LENGTH = re.compile(rb"(?i)content-length: (\d+)")


class Pool:
    """As many connections to one port as calls were in flight."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, writer in self._idle:
            writer.close()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """POST, and return the body of the answer.

        Raises:
            RuntimeError: the answer has another status than success.
        """
        stream = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = stream
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201", b"HTTP/1.1 202")):
            raise RuntimeError(f"a message was refused: {answer[:100]!r}")
        length = _LENGTH.search(answer)
        answered = await reader.readexactly(int(length[1]) if length else 0)
        self._idle.append(stream)
        return answered
