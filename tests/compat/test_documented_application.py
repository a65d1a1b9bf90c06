"""Release 1.1's documented applications (``apps/``), unchanged, on a real server with real clients."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support import http
from tests.support.waiting import eventually

from .support import LiveServer, load_app, serving


@dataclass
class Client:
    """A browser: reads all the time, answers the application's pings unless told not to."""

    socket: ClientConnection
    answers_pings: bool = True
    pings: int = 0
    messages: list[Any] = field(default_factory=list)

    async def read(self) -> None:
        try:
            async for text in self.socket:
                if '"type":"ping"' in str(text):
                    self.pings += 1
                    if self.answers_pings:
                        await self.socket.send("pong")
                else:
                    self.messages.append(text)
        except ConnectionClosed:
            pass

    async def got(self, messages: int) -> None:
        await eventually(lambda: len(self.messages) == messages)

    @property
    def close_code(self) -> int | None:
        return self.socket.close_code


@asynccontextmanager
async def joined(
    server: LiveServer, app: ModuleType, client_id: str, *, answers_pings: bool = True, query: str = ""
) -> AsyncIterator[Client]:
    """Open a socket and wait until the application has registered it."""
    async with connect(f"{server.ws_url}/ws/{client_id}{query}") as socket:
        client = Client(socket, answers_pings)
        reading = asyncio.create_task(client.read())
        await eventually(lambda: client_id in app.ws_manager.get_active_connections())
        yield client
    await reading


async def post(server: LiveServer, path: str) -> Any:
    async with http.AsyncClient(base_url=server.http_url) as client:
        return (await client.post(path)).raise_for_status().json()


async def get(server: LiveServer, path: str) -> Any:
    async with http.AsyncClient(base_url=server.http_url) as client:
        return (await client.get(path)).raise_for_status().json()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_chat_message_reaches_everybody(caplog: pytest.LogCaptureFixture) -> None:
    chat = load_app("chat")
    async with (
        serving(chat.app) as server,
        joined(server, chat, "alice") as alice,
        joined(server, chat, "bob") as bob,
    ):
        await alice.socket.send("hello")
        await bob.socket.send("hi")
        await eventually(lambda: len(alice.messages) == len(bob.messages) == 2)
    expected = [{"user": "alice", "message": "hello"}, {"user": "bob", "message": "hi"}]
    for client in (alice, bob):
        assert sorted(map(json.loads, client.messages), key=str) == sorted(expected, key=str)
    assert errors(caplog) == []


async def test_chat_keeps_the_order_of_each_sender() -> None:
    chat = load_app("chat")
    async with (
        serving(chat.app) as server,
        joined(server, chat, "alice") as alice,
        joined(server, chat, "bob") as bob,
    ):
        for number in range(200):
            await alice.socket.send(str(number))
        await eventually(lambda: len(bob.messages) == 200)
    assert [json.loads(text)["message"] for text in bob.messages] == [str(number) for number in range(200)]


async def test_chat_forgets_clients_that_leave(caplog: pytest.LogCaptureFixture) -> None:
    chat = load_app("chat")
    async with serving(chat.app) as server:
        async with joined(server, chat, "alice") as alice:
            async with joined(server, chat, "bob"):
                pass
            await eventually(lambda: chat.ws_manager.get_active_connections() == ["alice"])
            await alice.socket.send("anybody here?")
            await alice.got(1)
        await eventually(lambda: chat.ws_manager.get_connection_count() == 0)
    assert errors(caplog) == []


async def test_chat_forgets_a_client_whose_connection_breaks(caplog: pytest.LogCaptureFixture) -> None:
    chat = load_app("chat")
    async with serving(chat.app) as server, joined(server, chat, "alice") as alice:
        alice.socket.transport.abort()
        await eventually(lambda: chat.ws_manager.get_connection_count() == 0)
    assert errors(caplog) == []


async def test_chat_pong_keeps_a_client_and_silence_ends_it() -> None:
    chat = load_app("chat")
    chat.ws_config.heartbeat_interval, chat.ws_config.heartbeat_timeout = 0.1, 0.5
    async with (
        serving(chat.app) as server,
        joined(server, chat, "alice") as alice,
        joined(server, chat, "mute", answers_pings=False) as mute,
    ):
        await eventually(lambda: mute.close_code is not None and alice.pings >= 4)
        assert (chat.ws_manager.get_active_connections(), alice.close_code) == (["alice"], None)
        await alice.socket.send("still here")
        await alice.got(1)


async def test_chat_never_shows_the_pong_to_others() -> None:
    chat = load_app("chat")
    chat.ws_config.heartbeat_interval = 0.05
    async with (
        serving(chat.app) as server,
        joined(server, chat, "alice") as alice,
        joined(server, chat, "bob") as bob,
    ):
        await eventually(lambda: alice.pings >= 2 and bob.pings >= 2)
        await alice.socket.send("hello")
        await eventually(lambda: len(bob.messages) == 1)
    assert [json.loads(text)["message"] for text in bob.messages] == ["hello"]


