"""uvicorn processes with the protocol class or without it, and what can be asked of the application in them."""

import asyncio
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import httpx2
import trustme

from tests.support import http
from tests.support.forked import ForkedServer
from tests.support.process import ChildProcess, free_port
from tests.support.waiting import eventually, eventually_sync
from tests.wire.raw import ANSWER_S, RawClient, dialled, http_request, request

PROJECT = Path(__file__).parents[2]
STOCK = "websockets-sansio"
OURS = "fastapi_websocket_stabilizer.uvicorn:WebSocketProtocol"
TROUBLE = re.compile(
    r"Traceback|Exception in|never retrieved|never awaited|was destroyed|unclosed (transport|resource)|AssertionError"
)
"""What no log may hold after anything that a client has done."""
BINARY = "application/octet-stream"
HTTP_ANSWER_S = 30.0
START_S = 60.0
"""Longest time until a server answers. Several that start at once beside other lanes need 20 s for their imports."""


@dataclass(frozen=True)
class Row:
    """One kind of server; ``protocol`` "" leaves the choice to uvicorn and the manager's lifespan."""

    name: str
    loop: str = "uvloop"
    http: str = "httptools"
    protocol: str = OURS
    tls: bool = False
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    other: str = ""
    """Another server than uvicorn: what follows ``python -m``, with PORT."""

    def __hash__(self) -> int:
        return hash(self.name)

    def command(self, port: int) -> list[str | Path]:
        if self.other:
            return [
                sys.executable,
                "-m",
                *self.other.replace("PORT", str(port)).split(),
                "tests.wire.app:app",
            ]
        words = f"-m uvicorn tests.wire.app:app --port {port} --loop {self.loop} --http {self.http}"
        words += f" --ws {self.protocol}" if self.protocol else ""
        certificate = ["--ssl-certfile", str(authority().certificate)] if self.tls else []
        options = ["--log-level", "warning", *self.options]
        return [sys.executable, "-W", "default", *words.split(), *certificate, *options]

    def but(self, name: str, **changes: Any) -> "Row":
        return replace(self, name=f"{self.name}-{name}", **changes)


UVLOOP = Row("uvloop")
ASYNCIO = Row("asyncio", "asyncio", "h11")
BOTH_LOOPS = (UVLOOP, ASYNCIO)
# The lifespan of the manager replaces uvicorn's class, named or not, unless this setting is off.
STOCK_ROW = Row("stock", protocol=STOCK, environment={"WS_UVICORN_PROTOCOL": "false"})
HYPERCORN = Row("hypercorn", other="hypercorn -b 127.0.0.1:PORT")
GRANIAN = Row("granian", other="granian --interface asgi --port PORT")


class Authority:
    """A certificate for 127.0.0.1 that only these tests trust."""

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="fws-tls-")
        self.certificate = Path(self._directory.name) / "server.pem"
        issuer = trustme.CA()
        issuer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(self.certificate)
        self.trust = ssl.create_default_context()
        issuer.configure_trust(self.trust)


@cache
def authority() -> Authority:
    return Authority()


