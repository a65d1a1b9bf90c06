"""Other people's WebSocket clients behind one face: websockets, wsproto, aiohttp, Node's ws and Chromium."""

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from tests.wire.raw import ANSWER_S

SCRIPT = Path(__file__).with_name("client.js")


class RefusedError(Exception):
    """The handshake was answered with something else than 101; a browser does not say what."""

    def __init__(self, status: int | None, body: str | None) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


class Client(Protocol):
    """One open WebSocket.

    Attributes:
        deflates: Whether it agreed on permessage-deflate.
    """

    subprotocol: str | None
    deflates: bool

    async def send(self, message: str | bytes) -> None: ...

    async def receive(self) -> str | bytes: ...

    async def close(self, code: int, reason: str) -> None: ...

    async def closed(self) -> tuple[int, str]:
        """Return code and reason, once it is closed."""
        ...

    async def ping(self) -> None:
        """Return when the server has answered."""
        ...

    async def send_fragments(self, pieces: Sequence[str]) -> None: ...


Connect = Callable[[str, Sequence[str]], AbstractAsyncContextManager[Client]]


class _OfWebsockets:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.subprotocol: str | None = connection.subprotocol
        self.deflates = bool(connection.protocol.extensions)

    async def send(self, message: str | bytes) -> None:
        await self._connection.send(message)

    async def receive(self) -> str | bytes:
        return await self._connection.recv()

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    async def closed(self) -> tuple[int, str]:
        try:
            while True:
                await self._connection.recv()
        except ConnectionClosed:
            return self._connection.close_code or 1006, self._connection.close_reason or ""

    async def ping(self) -> None:
        await (await self._connection.ping())

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        await self._connection.send(pieces)


@asynccontextmanager
async def websockets_client(url: str, subprotocols: Sequence[str]) -> AsyncIterator[Client]:
    # With a bounded queue it stops reading, and its close() then waits in vain for the server's close frame.
    settings: dict[str, Any] = {"proxy": None, "ping_interval": None, "max_queue": None}
    settings["subprotocols"] = subprotocols or None
    try:
        connection = await connect(url, **settings)
    except InvalidStatus as refused:
        raise RefusedError(refused.response.status_code, bytes(refused.response.body).decode()) from None
    async with connection:
        yield _OfWebsockets(connection)


class _OfAiohttp:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._pongs = 0
        self.subprotocol: str | None = socket.protocol
        self.deflates = bool(socket.compress)

    async def send(self, message: str | bytes) -> None:
        await (
            self._socket.send_str(message) if isinstance(message, str) else self._socket.send_bytes(message)
        )

    async def receive(self) -> str | bytes:
        message = await self._socket.receive()
        while message.type is aiohttp.WSMsgType.PING:
            await self._socket.pong(message.data)
            message = await self._socket.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        content: str | bytes = message.data
        return content

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code=code, message=reason.encode())

    async def closed(self) -> tuple[int, str]:
        reason = ""
        while not self._socket.closed:
            message = await self._socket.receive()
            reason = str(message.extra or "") if message.type is aiohttp.WSMsgType.CLOSE else reason
        return self._socket.close_code or 1006, reason

    async def ping(self) -> None:
        await self._socket.ping(b"hello")
        message = await self._socket.receive()
        assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, b"hello")

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        raise NotImplementedError


@asynccontextmanager
async def aiohttp_client(url: str, subprotocols: Sequence[str]) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        try:
            socket = await session.ws_connect(url, protocols=subprotocols, compress=15, autoping=False)
        except aiohttp.WSServerHandshakeError as refused:
            raise RefusedError(refused.status, None) from None
        async with socket:
            yield _OfAiohttp(socket)


