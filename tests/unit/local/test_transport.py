"""One accepted socket: what goes out, what comes in, and how it ends."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket, WebSocketDisconnect

from fastapi_websocket_stabilizer.config import WebSocketConfig
from fastapi_websocket_stabilizer.local.native import open_transport
from fastapi_websocket_stabilizer.local.transport import (
    AsgiTransport,
    MethodTransport,
    Transport,
    is_accepted,
)
from fastapi_websocket_stabilizer.wire.messages import Encoded, encode
from tests.unit.fakes import LIMIT, Socket, text, turns


def attached(socket: Any, server: "Server") -> Transport:
    """Return a transport that reports to ``server``."""
    transport = open_transport(socket, server.limits)
    transport.attach(server)
    return transport


@dataclass
class Server:
    """The ASGI server's half of a socket, and an observer that writes down what it is told."""

    limit: int = 10
    written: list[AsgiEvent] = field(default_factory=list)
    inbound: "asyncio.Queue[AsgiEvent]" = field(default_factory=asyncio.Queue)
    told: list[Any] = field(default_factory=list)
    received_bytes: int = 0

    async def send(self, event: AsgiEvent) -> None:
        self.written.append(event)

    async def open(self, kind: type[WebSocket] = WebSocket) -> tuple[WebSocket, Transport]:
        websocket = kind({"type": "websocket"}, self.inbound.get, self.send)
        self.inbound.put_nowait({"type": "websocket.connect"})
        await websocket.accept()
        self.written.clear()
        return websocket, attached(websocket, self)

    def says(self, message: str | bytes) -> None:
        key = "text" if isinstance(message, str) else "bytes"
        self.inbound.put_nowait({"type": "websocket.receive", key: message})

    def limits(self) -> WebSocketConfig:
        return WebSocketConfig(max_message_size=self.limit)

    def opened(self) -> None:
        self.told.append("opened")

    def sent(self, message: Encoded) -> None:
        self.told.append(message.asgi_with_address)

    async def flush(self) -> None:
        self.told.append("flush")

    def paused(self) -> None:
        self.told.append("paused")

    def refused(self, code: int) -> None:
        self.told.append(("refused", code))

    def cut(self) -> None:
        self.told.append("cut")

    def heard(self) -> None:
        raise AssertionError("only a native socket says so")

    def received(self, size: int, *, is_text: bool) -> None:
        self.told.append("text" if is_text else "bytes")
        self.received_bytes += size

    def deferred(self) -> None: ...

    def gone(self, error: str) -> None: ...

    def abandoned(self) -> None:
        self.told.append("abandoned")

    def hung_up(self, code: int, reason: str) -> None:
        self.told.append(("hung up", code, reason))

    def closes(self, code: int, reason: str) -> None:
        self.told.append(("closes", code, reason))

    async def too_large(self, size: int, limit: int) -> None:
        self.told.append(("too large", size, limit))


@pytest.fixture
async def server() -> Server:
    return Server()


CLOSED = [{"type": "websocket.close", "code": 1001, "reason": "bye"}]


# Which transport


async def test_starlette_socket_is_spoken_to_in_asgi(server: Server) -> None:
    _, transport = await server.open()
    assert (type(transport), transport.awaited) == (AsgiTransport, False)


@pytest.mark.parametrize("mock", [Socket, AsyncMock, lambda: AsyncMock(spec=WebSocket)])
async def test_anything_else_is_spoken_to_by_its_methods(server: Server, mock: Any) -> None:
    transport = attached(mock(), server)
    assert (type(transport), transport.awaited) == (MethodTransport, True)


async def test_only_a_starlette_socket_can_be_unaccepted(server: Server) -> None:
    accepted, _ = await server.open()
    waiting = WebSocket({"type": "websocket"}, server.inbound.get, server.send)
    assert [is_accepted(each) for each in (accepted, waiting, Socket(), AsyncMock(spec=WebSocket))] == [
        True, False, True, True,
    ]  # fmt: skip


# Out


@pytest.mark.parametrize("message", ["text", b"bytes", {"a": 1}])
async def test_message_goes_out_as_one_frame(server: Server, message: Any) -> None:
    _, transport = await server.open()
    encoded = encode(message, LIMIT)
    await transport.send(encoded)
    assert server.written == [encoded.asgi]


async def test_mock_is_sent_each_form_by_its_own_method(server: Server) -> None:
    mock = AsyncMock()
    transport = attached(mock, server)
    for message in ("text", b"bytes", {"a": 1}):
        await transport.send(encode(message, LIMIT))
    await transport.close(1000, "bye")
    assert [(call[0], call.args or call.kwargs) for call in mock.method_calls] == [
        ("send_text", ("text",)),
        ("send_bytes", (b"bytes",)),
        ("send_json", ({"a": 1},)),
        ("close", {"code": 1000, "reason": "bye"}),
    ]