class Server:
    """A running server."""

    def __init__(self, row: Row, process: ChildProcess, port: int) -> None:
        self.row, self.process, self.port = row, process, port
        self.trust = authority().trust if row.tls else None
        self._looked_at = 0

    def url(self, path: str, scheme: str = "ws", port: int | None = None) -> str:
        return f"{scheme}{'s' if self.row.tls else ''}://127.0.0.1:{port or self.port}/{path}"

    def check_log(self) -> None:
        """Fail if anything went wrong in the server since the last look."""
        news, self._looked_at = self.process.output[self._looked_at :], len(self.process.output)
        assert not TROUBLE.search(news), f"the log of {self.row.name}:\n{news[-5_000:]}"

    def forgive(self, expected: str) -> None:
        """Take what the log says since the last look for what the test asked for."""
        assert expected in self.process.output[self._looked_at :]
        self._looked_at = len(self.process.output)

    def forgive_once_a_minute(self, expected: str) -> None:
        """Do so with a report that the log has once a minute. It may be that of an earlier test."""
        assert expected in self.process.output
        self._looked_at = len(self.process.output)

    def memory_mib(self) -> float:
        """Return what the process holds in RAM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024

    # HTTP

    async def ask(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        kind: str = "text/plain",
        **parameters: str | int,
    ) -> Any:
        """Ask the application over HTTP: an HTTP client for each test would take most of the time."""
        headers = {"Connection": "close", "Content-Type": kind, "Content-Length": str(len(content))}
        async with self.dialled() as client:
            client.write(http_request(method, f"{path}?{urlencode(parameters)}", headers) + content)
            answer = await client.shake_hands(HTTP_ANSWER_S)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    async def is_registered(self, client_id: str) -> bool:
        return client_id in await self.ask("GET", "clients")

    async def diary(self, client_id: str) -> list[str]:
        written: list[str] = await self.ask("GET", f"diary/{client_id}")
        return written

    async def received(self, client_id: str) -> int:
        """Count the client's messages that reached the application."""
        return int(await self.ask("GET", f"received/{client_id}"))

    async def left(self, client_id: str, entries: int = 1) -> list[str]:
        """Return what the hooks said about a client, once it is no longer registered."""

        async def written() -> list[str]:
            gone = not await self.is_registered(client_id)
            return await self.diary(client_id) if gone else []

        diary = await eventually(written, what=f"{client_id} has left")
        assert len(diary) == entries
        return diary

    async def send(self, message: str | bytes, **target: str) -> int:
        """Send to a client, or to all; return how many took it."""
        kind, content = ("text/plain", message.encode()) if isinstance(message, str) else (BINARY, message)
        return int(await self.ask("POST", "send", content, kind=kind, **target))

    async def disconnect(self, client_id: str, code: int = 4321, reason: str = "bye") -> None:
        await self.ask("DELETE", f"clients/{client_id}", code=code, reason=reason)

    async def statistics(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.ask("GET", "statistics")
        return found

    async def counter(self, name: str) -> int:
        return int((await self.statistics())["counters"][name])

    # WebSockets

    @asynccontextmanager
    async def dialled(self) -> AsyncIterator[RawClient]:
        async with dialled(self.port, self.trust) as client:
            yield client

    @asynccontextmanager
    async def connected(
        self, path: str, headers: Mapping[str, str] | None = None, *, port: int | None = None
    ) -> AsyncIterator[RawClient]:
        """Shake hands with an endpoint; through another port if it is a proxy's."""
        async with dialled(port or self.port, self.trust) as client:
            client.write(request(path, headers))
            await client.shake_hands()
            assert client.answer.status == 101, client.answer
            yield client


@contextmanager
def running(row: Row) -> Iterator[Server]:
    """Run a server for the block; its log must be clean in the end."""
    port = free_port()
    with ForkedServer(row.command(port), environment=row.environment, directory=PROJECT) as process:
        server = Server(row, process, port)
        trust = server.trust or http.NOTHING_TO_VERIFY

        def is_ready() -> bool:
            with suppress(httpx2.TransportError):
                return http.get(server.url("ready", "http"), verify=trust).is_success
            return not process.is_running

        eventually_sync(is_ready, START_S, f"answer of {row.name}")
        assert process.is_running, process.output
        yield server
    server.check_log()


class Fleet:
    """Servers that are started when a test first needs them, and stay."""

    def __init__(self) -> None:
        self._running: dict[Row, tuple[Server, Any]] = {}

    def get(self, row: Row) -> Server:
        if row not in self._running:
            holder = running(row)
            self._running[row] = holder.__enter__(), holder
        return self._running[row][0]

    def check_logs(self) -> None:
        for server, _ in self._running.values():
            server.check_log()

    def stop(self) -> None:
        for _, holder in self._running.values():
            holder.__exit__(None, None, None)


async def settled(server: Server) -> None:
    """Wait until nobody is registered: a test must not hear the broadcasts of the one before."""

    async def is_empty() -> bool:
        return not await server.ask("GET", "clients")

    async with asyncio.timeout(ANSWER_S):
        await eventually(is_empty, what="nobody is registered")