class _OfWsproto:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: Iterator[Event] = iter(())
        self._deflate = PerMessageDeflate()
        self.subprotocol: str | None = None
        self.deflates = False

    async def shake_hands(self, url: str, subprotocols: Sequence[str]) -> None:
        address = urlsplit(url)
        request = Request(address.netloc, address.path, [self._deflate], subprotocols=list(subprotocols))
        self._write(request)
        match await self._event():
            case AcceptConnection(subprotocol=subprotocol):
                self.subprotocol = subprotocol
                self.deflates = self._deflate.enabled()
            case RejectConnection(status_code=status):
                body = b""
                while isinstance(event := await self._event(), RejectData):
                    body += event.data
                    if event.body_finished:
                        break
                raise RefusedError(status, body.decode())

    def _write(self, event: Event) -> None:
        self._writer.write(self._protocol.send(event))

    async def _event(self) -> Event:
        # One event at a time: wsproto takes a close into account as it hands it out, and then sends no pong for a
        # ping that came before it.
        while (event := next(self._events, None)) is None:
            data = await self._reader.read(65_536)
            self._protocol.receive_data(data or None)
            self._events = self._protocol.events()
        return event

    async def send(self, message: str | bytes) -> None:
        self._write(TextMessage(message) if isinstance(message, str) else BytesMessage(message))
        await self._writer.drain()

    async def receive(self) -> str | bytes:
        content: list[Any] = []
        while True:
            event = await self._event()
            if isinstance(event, Ping):
                self._write(event.response())
                continue
            assert isinstance(event, TextMessage | BytesMessage), event
            content.append(event.data)
            if event.message_finished:
                return "".join(content) if isinstance(event, TextMessage) else b"".join(content)

    async def close(self, code: int, reason: str) -> None:
        self._write(CloseConnection(code, reason))

    async def closed(self) -> tuple[int, str]:
        while not isinstance(event := await self._event(), CloseConnection):
            pass
        if self._protocol.state.name == "REMOTE_CLOSING":
            self._write(event.response())
        return event.code, event.reason or ""

    async def ping(self) -> None:
        self._write(Ping(b"hello"))
        answer = await self._event()
        assert isinstance(answer, Pong)
        assert bytes(answer.payload) == b"hello"

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        *first, last = pieces
        for piece in first:
            self._write(TextMessage(piece, message_finished=False))
        self._write(TextMessage(last))


@asynccontextmanager
async def wsproto_client(url: str, subprotocols: Sequence[str]) -> AsyncIterator[Client]:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        client = _OfWsproto(reader, writer)
        await client.shake_hands(url, subprotocols)
        yield client
    finally:
        writer.transport.abort()


Call = Callable[..., Awaitable[Any]]
"""Calls a function of client.js, wherever that runs."""


class _OfScript:
    def __init__(self, call: Call, number: int) -> None:
        self._call, self._number = call, number
        self.subprotocol: str | None = None
        self.deflates = False

    async def open(self, url: str, subprotocols: Sequence[str]) -> None:
        await self._call("open", self._number, url, list(subprotocols))
        event = await self._event()
        if "opened" not in event:
            raise RefusedError(event.get("status"), event.get("body"))
        self.subprotocol = event["opened"] or None
        self.deflates = "permessage-deflate" in event["extensions"]

    async def _event(self) -> dict[str, Any]:
        event: dict[str, Any] = await self._call("next", self._number)
        return event

    async def send(self, message: str | bytes) -> None:
        content = {"text": message}
        if isinstance(message, bytes):
            content = {"base64": base64.b64encode(message).decode()}
        await self._call("send", self._number, content)

    async def receive(self) -> str | bytes:
        event = await self._event()
        return base64.b64decode(event["base64"]) if "base64" in event else str(event["text"])

    async def close(self, code: int, reason: str) -> None:
        await self._call("close", self._number, code, reason)

    async def closed(self) -> tuple[int, str]:
        while "code" not in (event := await self._event()):
            pass
        return event["code"], event["reason"]

    async def ping(self) -> None:
        await self._call("ping", self._number, "hello")
        assert await self._event() == {"pong": "hello"}

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        await self._call("fragments", self._number, list(pieces))


_numbers = itertools.count()


def script_client(call: Call) -> Connect:
    """Return how to connect with client.js."""

    @asynccontextmanager
    async def connecting(url: str, subprotocols: Sequence[str]) -> AsyncIterator[Client]:
        client = _OfScript(call, next(_numbers))
        await client.open(url, subprotocols)
        yield client
        await client.close(1000, "")

    return connecting


class Node:
    """A Node process that runs client.js."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self._call_numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    @asynccontextmanager
    async def running(cls, modules: Path) -> AsyncIterator["Node"]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            "node", SCRIPT, stdin=pipe, stdout=pipe, env={"NODE_PATH": str(modules)}, limit=2**24
        )
        node = cls(process)
        answers = asyncio.create_task(node._read())
        yield node
        process.kill()
        await process.wait()
        await answers

    async def _read(self) -> None:
        async for line in self._stdout:
            answer = json.loads(line)
            self._calls.pop(answer["number"]).set_result(answer["result"])

    async def call(self, name: str, *arguments: Any) -> Any:
        number = next(self._call_numbers)
        self._calls[number] = asyncio.get_running_loop().create_future()
        self._stdin.write(json.dumps({"number": number, "name": name, "args": arguments}).encode() + b"\n")
        async with asyncio.timeout(ANSWER_S):
            return await self._calls[number]
