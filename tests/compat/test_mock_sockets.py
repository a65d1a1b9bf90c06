"""Registering, sending and shutting down with the mock sockets of a test suite written for release 1.1."""

from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from fastapi import WebSocket, WebSocketDisconnect

from fastapi_websocket_stabilizer import (
    BroadcastFailedError,
    BroadcastResult,
    ConnectionLimitExceededError,
    ConnectionNotFoundError,
    WebSocketConfig,
    WebSocketConnectionManager,
)

from .support import BrokenSocket, FakeSocket, UnclosableSocket, register, register_all

MOCKS: dict[str, Callable[[], Any]] = {
    "AsyncMock": AsyncMock,
    "AsyncMock of WebSocket": lambda: AsyncMock(spec=WebSocket),
    "MagicMock of WebSocket": lambda: MagicMock(spec=WebSocket),
}


@pytest.fixture
def manager() -> WebSocketConnectionManager:
    return WebSocketConnectionManager()


@pytest.fixture(params=list(MOCKS.values()), ids=list(MOCKS))
def mock(request: pytest.FixtureRequest) -> Any:
    return request.param()


async def test_connected_clients_are_listed_and_counted(manager: WebSocketConnectionManager) -> None:
    await register_all(manager, alice=FakeSocket(), bob=FakeSocket())
    assert sorted(manager.get_active_connections()) == ["alice", "bob"]
    assert manager.get_connection_count() == 2


async def test_connect_sends_and_closes_nothing(manager: WebSocketConnectionManager) -> None:
    alice = FakeSocket()
    await register(manager, "alice", alice, {"room": "lobby"})
    assert alice == FakeSocket()


async def test_metadata_may_hold_any_python_object(manager: WebSocketConnectionManager) -> None:
    await register(manager, "alice", FakeSocket(), {"session": object(), 7: {1, 2}})  # type: ignore[dict-item]
    assert manager.get_active_connections() == ["alice"]


async def test_empty_client_id_is_not_found(manager: WebSocketConnectionManager) -> None:
    with pytest.raises(ConnectionNotFoundError):
        await register(manager, "", FakeSocket())
    assert manager.get_connection_count() == 0


async def test_disconnect_closes_normally_and_forgets_the_client(manager: WebSocketConnectionManager) -> None:
    alice, bob = FakeSocket(), FakeSocket()
    await register_all(manager, alice=alice, bob=bob)
    await manager.disconnect("alice")
    assert alice.closes == [(1000, "normal closure")]
    assert (manager.get_active_connections(), bob.closes) == (["bob"], [])


async def test_disconnect_of_an_unknown_client_raises(manager: WebSocketConnectionManager) -> None:
    with pytest.raises(ConnectionNotFoundError):
        await manager.disconnect("nobody")


async def test_second_disconnect_raises(manager: WebSocketConnectionManager) -> None:
    await register(manager, "alice", FakeSocket())
    await manager.disconnect("alice")
    with pytest.raises(ConnectionNotFoundError):
        await manager.disconnect("alice")


async def test_disconnect_survives_a_close_that_raises(manager: WebSocketConnectionManager) -> None:
    await register(manager, "alice", UnclosableSocket())
    await manager.disconnect("alice")
    assert manager.get_connection_count() == 0


@pytest.mark.parametrize("old", [FakeSocket(), UnclosableSocket()], ids=["closable", "unclosable"])
async def test_replaced_socket_is_closed_as_reconnected(
    manager: WebSocketConnectionManager, old: FakeSocket
) -> None:
    new = FakeSocket()
    await register(manager, "alice", old)
    await register(manager, "alice", new)
    await manager.send_to_client("alice", "hello")
    assert (old.closes, old.texts) == ([(1000, "reconnected")], [])
    assert (new.closes, new.texts, manager.get_connection_count()) == ([], ["hello"], 1)


async def test_disconnect_after_a_replacement_closes_the_new_socket(
    manager: WebSocketConnectionManager,
) -> None:
    """In one task, where the caller cannot be the old socket's handler."""
    new = FakeSocket()
    await register(manager, "alice", FakeSocket())
    await register(manager, "alice", new)
    await manager.disconnect("alice")
    assert (new.close_codes, manager.get_connection_count()) == ([1000], 0)


async def test_connection_limit_refuses_one_more_client() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(max_connections=2))
    await register_all(manager, alice=FakeSocket(), bob=FakeSocket())
    with pytest.raises(ConnectionLimitExceededError) as caught:
        await register(manager, "carol", FakeSocket())
    assert (caught.value.scope, caught.value.limit, caught.value.current) == ("node", 2, 2)
    assert sorted(manager.get_active_connections()) == ["alice", "bob"]


async def test_known_client_may_reconnect_at_the_connection_limit() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(max_connections=2))
    old, new = FakeSocket(), FakeSocket()
    await register_all(manager, alice=old, bob=FakeSocket())
    await register(manager, "alice", new)
    assert (old.close_codes, new.closes, manager.get_connection_count()) == ([1000], [], 2)


