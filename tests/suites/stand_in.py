"""Pytest plugin for uvicorn's own tests: put our WebSocket class in place of uvicorn's.

It is loaded by name into a pytest that runs in the unpacked source of uvicorn, whose tests are a package ``tests``
of their own. So it must not import anything of ours from ``tests``.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from uvicorn.protocols.websockets import websockets_sansio_impl

from fastapi_websocket_stabilizer import (
    Connection,
    ConnectionNotFoundError,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.uvicorn import WebSocketProtocol

Tasks = set[asyncio.Task[None]]
CLIENT = "client"
CONFIG = WebSocketConfig(max_message_size=16 * 1024 * 1024)  # uvicorn's own default, which its tests probe
WITHOUT_REASON = (1006, 1012)
"""Close codes for which uvicorn's disconnect event has no reason."""


class Registered:
    """Run an application behind a registered socket; it goes on reading and writing by itself."""

    def __init__(self, app: ASGIApp, tasks: Tasks) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        websocket = WebSocket(scope, receive, send)
        connection = await WebSocketConnectionManager(CONFIG).connect(CLIENT, websocket)
        try:
            await self._app(scope, websocket.receive, _as_asgi(websocket.send))
        finally:
            if websocket.application_state is WebSocketState.CONNECTED:
                await connection.close()


class Parked:
    """Run an application beside a parked socket: it gets what ``on_message`` gets, and sends by the manager."""

    def __init__(self, app: ASGIApp, tasks: Tasks) -> None:
        self._app, self._tasks = app, tasks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        desk = _Desk(WebSocket(scope, receive, send))
        application = asyncio.create_task(desk.run(self._app, scope))
        self._tasks.add(
            application
        )  # uvicorn's tests take the end of these tasks for the end of the application
        application.add_done_callback(self._tasks.discard)
        await desk.parked


class _Desk:
    """The ASGI channel of an application whose socket is parked once it has accepted."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._manager = WebSocketConnectionManager(CONFIG)
        self._manager.on_disconnect(self._left)
        self.parked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the ASGI call may end; an application that fails before it accepts makes it fail."""

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        error: Exception | None = None
        try:
            await app(scope, self.receive, self.send)
        except Exception as raised:  # noqa: BLE001 - whatever a test's application raises
            error = raised
        if self.parked.done():
            with suppress(ConnectionNotFoundError):
                await self._manager.disconnect(CLIENT)
        elif error is not None:
            self.parked.set_exception(error)
        else:
            self.parked.set_result(None)

    async def receive(self) -> Message:
        return await (self._events.get() if self.parked.done() else self._websocket.receive())

    async def send(self, message: Message) -> None:
        if not self.parked.done():
            await _as_asgi(self._websocket.send)(message)
            if message["type"] == "websocket.accept":
                await self._manager.serve(self._websocket, CLIENT, on_message=self._receive, park=True)
                self.parked.set_result(None)
        elif message["type"] == "websocket.close":
            await self._manager.disconnect(CLIENT, message.get("code") or 1000, message.get("reason") or "")
        elif message["type"] != "websocket.send":
            raise RuntimeError(f"unexpected {message['type']}")
        elif not await self._manager.send_to_client(
            CLIENT, message.get("text") or message.get("bytes") or ""
        ):
            raise OSError("the client is gone")

    async def _receive(self, connection: Connection, message: str | bytes) -> None:
        await self._events.put(
            {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}
        )

    async def _left(self, connection: Connection, code: int, reason: str) -> None:
        event: Message = {"type": "websocket.disconnect", "code": code}
        if code not in WITHOUT_REASON:
            event["reason"] = reason
        await self._events.put(event)


def _as_asgi(send: Send) -> Send:
    """Raise what ASGI promises for a closed socket; Starlette raises an error of its own."""

    async def sending(message: Message) -> None:
        try:
            await send(message)
        except WebSocketDisconnect as error:
            raise OSError("the client is gone") from error

    return sending


def _stand_in(wrap: Callable[[ASGIApp, Tasks], ASGIApp]) -> type[WebSocketProtocol]:
    class WebSocketsSansIOProtocol(WebSocketProtocol):
        """Ours, under the name by which uvicorn's tests skip what the parser of ``websockets`` cannot do."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.app = wrap(self.app, self.tasks)

    return WebSocketsSansIOProtocol


WAYS = {
    "stock": websockets_sansio_impl.WebSocketsSansIOProtocol,
    "plain": _stand_in(lambda app, tasks: app),
    "registered": _stand_in(Registered),
    "parked": _stand_in(Parked),
}
LOOPS = {"asyncio": asyncio.DefaultEventLoopPolicy, "uvloop": uvloop.EventLoopPolicy}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--way", choices=WAYS, default="plain")
    parser.addoption("--loop", choices=LOOPS, default="asyncio")


def pytest_configure(config: pytest.Config) -> None:
    asyncio.set_event_loop_policy(LOOPS[config.getoption("--loop")]())
    setattr(websockets_sansio_impl, "WebSocketsSansIOProtocol", WAYS[config.getoption("--way")])  # noqa: B010 - a type


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give uvicorn's mock transport the methods of ``asyncio.Transport`` that a registered socket calls."""
    for module in {item.module for item in items if hasattr(item, "module")}:
        mock = getattr(module, "MockWriteTransport", None)
        if mock is not None:
            mock.abort = mock.close
            mock.set_write_buffer_limits = lambda self, high=None, low=None: None
            mock.get_write_buffer_size = lambda self: 0
