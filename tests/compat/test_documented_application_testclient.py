"""Release 1.1's documented applications under Starlette's TestClient, as their authors test them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession

from tests.support.waiting import eventually_sync

from .support import load_app


@contextmanager
def joined(
    client: TestClient, app: ModuleType, client_id: str, query: str = ""
) -> Iterator[WebSocketTestSession]:
    """Open a socket and wait until the application has registered it."""
    with client.websocket_connect(f"/ws/{client_id}{query}") as socket:
        eventually_sync(lambda: client_id in app.ws_manager.get_active_connections())
        yield socket


def test_chat_works_inside_the_lifespan() -> None:
    chat = load_app("chat")
    with TestClient(chat.app) as client:
        with joined(client, chat, "alice") as alice, joined(client, chat, "bob") as bob:
            alice.send_text("hello")
            assert alice.receive_json() == bob.receive_json() == {"user": "alice", "message": "hello"}
        eventually_sync(lambda: chat.ws_manager.get_connection_count() == 0)


def test_chat_works_without_a_lifespan_with_a_loop_per_socket() -> None:
    chat = load_app("chat")
    client = TestClient(chat.app)
    with joined(client, chat, "alice") as alice, joined(client, chat, "bob") as bob:
        for sender, name in ((alice, "alice"), (bob, "bob"), (alice, "alice")):
            sender.send_text("hello")
            assert alice.receive_json() == bob.receive_json() == {"user": name, "message": "hello"}
    eventually_sync(lambda: chat.ws_manager.get_connection_count() == 0)


def test_socket_in_a_loop_of_its_own_leaves_while_another_stays() -> None:
    chat = load_app("chat")
    client = TestClient(chat.app)
    with joined(client, chat, "alice") as alice:
        with joined(client, chat, "bob") as bob:
            bob.send_text("hello")
            assert alice.receive_json() == bob.receive_json()
        eventually_sync(lambda: chat.ws_manager.get_active_connections() == ["alice"])
        alice.send_text("alone")
        assert alice.receive_json() == {"user": "alice", "message": "alone"}


def test_chat_pings_and_takes_the_pong() -> None:
    chat = load_app("chat")
    chat.ws_config.heartbeat_interval, chat.ws_config.heartbeat_timeout = 0.05, 0.5
    with TestClient(chat.app) as client, joined(client, chat, "alice") as alice:
        for _ in range(3):
            assert alice.receive_json()["type"] == "ping"
            alice.send_text("pong")
        assert chat.ws_manager.get_active_connections() == ["alice"]


def test_silent_client_is_closed_and_its_handler_ends_quietly() -> None:
    chat = load_app("chat")
    chat.ws_config.heartbeat_interval, chat.ws_config.heartbeat_timeout = 0.05, 0.05
    with TestClient(chat.app) as client, joined(client, chat, "alice") as alice:
        kinds = []
        while (event := alice.receive())["type"] == "websocket.send":
            kinds.append(json.loads(event["text"])["type"])
    assert (set(kinds), event["type"]) == ({"ping"}, "websocket.close")


def test_one_manager_serves_three_lifespans_in_a_row() -> None:
    chat = load_app("chat")
    for _ in range(3):
        with TestClient(chat.app) as client, joined(client, chat, "alice") as alice:
            alice.send_text("hello")
            assert alice.receive_json() == {"user": "alice", "message": "hello"}
        eventually_sync(lambda: chat.ws_manager.get_connection_count() == 0)


def test_patterns_of_messages_work_over_loops_of_their_own() -> None:
    app = load_app("messaging")
    client = TestClient(app.app)
    with joined(client, app, "alice") as alice, joined(client, app, "bob") as bob:
        client.post("/announce").raise_for_status()
        client.post("/chat/alice").raise_for_status()
        assert client.post("/direct/alice").json() == {"success": True}
        assert [alice.receive_text(), alice.receive_text()] == ["System message", "Direct message"]
        assert [bob.receive_text(), json.loads(bob.receive_text())] == ["System message", {"message": "chat"}]
    eventually_sync(lambda: app.ws_manager.get_connection_count() == 0)
    assert client.post("/direct/alice").json() == {"success": False}


@pytest.mark.parametrize("endpoint", ["reconnect-token", "sync-token"])
def test_token_is_issued_and_redeemed_in_different_loops(endpoint: str) -> None:
    app = load_app("reconnect")
    client = TestClient(app.app)
    token = client.post(f"/{endpoint}/alice").json()["token"]
    with joined(client, app, "alice", f"?token={token}") as alice:
        alice.send_text("hello")
        assert alice.receive_text() == "hello"
    assert app.restored == ["alice"]


@pytest.mark.parametrize("path", ["/stats", "/stats-in-a-thread"])
@pytest.mark.parametrize("with_lifespan", [False, True])
def test_statistics_endpoint_answers_while_sockets_are_open(path: str, with_lifespan: bool) -> None:
    app = load_app("profile")
    client = TestClient(app.app)
    with (
        client if with_lifespan else nullcontext(),
        joined(client, app, "alice") as alice,
        joined(client, app, "bob") as bob,
    ):
        assert alice.receive_json() == bob.receive_json() == ["Alice", "general"]
        stats = client.get(path).json()
    assert (stats["active_connections"], sorted(stats["client_ids"])) == (2, ["alice", "bob"])
    assert stats["memory"]["connection_count"] == 2