class Translating(WebSocket):
    """An application's own kind of socket."""

    async def send_text(self, data: str) -> None:
        await super().send_text(data.upper())


async def test_socket_with_methods_of_its_own_keeps_them(server: Server) -> None:
    _, transport = await server.open(Translating)
    await transport.send(text("hi"))
    assert server.written == [{"type": "websocket.send", "text": "HI"}]


async def test_socket_with_methods_of_its_own_takes_every_json_value_that_others_take(server: Server) -> None:
    _, transport = await server.open(Translating)
    await transport.send(encode({"at": datetime(2030, 1, 1, tzinfo=UTC)}, LIMIT))
    assert [event["text"] for event in server.written] == ['{"at":"2030-01-01T00:00:00Z"}']


async def test_handler_that_sends_by_itself_goes_the_same_way(server: Server) -> None:
    websocket, _ = await server.open()
    await websocket.send_text("hi")
    assert server.written == [{"type": "websocket.send", "text": "hi"}]


async def test_accept_by_the_handler_is_told(server: Server) -> None:
    websocket = WebSocket({"type": "websocket"}, server.inbound.get, server.send)
    attached(websocket, server)
    server.inbound.put_nowait({"type": "websocket.connect"})
    await websocket.accept()
    assert (server.told, server.written[0]["type"]) == (["flush", "opened"], "websocket.accept")


async def unaccepted(server: Server) -> tuple[WebSocket, Transport]:
    websocket = WebSocket({"type": "websocket"}, server.inbound.get, server.send)
    server.inbound.put_nowait({"type": "websocket.connect"})
    return websocket, attached(websocket, server)


@pytest.mark.parametrize(("status", "headers"), [(409, None), (503, {"Retry-After": "1"})])
async def test_accept_of_a_denied_socket_raises_the_http_answer(
    server: Server, status: int, headers: dict[str, str] | None
) -> None:
    websocket, transport = await unaccepted(server)
    transport.deny(status, "too late")
    with pytest.raises(HTTPException) as caught:
        await websocket.accept()
    assert (caught.value.status_code, caught.value.detail, caught.value.headers) == (
        status,
        "too late",
        headers,
    )
    assert server.written == []


async def test_denied_socket_takes_its_handlers_own_refusal(server: Server) -> None:
    websocket, transport = await unaccepted(server)
    transport.deny(409, "too late")
    await websocket.close(1008, "no")
    assert server.written == [{"type": "websocket.close", "code": 1008, "reason": "no"}]


# In


async def test_message_in_is_life_and_arrives(server: Server) -> None:
    websocket, _ = await server.open()
    server.says("hé")
    server.says(b"\x00")
    assert (await websocket.receive_text(), await websocket.receive_bytes()) == ("hé", b"\x00")
    assert (server.told, server.received_bytes) == (["text", "bytes"], 4)


@pytest.mark.parametrize("message", ["x" * 10, b"x" * 10, "é" * 5])
async def test_message_of_the_limit_is_taken(server: Server, message: str | bytes) -> None:
    websocket, _ = await server.open()
    server.says(message)
    await websocket.receive()
    assert (len(server.told), server.received_bytes) == (1, 10)


@pytest.mark.parametrize(("message", "size"), [("x" * 11, 11), (b"x" * 11, 11), ("é" * 6, 12)])
async def test_message_over_the_limit_ends_the_handlers_receive(
    server: Server, message: str | bytes, size: int
) -> None:
    websocket, _ = await server.open()
    server.says(message)
    with pytest.raises(WebSocketDisconnect) as caught:
        await websocket.receive_text()
    assert (caught.value.code, server.told) == (1009, [("too large", size, 10)])


async def test_limit_in_force_is_read_at_each_message(server: Server) -> None:
    websocket, _ = await server.open()
    server.limit = 100
    server.says("x" * 50)
    assert await websocket.receive_text() == "x" * 50


@pytest.mark.parametrize(
    ("event", "code", "reason"),
    [({"code": 1001, "reason": "away"}, 1001, "away"), ({"code": None}, 1005, ""), ({}, 1005, "")],
)
async def test_peer_that_leaves_is_told_with_its_code(
    server: Server, event: dict[str, Any], code: int, reason: str
) -> None:
    websocket, transport = await server.open()
    server.inbound.put_nowait({"type": "websocket.disconnect", **event})
    await websocket.receive()
    assert server.told == [("hung up", code, reason)]
    await transport.close(1000, "too late")
    assert server.written == []


async def test_message_to_a_peer_that_left_is_an_error(server: Server) -> None:
    websocket, transport = await server.open()
    server.inbound.put_nowait({"type": "websocket.disconnect", "code": 1001})
    await websocket.receive()
    with pytest.raises(WebSocketDisconnect):
        await transport.send(text("hi"))
    assert server.written == []


