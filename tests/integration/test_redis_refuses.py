"""A Redis that answers and takes no writes: nothing is believed done that it refused, and nothing else is lost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastapi_websocket_stabilizer import BackendUnavailableError, PresenceEvent
from tests.integration.cluster import (
    Managers,
    Socket,
    client_ids,
    everyone_hears,
    join,
    keys_with,
    knows,
    register,
)
from tests.integration.test_redis_away import not_degraded
from tests.support.servers import ROWS, Missing, RedisServer, find_row
from tests.support.waiting import eventually

Refuse = Callable[[RedisServer], Iterator[None]]


def without_memory(server: RedisServer) -> Iterator[None]:
    return _configured(server, "maxmemory", "1mb", "0")


def without_replicas(server: RedisServer) -> Iterator[None]:
    return _configured(server, "min-replicas-to-write", "1", "0")


def _configured(server: RedisServer, name: str, bad: str, good: str) -> Iterator[None]:
    with server.client() as client:
        client.config_set(name, bad)
        yield
        client.config_set(name, good)


def demoted(server: RedisServer) -> Iterator[None]:
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
    yield
    server.promote()


@pytest.fixture(params=ROWS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each server that is installed: they word their refusals differently."""
    binary = find_row(request.param)
    if isinstance(binary, Missing):
        pytest.skip(binary.reason)
    assert isinstance(binary, Path)
    with RedisServer(binary) as server:
        yield server


@pytest.mark.alone
@pytest.mark.parametrize("refuse", [without_memory, without_replicas, demoted])
async def test_what_is_refused_between_two_beats_is_made_good(
    own_managers: Managers, server: RedisServer, refuse: Refuse
) -> None:
    """The next beat is far away, and the lease is held through all of it: nobody claims anything again."""
    node = await own_managers.start(lease_ttl_s=30.0, renew_interval_s=10.0)
    near = await own_managers.start()
    events: list[PresenceEvent] = []
    node.on_presence(events.append)
    for client_id in ("goes", "leaves", "stays"):
        await (await register(node, client_id)).join("room")
    other = await join(near, "other", "room")
    new = Socket()
    with contextmanager(refuse)(server):
        await node.disconnect("goes")
        await node.leave("leaves", "room")
        await (await register(node, "new", new)).join("room")
        with pytest.raises(BackendUnavailableError):
            await node.issue_reconnect_token("stays")
        assert await node.send_to_client("stays", "local")
    node._registry.lease.hurry()

    async def is_whole() -> bool:
        assert await client_ids(near) == {"leaves", "stays", "new", "other"}
        members = (await near.room_members("room")).members
        assert sorted(member.client_id for member in members) == ["new", "other", "stays"]
        return await near.room_count("room") == 3 and await not_degraded(near)

    await eventually(is_whole, 10)
    assert not await near.is_connected("goes")
    await near.broadcast("hello", room="room")
    await everyone_hears([new, other], "hello")
    await eventually(
        lambda: [(e.kind, e.room) for e in events if e.client_id == "goes"][-1:] == [("left", None)]
    )
    assert [e.kind for e in events if e.client_id == "leaves"] == ["joined", "room_joined", "room_left"]
    await own_managers.close()
    assert not keys_with(server.url, node.statistics().node_id)
    assert [key for key in keys_with(server.url, "room") if ":revoked:" not in key] == []


@pytest.mark.alone
@pytest.mark.parametrize("refuse", [without_memory, without_replicas, demoted])
async def test_a_node_starts_all_the_same_and_joins_the_others_later(
    own_managers: Managers, server: RedisServer, refuse: Refuse
) -> None:
    """On an empty server: not even the secret of the tokens is there."""
    with contextmanager(refuse)(server):
        with pytest.raises(BackendUnavailableError):
            await own_managers.start(on_backend_loss="refuse")
        nodes = await own_managers.start_many(2)
        early = await join(nodes[0], "early", "room")
        with pytest.raises(BackendUnavailableError):
            await nodes[0].issue_reconnect_token("early")
        assert (await nodes[0].broadcast("alone", room="room")).nodes == 1
    for node in nodes:
        await eventually(lambda node=node: not_degraded(node))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    await knows(nodes[1], "early")
    await nodes[1].broadcast("together", room="room")
    await everyone_hears([early], "alone", "together")
    token = await nodes[0].issue_reconnect_token("early")
    assert await nodes[1].validate_reconnect_token(token) == "early"