async def test_disconnect_makes_room_under_the_connection_limit() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(max_connections=1))
    await register(manager, "alice", FakeSocket())
    await manager.disconnect("alice")
    await register(manager, "bob", FakeSocket())
    assert manager.get_active_connections() == ["bob"]


async def test_string_goes_to_send_text(manager: WebSocketConnectionManager) -> None:
    alice = FakeSocket()
    await register(manager, "alice", alice)
    assert await manager.send_to_client("alice", "hé\n") is True
    assert alice == FakeSocket(texts=["hé\n"])


async def test_dict_goes_to_send_json_unchanged(manager: WebSocketConnectionManager) -> None:
    alice, message = FakeSocket(), {"type": "chat", "to": ("a", "b"), "n": 1.5, "nested": {"none": None}}
    await register(manager, "alice", alice)
    assert await manager.send_to_client("alice", message) is True
    assert alice == FakeSocket(jsons=[message])


async def test_send_reaches_one_client_only(manager: WebSocketConnectionManager) -> None:
    alice, bob = FakeSocket(), FakeSocket()
    await register_all(manager, alice=alice, bob=bob)
    await manager.send_to_client("bob", "hello")
    assert (alice.texts, bob.texts) == ([], ["hello"])


async def test_send_to_an_unknown_client_is_false(manager: WebSocketConnectionManager) -> None:
    assert await manager.send_to_client("nobody", "hello") is False


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("message", ["hello", {"text": "hello"}])
async def test_failing_send_is_false_and_disconnects(
    manager: WebSocketConnectionManager, late: bool, message: str | dict[str, Any]
) -> None:
    alice = BrokenSocket(late=late)
    await register(manager, "alice", alice)
    assert await manager.send_to_client("alice", message) is False
    assert (manager.get_connection_count(), len(alice.closes)) == (0, 1)


async def test_client_removed_by_a_failing_send_is_not_found_by_disconnect(
    manager: WebSocketConnectionManager,
) -> None:
    await register(manager, "alice", BrokenSocket())
    await manager.send_to_client("alice", "hello")
    with pytest.raises(ConnectionNotFoundError):
        await manager.disconnect("alice")


@pytest.mark.parametrize("message", ["hello", {"text": "hello"}])
async def test_broadcast_reaches_every_client(
    manager: WebSocketConnectionManager, message: str | dict[str, Any]
) -> None:
    sockets = {f"client-{number}": FakeSocket() for number in range(40)}
    await register_all(manager, **sockets)
    result = await manager.broadcast(message)
    assert result == BroadcastResult(total=40, succeeded=40, failed=0)
    assert all(mock.texts + mock.jsons == [message] for mock in sockets.values())


async def test_broadcast_to_nobody_counts_nothing(manager: WebSocketConnectionManager) -> None:
    assert await manager.broadcast("hello") == BroadcastResult(0, 0, 0)


async def test_excluded_client_gets_nothing_but_is_in_the_total(manager: WebSocketConnectionManager) -> None:
    alice, bob, carol = FakeSocket(), FakeSocket(), FakeSocket()
    await register_all(manager, alice=alice, bob=bob, carol=carol)
    result = await manager.broadcast("hello", exclude_client="bob")
    assert (result.total, result.succeeded, result.failed, result.errors) == (3, 2, 0, [])
    assert (alice.texts, bob.texts, carol.texts) == (["hello"], [], ["hello"])


@pytest.mark.parametrize("excluded", ["nobody", "", None])
async def test_exclusion_of_nobody_changes_nothing(
    manager: WebSocketConnectionManager, excluded: str | None
) -> None:
    alice = FakeSocket()
    await register(manager, "alice", alice)
    result = await manager.broadcast("hello", excluded)
    assert (result.total, result.succeeded, alice.texts) == (1, 1, ["hello"])


async def test_broadcast_to_the_excluded_client_alone_succeeds(manager: WebSocketConnectionManager) -> None:
    await register(manager, "alice", FakeSocket())
    result = await manager.broadcast("hello", exclude_client="alice")
    assert (result.total, result.succeeded, result.failed) == (1, 0, 0)


@pytest.mark.parametrize("late", [False, True])
async def test_failing_recipient_is_counted_named_and_disconnected(
    manager: WebSocketConnectionManager, late: bool
) -> None:
    alice, bob = FakeSocket(), BrokenSocket(late=late)
    await register_all(manager, alice=alice, bob=bob)
    result = await manager.broadcast("hello")
    assert (result.total, result.succeeded, result.failed) == (2, 1, 1)
    assert result.errors == [("bob", "gone")]
    assert (manager.get_active_connections(), len(bob.closes), alice.closes) == (["alice"], 1, [])


@pytest.mark.parametrize("late", [False, True])
async def test_broadcast_that_fails_for_all_raises(manager: WebSocketConnectionManager, late: bool) -> None:
    await register_all(manager, alice=BrokenSocket(late=late), bob=BrokenSocket(late=late))
    with pytest.raises(BroadcastFailedError):
        await manager.broadcast({"text": "hello"})
    assert manager.get_connection_count() == 0


