"""Metadata that changes while its client is connected."""

import asyncio
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    Connection,
    ConnectionNotFoundError,
    MemoryLimitExceededError,
    MessageError,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.testing import FakeWebSocket, MemoryCluster, MemoryManager

QUIET = WebSocketConfig(log_level="CRITICAL", max_metadata_size=100)


async def shown(manager: WebSocketConnectionManager, client_id: str = "ann") -> list[Any]:
    return [entry.metadata for entry in await manager.presence(client_id)]


async def connected(manager: WebSocketConnectionManager) -> Connection:
    return await manager.connect("ann", FakeWebSocket(), metadata={"name": "Ann", "status": "here"})


@pytest.mark.parametrize(
    ("replaces", "result"),
    [(False, {"name": "Ann", "status": "away", "since": 5}), (True, {"status": "away", "since": 5})],
)
async def test_change_is_shown_on_all_replicas(replaces: bool, result: dict[str, Any]) -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        connection = await connected(first)
        await connection.update_metadata({"status": "away", "since": 5}, replaces=replaces)
        assert connection.metadata == result
        assert [await shown(manager) for manager in (first, second)] == [[result], [result]]


async def test_change_works_in_one_process_and_is_reported_to_the_hook() -> None:
    manager = WebSocketConnectionManager()
    told: list[tuple[Connection, Any]] = []

    @manager.on_metadata
    async def changed(connection: Connection) -> None:
        told.append((connection, dict(connection.metadata)))

    connection = await connected(manager)
    await connection.update_metadata({"status": "away"})
    assert told == [(connection, {"name": "Ann", "status": "away"})]
    assert await shown(manager) == [{"name": "Ann", "status": "away"}]


async def test_metadata_stays_read_only_after_a_change() -> None:
    connection = await connected(WebSocketConnectionManager())
    await connection.update_metadata({"status": "away"})
    with pytest.raises(TypeError, match="update_metadata"):
        connection.metadata["status"] = "x"  # type: ignore[index]  # that is the mistake


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"much": "x" * 100}, MessageError),
        ({"what": object()}, MessageError),
        (["status"], MessageError),
    ],
)
async def test_change_that_is_not_allowed_at_connect_changes_nothing(
    changes: Any, error: type[Exception]
) -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        connection = await connected(first)
        with pytest.raises(error):
            await connection.update_metadata(changes)
        assert connection.metadata == {"name": "Ann", "status": "here"}
        assert await shown(second) == [{"name": "Ann", "status": "here"}]


async def test_change_counts_for_the_limits_of_memory() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(max_memory_per_connection=1000))
    connection = await connected(manager)
    before = manager.get_memory_usage()["total_memory"]
    await connection.update_metadata({"status": "x" * 100})
    assert manager.get_memory_usage()["total_memory"] >= before + 90
    with pytest.raises(MemoryLimitExceededError):
        await connection.update_metadata({"status": "x" * 2000})
    assert connection.metadata["status"] == "x" * 100


async def test_change_of_an_ended_connection_is_refused() -> None:
    connection = await connected(WebSocketConnectionManager())
    await connection.close()
    with pytest.raises(ConnectionNotFoundError):
        await connection.update_metadata({"status": "away"})


async def _lapse(cluster: MemoryCluster, manager: MemoryManager) -> None:
    await cluster.lapse(manager)


async def _flush(cluster: MemoryCluster, manager: MemoryManager) -> None:
    await cluster.flush()


@pytest.mark.parametrize("claims_again", [_lapse, _flush])
async def test_change_survives_when_the_connection_is_claimed_again(claims_again: Any) -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        connection = await connected(first)
        await connection.update_metadata({"status": "away"})
        await claims_again(cluster, first)
        assert await shown(second) == [{"name": "Ann", "status": "away"}]


async def test_claim_that_was_made_before_a_change_does_not_undo_it() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        connection = await connected(first)
        presence: Any = first.registry.state.backend.presence
        claim = presence.claim
        may_go_on = asyncio.Event()

        async def late(request: Any) -> Any:
            await may_go_on.wait()
            return await claim(request)

        presence.claim = late
        claiming = asyncio.create_task(first.registry.claims.enter(connection))
        await asyncio.sleep(0)
        await connection.update_metadata({"status": "away"})
        may_go_on.set()
        await claiming
        assert await shown(second) == [{"name": "Ann", "status": "away"}]


async def test_change_while_redis_is_away_is_shown_when_it_is_back() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        connection = await connected(first)
        cluster.cut(first)
        await connection.update_metadata({"status": "away"})
        assert await shown(second) == [{"name": "Ann", "status": "here"}]
        await cluster.mend(first)
        assert await shown(second) == [{"name": "Ann", "status": "away"}]


async def test_concurrent_changes_are_merged() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        connection = await connected(first)
        await asyncio.gather(*(connection.update_metadata({f"key{n}": n}) for n in range(5)))
        assert await shown(second) == [{"name": "Ann", "status": "here", **{f"key{n}": n for n in range(5)}}]
