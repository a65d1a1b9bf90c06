"""Defects of release 1.1 that 2.0 does not have, seen through a real server and real clients."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, field_serializer
from websockets.asyncio.client import ClientConnection, connect

from fastapi_websocket_stabilizer import BroadcastResult, WebSocketConfig, WebSocketConnectionManager
from tests.support.waiting import eventually

from .support import LiveServer, load_app, serving


async def iterate(websocket: WebSocket) -> str:
    async for text in websocket.iter_text():
        return text
    raise WebSocketDisconnect


Reader = Callable[[WebSocket], Awaitable[Any]]
READERS: dict[str, Reader] = {
    "receive_text": WebSocket.receive_text,
    "receive_bytes": WebSocket.receive_bytes,
    "receive_json": WebSocket.receive_json,
    "iter_text": iterate,
}


@dataclass
class Application:
    """Release 1.1's handler pattern around one manager, and a diary of what its handlers saw."""

    manager: WebSocketConnectionManager
    read: Reader = READERS["receive_text"]
    received: list[Any] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    app: FastAPI = field(init=False)

    def __post_init__(self) -> None:
        self.app = FastAPI(lifespan=self.lifespan)
        self.app.add_api_websocket_route("/ws/{client_id}", self.handle)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        await self.manager.start()
        yield
        await self.manager.graceful_shutdown()

    async def handle(self, websocket: WebSocket, client_id: str) -> None:
        await websocket.accept()
        try:
            await self.manager.connect(client_id, websocket)
            self.registered.append(client_id)
            while True:
                self.received.append(await self.read(websocket))
        except WebSocketDisconnect:
            await self.manager.disconnect(client_id)
        finally:
            self.ended.append(client_id)


def application(**settings: Any) -> Application:
    return Application(WebSocketConnectionManager(WebSocketConfig(**settings)))


@asynccontextmanager
async def joined(server: LiveServer, it: Application, client_id: str) -> AsyncIterator[ClientConnection]:
    """Open a socket and wait until the application has registered it."""
    before = len(it.registered)
    async with connect(f"{server.ws_url}/ws/{client_id}") as socket:
        await eventually(lambda: len(it.registered) > before)
        yield socket


async def close_of(socket: ClientConnection) -> tuple[int | None, str | None]:
    await socket.wait_closed()
    return socket.close_code, socket.close_reason


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_old_handlers_disconnect_leaves_the_new_socket(caplog: pytest.LogCaptureFixture) -> None:
    it = application()
    async with serving(it.app) as server, joined(server, it, "alice") as old:
        async with joined(server, it, "alice") as new:
            assert await close_of(old) == (1000, "reconnected")
            await eventually(lambda: it.ended == ["alice"])
            assert await server.call(it.manager.send_to_client("alice", "hello")) is True
            assert (await new.recv(), it.manager.get_connection_count()) == ("hello", 1)
        await eventually(lambda: it.manager.get_connection_count() == 0)
    assert troubles(caplog) == []


async def test_documented_chat_survives_a_client_that_reconnects_many_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chat, alice = load_app("chat"), []
    async with serving(chat.app) as server, AsyncExitStack() as stack:
        for number in range(5):
            alice.append(await stack.enter_async_context(connect(f"{server.ws_url}/ws/alice")))
            await alice[-1].send(str(number))
            assert json.loads(await alice[-1].recv()) == {"user": "alice", "message": str(number)}
        assert [await close_of(old) for old in alice[:-1]] == [(1000, "reconnected")] * 4
        assert chat.ws_manager.get_active_connections() == ["alice"]
    assert troubles(caplog) == []


async def test_handler_of_a_client_that_the_heartbeat_closed_ends_without_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    it = application(heartbeat_interval=0.05, heartbeat_timeout=0.05)
    async with serving(it.app) as server, joined(server, it, "mute") as mute:
        await close_of(mute)
        await eventually(lambda: it.ended == ["mute"] and it.manager.get_connection_count() == 0)
    assert errors(caplog) == []


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("message", ["x" * 101, "é" * 51, b"\x00" * 101], ids=["text", "umlauts", "bytes"])
async def test_too_large_message_closes_with_1009(
    caplog: pytest.LogCaptureFixture, reader: str, message: str | bytes
) -> None:
    it = application(max_message_size=100)
    it.read = READERS[reader]
    async with serving(it.app) as server, joined(server, it, "alice") as alice:
        await alice.send(message)
        code, _ = await close_of(alice)
        await eventually(lambda: it.ended == ["alice"] and it.manager.get_connection_count() == 0)
    assert (code, it.received, errors(caplog)) == (1009, [], [])


async def test_too_large_message_ends_its_sender_only() -> None:
    it = application(max_message_size=100)
    async with serving(it.app) as server, joined(server, it, "alice") as alice:
        async with joined(server, it, "bob") as bob:
            await bob.send("x" * 1_000_000)
            await close_of(bob)
        await alice.send("fine")
        await eventually(lambda: it.received == ["fine"])


@pytest.mark.parametrize("message", ["x" * 100, "é" * 50])
async def test_largest_allowed_message_arrives(message: str) -> None:
    it = application(max_message_size=100)
    async with serving(it.app) as server, joined(server, it, "alice") as alice:
        await alice.send(message)
        await eventually(lambda: it.received == [message])


async def test_compression_none_warns_once_per_manager(caplog: pytest.LogCaptureFixture) -> None:
    """A plain server has negotiated compression before the application runs."""
    for _ in range(2):
        caplog.clear()
        it = application(compression="none")
        async with (
            serving(it.app) as server,
            joined(server, it, "alice"),
            joined(server, it, "bob"),
        ):
            pass
        assert len([text for text in troubles(caplog) if "compression" in text]) == 1


async def test_compression_deflate_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    it = application()
    async with serving(it.app) as server, joined(server, it, "alice"):
        pass
    assert troubles(caplog) == []


async def test_message_is_serialised_once_for_all_sockets() -> None:
    serialised = 0

    class News(BaseModel):
        title: str

        @field_serializer("title")
        def count(self, title: str) -> str:
            nonlocal serialised
            serialised += 1
            return title

    it = application()
    async with serving(it.app) as server, AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(joined(server, it, f"client-{number}")) for number in range(10)
        ]
        result = await server.call(it.manager.broadcast({"news": News(title="once")}))
        texts = [await socket.recv() for socket in sockets]
    assert (result.succeeded, serialised) == (10, 1)
    assert [json.loads(text) for text in texts] == [{"news": {"title": "once"}}] * 10


async def test_broadcast_to_real_sockets_makes_no_task_per_socket() -> None:
    it, created = application(), 0

    def count(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        nonlocal created
        created += 1
        return asyncio.Task(coro, loop=loop, **options)

    async def broadcast() -> BroadcastResult:
        asyncio.get_running_loop().set_task_factory(count)
        return await it.manager.broadcast({"text": "hello"})

    async with serving(it.app) as server, AsyncExitStack() as stack:
        for number in range(30):
            await stack.enter_async_context(joined(server, it, f"client-{number}"))
        assert (await server.call(broadcast())).succeeded == 30
        assert created < 10


@pytest.mark.parametrize("call", ["broadcast", "send_to_client"])
async def test_datetime_in_a_message_is_delivered(call: str) -> None:
    it, at = application(), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    async with serving(it.app) as server, joined(server, it, "alice") as alice:
        if call == "broadcast":
            await server.call(it.manager.broadcast({"at": at}))
        else:
            await server.call(it.manager.send_to_client("alice", {"at": at}))
        assert datetime.fromisoformat(json.loads(await alice.recv())["at"]) == at