async def test_shutdown_closes_all_as_going_away(manager: WebSocketConnectionManager) -> None:
    sockets = {f"client-{number}": FakeSocket() for number in range(20)}
    await register_all(manager, **sockets)
    report = await manager.graceful_shutdown()
    assert (report.closed_count, report.failed_count) == (20, 0)
    assert 0 <= report.duration_seconds < 10
    assert [mock.close_codes for mock in sockets.values()] == [[1001]] * 20
    assert manager.get_connection_count() == 0


async def test_shutdown_reports_sockets_that_fail_to_close(manager: WebSocketConnectionManager) -> None:
    await register_all(manager, alice=FakeSocket(), bob=UnclosableSocket(), carol=FakeSocket())
    report = await manager.graceful_shutdown(timeout=5.0)
    assert (report.closed_count, report.failed_count) == (2, 1)
    assert manager.get_active_connections() == []


async def test_second_shutdown_closes_nothing(manager: WebSocketConnectionManager) -> None:
    alice = FakeSocket()
    await register(manager, "alice", alice)
    await manager.graceful_shutdown()
    report = await manager.graceful_shutdown()
    assert (report.closed_count, report.failed_count, alice.close_codes) == (0, 0, [1001])


async def test_start_after_a_shutdown_opens_the_manager_again(manager: WebSocketConnectionManager) -> None:
    for _ in range(3):
        await manager.start()
        await register(manager, "alice", FakeSocket())
        assert (await manager.graceful_shutdown()).closed_count == 1


async def test_user_data_is_kept_per_client_and_key(manager: WebSocketConnectionManager) -> None:
    await register_all(manager, alice=FakeSocket(), bob=FakeSocket())
    value = object()
    await manager.set_user_data("alice", "thing", value)
    assert await manager.get_user_data("alice", "thing") is value
    assert await manager.get_user_data("alice", "other") is None
    assert await manager.get_user_data("bob", "thing") is None


async def test_user_data_ends_with_its_connection(manager: WebSocketConnectionManager) -> None:
    await register(manager, "alice", FakeSocket())
    await manager.set_user_data("alice", "name", "Alice")
    await register(manager, "alice", FakeSocket())
    assert await manager.get_user_data("alice", "name") is None


async def test_user_data_of_an_unknown_client_reads_none_and_refuses_writes(
    manager: WebSocketConnectionManager,
) -> None:
    assert await manager.get_user_data("nobody", "name") is None
    with pytest.raises(ConnectionNotFoundError):
        await manager.set_user_data("nobody", "name", "Alice")


async def test_library_mock_receives_what_was_sent(manager: WebSocketConnectionManager, mock: Any) -> None:
    await manager.connect("alice", mock)
    assert await manager.send_to_client("alice", "hello") is True
    await manager.broadcast({"type": "news"})
    mock.send_text.assert_awaited_once_with("hello")
    mock.send_json.assert_awaited_once_with({"type": "news"})
    mock.close.assert_not_called()


async def test_library_mock_is_closed_with_keywords(manager: WebSocketConnectionManager, mock: Any) -> None:
    await manager.connect("alice", mock)
    await manager.connect("alice", FakeSocket())  # type: ignore[arg-type]
    mock.close.assert_awaited_once_with(code=1000, reason="reconnected")


async def test_library_mock_is_closed_by_disconnect(manager: WebSocketConnectionManager, mock: Any) -> None:
    await manager.connect("alice", mock)
    await manager.disconnect("alice")
    mock.close.assert_awaited_once_with(code=1000, reason="normal closure")


async def test_library_mock_is_closed_by_shutdown(manager: WebSocketConnectionManager, mock: Any) -> None:
    await manager.connect("alice", mock)
    report = await manager.graceful_shutdown()
    assert (report.closed_count, mock.close.await_args.kwargs["code"]) == (1, 1001)


@pytest.mark.parametrize("error", [RuntimeError("gone"), WebSocketDisconnect(1006)], ids=repr)
async def test_library_mock_that_raises_is_counted_and_disconnected(
    manager: WebSocketConnectionManager, mock: Any, error: Exception
) -> None:
    mock.send_text.side_effect = error
    await manager.connect("alice", mock)
    await manager.connect("bob", FakeSocket())  # type: ignore[arg-type]
    result = await manager.broadcast("hello")
    assert (result.succeeded, result.failed, result.errors[0][0]) == (1, 1, "alice")
    assert manager.get_active_connections() == ["bob"]


async def test_shutdown_without_any_time_closes_whoever_lets_it(
    manager: WebSocketConnectionManager, mock: Any
) -> None:
    await register(manager, "alice", mock)
    report = await manager.graceful_shutdown(timeout=0)
    assert (report.closed_count, report.failed_count) == (1, 0)
    mock.close.assert_awaited_once_with(code=1001, reason="server shutdown")
