"""Clients whose sockets displace one another, and sessions that take the place of their former connection."""

import logging

import pytest

from fastapi_websocket_stabilizer import (
    ConnectionLimitExceededError,
    PresenceEvent,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.registry.claims import AT_MOST, MAX_CLIENTS, WINDOW_S, Contests
from fastapi_websocket_stabilizer.testing import FakeWebSocket, MemoryCluster
from tests.unit.fakes import Clock
from tests.unit.registry.sessions import connect


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


# Sessions

QUIET = WebSocketConfig(log_level="ERROR")


@pytest.mark.parametrize("limit", [1, 3])
async def test_former_connection_is_closed_when_the_next_one_has_its_first_frame(limit: int) -> None:
    config = WebSocketConfig(log_level="ERROR", max_connections_per_client=limit)
    async with MemoryCluster(2, config) as cluster:
        first, second = cluster.managers
        events: list[PresenceEvent] = []
        for manager in cluster.managers:
            manager.on_presence(events.append)
        old = await connect(first, "s1")
        new = await connect(second, "s2", "s1", begins=False)
        await cluster.beat()
        assert old.socket.is_open
        await new.begin()
        await cluster.beat()
        assert old.socket.closed_with == (4500, '{"by":"s2"}')
        assert new.socket.is_open
        assert [event.kind for event in events] == ["joined"]


async def test_reconnect_with_a_half_open_socket_displaces_no_other_tab() -> None:
    config = WebSocketConfig(log_level="ERROR", max_connections_per_client=2)
    async with MemoryCluster(2, config) as cluster:
        first, second = cluster.managers
        tab, half_open = await connect(first, "tab"), await connect(first, "s1")
        for number in range(2, 6):
            back = await connect(second, f"s{number}", f"s{number - 1}")
            await cluster.beat()
        assert (tab.socket.is_open, half_open.socket.is_open, back.socket.is_open) == (True, False, True)
        assert await first.send_to_client("ann", "both")
        await cluster.quiet()
        assert (tab.socket.received, back.socket.received) == (["both"], ["both"])


async def test_reconnect_is_never_refused_because_of_its_own_half_open_socket() -> None:
    config = WebSocketConfig(log_level="ERROR", on_client_overflow="reject")
    async with MemoryCluster(2, config) as cluster:
        first, second = cluster.managers
        await connect(first, "s1")
        with pytest.raises(ConnectionLimitExceededError):
            await connect(second, "stranger", "s0")
        back = await connect(second, "s2", "s1")
        await cluster.beat()
        assert back.socket.is_open
        assert [each.connection_id for each in await first.presence("ann")] == [back.connection.connection_id]


async def test_full_node_accepts_the_successor_of_its_own_connection() -> None:
    config = WebSocketConfig(log_level="ERROR", max_connections_per_client=5, max_connections=1)
    async with MemoryCluster(1, config) as cluster:
        (manager,) = cluster.managers
        await connect(manager, "s1")
        with pytest.raises(ConnectionLimitExceededError):
            await connect(manager, "stranger")
        assert (await connect(manager, "s2", "s1")).socket.is_open


async def test_old_connection_goes_on_if_the_next_one_ends_before_its_first_frame() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        new = await connect(second, "s2", "s1", begins=False)
        await new.connection.close()
        await cluster.beat()
        assert old.socket.is_open
        assert await second.send_to_client("ann", "still here")
        await cluster.quiet()
        assert old.socket.received == ["still here"]


async def test_evict_of_a_superseded_connection_is_repeated_until_it_is_gone() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        cluster.cut(first)
        await connect(second, "s2", "s1")
        await second.beat()
        assert old.socket.is_open
        await cluster.mend(first)
        await cluster.beat()
        assert not old.socket.is_open


async def test_displaced_tab_is_told_the_session_that_displaced_it() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "tab-1")
        await connect(second, "tab-2")
        await cluster.beat()
        assert old.socket.closed_with == (4500, '{"by":"tab-2"}')


async def test_successor_found_while_redis_is_away_displaces_its_own_socket_only() -> None:
    config = WebSocketConfig(log_level="CRITICAL", max_connections_per_client=2)
    async with MemoryCluster(2, config) as cluster:
        first, _ = cluster.managers
        tab, old = await connect(first, "tab"), await connect(first, "s1")
        cluster.cut(first)
        await first.beat()
        new = await connect(first, "s2", "s1")
        await cluster.quiet()
        assert [each.socket.is_open for each in (tab, old, new)] == [True, False, True]
        await cluster.mend(first)
        assert [each.socket.is_open for each in (tab, old, new)] == [True, False, True]
        assert len(await first.presence("ann")) == 2


async def test_plain_sockets_are_claimed_as_ever() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        plain = await cluster.connect(first, "ann")
        await connect(second, "s2", "s1")
        await cluster.quiet()
        assert plain.closed_with == (1000, "reconnected")
