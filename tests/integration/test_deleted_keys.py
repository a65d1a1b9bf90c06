"""Single keys are deleted in Redis, and nothing else: the registry is whole again by itself."""

import logging

import pytest

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from fastapi_websocket_stabilizer.backends.redis import connection
from fastapi_websocket_stabilizer.registry import inspection
from fastapi_websocket_stabilizer.runtime.logs import Occasionally
from tests.integration.cluster import Managers, counter, everyone_hears, first_row, join, knows
from tests.integration.test_faults import count_is
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

NAMES = [f"client {number}" for number in range(20)]


async def is_whole(nodes: list[WebSocketConnectionManager], server: RedisServer) -> None:
    """Wait until every client and member is listed, and the index is what a sweep needs."""
    for node in nodes:
        await knows(node, *NAMES)
        await eventually(lambda n=node: count_is(n, "room", len(NAMES)))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        await eventually(lambda n=node: has_members(n))  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def is_indexed() -> bool:
        with server.client() as client:
            for name in ("connections", "memberships"):
                keys = [*client.scan_iter(f"*:{name}", count=10_000)]
                assert sum(client.hlen(key) for key in keys) == len(NAMES), name
        return True

    await eventually(is_indexed)


async def has_members(node: WebSocketConnectionManager) -> bool:
    page = await node.room_members("room")
    return sorted(member.client_id for member in page.members) == sorted(NAMES)


@pytest.mark.parametrize(
    "pattern", ["*:client:*", "*:room:*", "*:connections", "*:memberships", "*:client:client 7"]
)
async def test_keys_that_are_deleted_alone_are_written_again(
    own_managers: Managers, server: RedisServer, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "PER_BEAT", 4)  # so that a round takes several beats
    nodes = await own_managers.start_many(2)
    sockets = [await join(nodes[number % 2], name, "room") for number, name in enumerate(NAMES)]
    await is_whole(nodes, server)
    with server.client() as client:
        client.delete(*client.scan_iter(pattern, count=10_000))
    await is_whole(nodes, server)
    assert await nodes[0].send_to_clients(NAMES, "hello") == len(NAMES)
    await everyone_hears(sockets, "hello")
    assert all(socket.is_open for socket in sockets)
    assert sum(counter(node, "entries_repaired") for node in nodes) > 0


async def test_an_eviction_policy_is_warned_of_at_the_start(
    managers: Managers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_evicting", Occasionally(logging.getLogger(connection.__name__)))
    arguments = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with RedisServer(first_row(), arguments=arguments) as evicting:
        evicted = Managers(evicting.url, managers.namespace)
        await evicted.start()
        await evicted.close()
    texts = [record.getMessage() for record in caplog.records if "evicts keys" in record.getMessage()]
    assert len(texts) == 1
    assert "maxmemory-policy allkeys-lru, maxmemory 104857600" in texts[0]
    caplog.clear()
    await managers.start()
    assert "evicts keys" not in caplog.text