# The end


async def test_close_is_written_once(server: Server) -> None:
    websocket, transport = await server.open()
    await transport.close(1001, "bye")
    await transport.close(1000, "again")
    await websocket.close(1000)
    assert server.written == CLOSED


async def test_close_by_the_handler_is_written_once_too(server: Server) -> None:
    websocket, transport = await server.open()
    await websocket.close(1001, "bye")
    await transport.close(1000, "again")
    assert server.written == CLOSED


async def test_nothing_is_written_after_a_close(server: Server) -> None:
    websocket, transport = await server.open()
    await transport.close(1001, "bye")
    for send in (transport.send(text("hi")), websocket.send_text("hi")):
        with pytest.raises(WebSocketDisconnect):
            await send
    assert server.written == CLOSED


async def test_handler_that_waits_is_told_of_the_end(server: Server) -> None:
    websocket, transport = await server.open()
    waiting = asyncio.create_task(websocket.receive_text())
    await turns()
    await transport.close(1001, "bye")
    transport.interrupt(1001, "bye")
    with pytest.raises(WebSocketDisconnect) as caught:
        await waiting
    assert (caught.value.code, caught.value.reason) == (1001, "bye")


async def test_handler_that_comes_back_later_is_told_of_the_end(server: Server) -> None:
    websocket, transport = await server.open()
    transport.interrupt(1001, "bye")
    transport.interrupt(1000, "again")
    with pytest.raises(WebSocketDisconnect) as caught:
        await websocket.receive_text()
    assert caught.value.code == 1001


async def test_cancelled_handler_is_cancelled_and_not_disconnected(server: Server) -> None:
    websocket, _ = await server.open()
    waiting = asyncio.create_task(websocket.receive_text())
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_end_of_the_task_that_registered_and_read_is_the_end_of_the_handler(server: Server) -> None:
    async def handler() -> None:
        websocket, _ = await server.open()
        server.says("hello")
        await websocket.receive_text()
        await asyncio.Event().wait()  # a broadcast, say

    task = asyncio.ensure_future(handler())
    await turns()
    assert server.told == ["text"]
    task.cancel()
    await turns()
    assert server.told == ["text", "abandoned"]


async def test_end_of_a_task_that_only_registered_says_nothing(server: Server) -> None:
    websocket, _ = await asyncio.create_task(server.open())  # as wait_for() does before Python 3.12
    server.says("hello")
    await websocket.receive_text()
    await turns()
    assert server.told == ["text"]


async def test_timeout_of_the_server_itself_is_not_taken_for_the_end(server: Server) -> None:
    async def receive() -> AsgiEvent:
        raise TimeoutError

    websocket = WebSocket({"type": "websocket"}, receive, server.send)
    attached(websocket, server)
    with pytest.raises(TimeoutError):
        await websocket._receive()


async def test_detached_socket_is_as_it_was_found(server: Server) -> None:
    websocket, transport = await server.open()
    transport.detach()
    server.says("x" * 50)
    assert await websocket.receive_text() == "x" * 50
    await websocket.send_text("hi")
    assert (server.told, server.written) == ([], [{"type": "websocket.send", "text": "hi"}])


async def test_mock_has_nothing_to_interrupt_and_nothing_to_detach(server: Server) -> None:
    mock = AsyncMock()
    transport = attached(mock, server)
    transport.interrupt(1000, "bye")
    transport.detach()
    assert mock.method_calls == []


async def test_own_send_of_a_session_goes_through_its_connection() -> None:
    server = Server()
    websocket, _ = await server.open()
    transport = open_transport(websocket, server.limits, has_session=True)
    transport.attach(server)
    await websocket.send_text("ä")
    await websocket.send_bytes(b"\xff")
    sent = [
        {"type": "websocket.send", "text": '[0,0,"ä"]'},
        {"type": "websocket.send", "bytes": b"\x01" + bytes(10) + b"\xff"},
    ]
    assert (server.told, server.written) == ([sent[0], "flush", sent[1], "flush"], [])


async def test_message_of_a_session_has_its_address_with_own_methods_too() -> None:
    said: list[Any] = []

    class Own(WebSocket):
        async def send_text(self, data: str) -> None:
            said.append(data)

        async def send_bytes(self, data: bytes) -> None:
            said.append(data)

    server = Server()
    websocket, _ = await server.open(Own)
    transport = open_transport(websocket, server.limits, has_session=True)
    for message in ({"a": 1}, "x", b"\xff"):
        await transport.send(encode(message, 100))
    assert said == ['[0,0,{"a":1}]', '[0,0,"x"]', b"\x01" + bytes(10) + b"\xff"]
