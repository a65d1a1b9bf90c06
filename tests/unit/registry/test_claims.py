"""Clients whose sockets displace one another."""

import logging

import pytest

from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.registry.claims import AT_MOST, MAX_CLIENTS, WINDOW_S, Contests
from fastapi_websocket_stabilizer.testing import FakeWebSocket, MemoryCluster
from tests.unit.fakes import Clock


@pytest.fixture
async def contests() -> Contests:
    return Contests(logging.getLogger("contests"))


async def test_client_that_is_displaced_more_than_a_few_times_a_minute_is_named_once(
    contests: Contests, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(AT_MOST):
        contests.displaced("ann", 1000)
    assert caplog.messages == []
    for _ in range(50):
        contests.displaced("ann", 1000)
    [message] = caplog.messages
    words = ("'ann'", f"{AT_MOST + 1} times", "code 1000", "max_connections_per_client", "displaced_code")
    assert [word for word in words if word not in message] == []


async def test_client_that_is_displaced_now_and_then_is_not_named(
    contests: Contests, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    for _ in range(5):
        for _ in range(AT_MOST):
            contests.displaced("ann", 1000)
        clock.advance(WINDOW_S)
    for number in range(2 * MAX_CLIENTS):
        contests.displaced(f"client {number}", 1000)
    assert caplog.messages == []


async def test_displaced_socket_is_closed_with_the_code_that_is_set_here_and_elsewhere() -> None:
    async with MemoryCluster(2, WebSocketConfig(displaced_code=4500, log_level="ERROR")) as cluster:
        first, second = cluster.managers
        sockets = [await cluster.connect(manager, "ann") for manager in (first, first, second)]
        await cluster.quiet()
        assert [socket.closed_with for socket in sockets] == [
            (4500, "reconnected"),
            (4500, "reconnected"),
            None,
        ]


async def test_tabs_that_displace_each_other_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    manager = WebSocketConnectionManager()
    for _ in range(2 * AT_MOST):
        await manager.connect("ann", FakeWebSocket())
    named = [record for record in caplog.records if "'ann' was displaced" in record.getMessage()]
    assert [record.levelname for record in named] == ["WARNING"]