async def test_chat_refuses_clients_over_its_limit_and_serves_the_rest() -> None:
    chat = load_app("chat")
    chat.ws_config.max_connections = 1
    async with serving(chat.app) as server, joined(server, chat, "alice") as alice:
        async with connect(f"{server.ws_url}/ws/bob") as refused:
            with pytest.raises(ConnectionClosed):
                await refused.recv()
        await alice.socket.send("hello")
        await alice.got(1)
        assert chat.ws_manager.get_active_connections() == ["alice"]


async def test_chat_stops_with_clients_connected(caplog: pytest.LogCaptureFixture) -> None:
    chat = load_app("chat")
    async with (
        serving(chat.app) as server,
        joined(server, chat, "alice") as alice,
        joined(server, chat, "bob") as bob,
    ):
        await server.stop()
        await eventually(lambda: None not in (alice.close_code, bob.close_code))
    assert {alice.close_code, bob.close_code} <= {1001, 1012}
    assert (chat.ws_manager.get_connection_count(), errors(caplog)) == (0, [])


async def test_chat_runs_three_servers_in_a_row_with_one_manager(caplog: pytest.LogCaptureFixture) -> None:
    chat = load_app("chat")
    for _ in range(3):
        async with serving(chat.app) as server, joined(server, chat, "alice") as alice:
            await alice.socket.send("hello")
            await alice.got(1)
    assert (chat.ws_manager.get_connection_count(), errors(caplog)) == (0, [])


async def test_system_message_reaches_all_clients() -> None:
    app = load_app("messaging")
    async with (
        serving(app.app) as server,
        joined(server, app, "alice") as alice,
        joined(server, app, "bob") as bob,
    ):
        await post(server, "/announce")
        await eventually(lambda: alice.messages == bob.messages == ["System message"])


async def test_broadcast_leaves_its_sender_out() -> None:
    app = load_app("messaging")
    async with (
        serving(app.app) as server,
        joined(server, app, "alice") as alice,
        joined(server, app, "bob") as bob,
    ):
        await post(server, "/chat/alice")
        await post(server, "/direct/alice")
        await eventually(lambda: len(alice.messages) == len(bob.messages) == 1)
    assert (alice.messages, bob.messages) == (["Direct message"], ['{"message": "chat"}'])


async def test_direct_message_tells_whether_the_client_is_connected() -> None:
    app = load_app("messaging")
    async with serving(app.app) as server:
        async with joined(server, app, "alice"):
            assert await post(server, "/direct/alice") == {"success": True}
        await eventually(lambda: app.ws_manager.get_connection_count() == 0)
        assert await post(server, "/direct/alice") == {"success": False}


@pytest.mark.parametrize("endpoint", ["reconnect-token", "sync-token"])
async def test_reconnect_token_restores_a_client(endpoint: str) -> None:
    app = load_app("reconnect")
    async with serving(app.app) as server:
        async with joined(server, app, "alice"):
            token = (await post(server, f"/{endpoint}/alice"))["token"]
        await eventually(lambda: app.ws_manager.get_connection_count() == 0)
        async with joined(server, app, "alice", query=f"?token={token}") as alice:
            await alice.socket.send("back again")
            await eventually(lambda: alice.messages == ["back again"])
    assert app.restored == ["alice"]


async def test_expired_reconnect_token_closes_as_the_application_wants() -> None:
    app = load_app("reconnect")
    app.ws_config.reconnect_token_ttl = timedelta(milliseconds=1)
    async with serving(app.app) as server:
        token, issued = (await post(server, "/reconnect-token/alice"))["token"], time.monotonic()
        await eventually(lambda: time.monotonic() > issued + 0.01)
        async with connect(f"{server.ws_url}/ws/alice?token={token}") as refused:
            with pytest.raises(ConnectionClosed):
                await refused.recv()
    assert (refused.close_code, refused.close_reason) == (1008, "Token expired")


@pytest.mark.parametrize("path", ["/stats", "/stats-in-a-thread"])
async def test_statistics_name_the_connected_clients(path: str) -> None:
    app = load_app("profile")
    async with serving(app.app) as server, joined(server, app, "alice"), joined(server, app, "bob"):
        stats = await get(server, path)
    assert (stats["active_connections"], sorted(stats["client_ids"])) == (2, ["alice", "bob"])
    assert stats["memory"]["connection_count"] == 2
    assert stats["memory"]["per_connection_average"] == stats["memory"]["total_memory"] / 2 > 0


async def test_user_data_is_there_for_the_rest_of_the_connection() -> None:
    app = load_app("profile")
    async with serving(app.app) as server, joined(server, app, "alice") as alice:
        await alice.got(1)
        assert json.loads(alice.messages[0]) == ["Alice", "general"]
        assert await server.call(app.ws_manager.get_user_data("alice", "room")) == "general"
