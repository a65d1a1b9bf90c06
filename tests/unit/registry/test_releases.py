"""The end of a connection reaches the registry and the application, whatever else happens at that moment."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fastapi_websocket_stabilizer import BackendUnavailableError, History, PresenceEvent, WebSocketConfig
from fastapi_websocket_stabilizer.backends.ports import IndexEntry
from fastapi_websocket_stabilizer.names import ConnectionId
from fastapi_websocket_stabilizer.sessions.sessions import Sessions
from fastapi_websocket_stabilizer.testing import FakeWebSocket, MemoryCluster, MemoryManager
from fastapi_websocket_stabilizer.testing.cluster import LAPSED
from tests.support.waiting import eventually
from tests.unit.registry.sessions import connect, kept_rooms

QUIET = WebSocketConfig(log_level="CRITICAL", renew_interval_s=0.01, redis_timeout_s=0.01)


class Told:
    """What managers report to their applications."""

    def __init__(self, *managers: MemoryManager) -> None:
        self.events: list[PresenceEvent] = []
        for manager in managers:
            manager.on_presence(self.events.append)

    def __getitem__(self, kind: str) -> list[str]:
        """Return the names of the visits and stays of which this was reported."""
        found = [event for event in self.events if event.kind == kind]
        return [event.event_id.partition(f":{kind.removeprefix('room_')}")[0] for event in found]


def held_back(owner: object, part: str, method: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold back the calls of a method of a part; return events that one has come, and to let all go on."""
    came, goes_on = asyncio.Event(), asyncio.Event()
    ports: Any = getattr(owner, part)
    call: Callable[..., Any] = getattr(ports, method)

    async def wait(*args: Any, **named: Any) -> Any:
        came.set()
        await goes_on.wait()
        return await call(*args, **named)

    setattr(ports, method, wait)
    return came, goes_on


def answers_get_lost(manager: MemoryManager, port: str, method: str) -> Callable[[], None]:
    """Lose the answers of a method of the backend from now on, until the result is called."""
    ports: Any = getattr(manager.link, port)
    call: Callable[..., Any] = getattr(ports, method)

    async def lose(*args: Any, **named: Any) -> Any:
        await call(*args, **named)
        raise BackendUnavailableError("no answer")

    setattr(ports, method, lose)
    return lambda: delattr(ports, method)


async def test_connection_that_ends_before_its_first_frame_while_redis_is_away_is_released_later() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        told = Told(first, second)
        old = await connect(first, "s1")
        await old.connection.join("lobby")
        new = await connect(second, "s2", "s1", begins=False)
        cluster.cut(second)
        await new.connection.close()
        await old.connection.close()
        await cluster.mend(second)
        await cluster.beat()
        assert [client.client_id async for client in first.clients()] == []
        assert told["left"] == told["joined"]
        assert await kept_rooms(cluster, "s1") == {"lobby"}


async def test_connections_that_have_ended_do_not_wait_for_the_return_of_redis() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        cluster.cut(manager)
        await manager.beat()
        ended = []
        for number in range(5):
            client = await connect(manager, f"s{number}", client_id=f"client-{number}")
            manager.registry.keeping.mark(client.connection, 1)
            await cluster.quiet()
            await client.connection.close()
            manager.registry.keeping.mark(client.connection, 2)  # the handler has ended its connection
            await cluster.quiet()
            ended.append(client.connection)
        reclaims, none = manager.registry.connections.reclaims, ConnectionId("not queued")
        assert {reclaims.known_id(connection, none) for connection in ended} == {none}
        assert manager.statistics().sessions_unwritten == 0
        await cluster.mend(manager)
        assert manager.link.hub.index == {}


async def test_end_without_redis_that_then_lost_its_content_is_reported() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        told = Told(manager)
        connection = await manager.connect("ann", FakeWebSocket())
        await connection.join("lobby")
        cluster.cut(manager)
        await manager.beat()
        manager.registry.connections.reclaims.again(connection)  # as a join without Redis does
        await connection.close()
        manager.link.hub.restart_empty()
        await cluster.mend(manager)
        assert (told["left"], told["room_left"]) == (told["joined"], told["room_joined"])


@pytest.mark.parametrize("policy", ["degrade", "refuse"])
@pytest.mark.parametrize("outcome", ["done", "lost", "cancelled"])
async def test_room_that_is_being_joined_when_the_connection_ends_is_left(policy: Any, outcome: str) -> None:
    config = WebSocketConfig(
        log_level="CRITICAL", renew_interval_s=0.01, redis_timeout_s=0.01, on_backend_loss=policy
    )
    async with MemoryCluster(1, config) as cluster:
        (manager,) = cluster.managers
        told = Told(manager)
        connection = await manager.connect("ann", FakeWebSocket())
        came, goes_on = held_back(manager.link, "rooms", "join")
        joining = asyncio.create_task(connection.join("lobby"))
        await came.wait()
        await connection.close()
        place = IndexEntry(connection.connection_id, "ann", "lobby", 1)
        rooms = manager.link.hub.rooms
        manager.link.hub.rooms.setdefault("lobby", {})[connection.connection_id] = place  # it was carried out
        manager.link.hub.unreported[place.event("joined")] = ""
        if outcome == "done":
            goes_on.set()
        elif outcome == "lost":
            cluster.cut(manager)
            goes_on.set()
        else:
            for task in asyncio.all_tasks():
                if task.get_name() == "join":
                    task.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        await cluster.mend(manager)
        assert rooms == {}
        assert told["room_left"] == told["room_joined"]


async def test_index_has_the_room_of_an_ended_connection_until_it_is_left() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        connection = await manager.connect("ann", FakeWebSocket())
        hub, place = manager.link.hub, IndexEntry(connection.connection_id, "ann", "lobby", 1)
        came, goes_on = held_back(manager.link, "rooms", "join")
        joining = asyncio.create_task(connection.join("lobby"))
        await came.wait()
        # The index is written before the room, in a cluster by a command of its own.
        hub.index[manager.registry.state.node_id][place] = None
        await connection.close()
        assert place in hub.index[manager.registry.state.node_id]
        goes_on.set()
        await joining
        await cluster.quiet()
        assert (hub.rooms, hub.index) == ({}, {})


async def test_room_is_left_if_the_connection_ends_while_it_is_fed_from_the_log() -> None:
    async with MemoryCluster(1, replace(QUIET, history={"": History()})) as cluster:
        (manager,) = cluster.managers
        told = Told(manager)
        newcomer = Sessions(manager.registry, lambda _: None).newcomer(None)
        connections = manager.registry.connections
        connection = await connections.connect(
            "ann", FakeWebSocket(), None, None, session=newcomer.record, open_session=newcomer.open_session
        )
        came, goes_on = held_back(manager.registry, "history", "attach")
        joining = asyncio.create_task(connection.join("lobby"))
        await came.wait()
        await connection.close()
        goes_on.set()
        await joining
        await cluster.quiet()
        assert (manager.link.hub.rooms, manager.link.hub.index) == ({}, {})
        assert told["room_left"] == told["room_joined"]


async def test_connection_that_has_ended_is_not_entered_in_a_room_any_more() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        connection = await manager.connect("ann", FakeWebSocket())
        came, goes_on = held_back(manager.link, "bus", "subscribe_room")
        came_to_join, _ = held_back(manager.link, "rooms", "join")
        joining = asyncio.create_task(connection.join("lobby"))
        await came.wait()
        await connection.close()
        goes_on.set()
        await joining
        assert not came_to_join.is_set()


@pytest.mark.parametrize("room", ["lobby", "shown-1"])
async def test_stay_that_went_on_after_a_loss_has_one_name_for_the_sweep_and_for_its_node(room: str) -> None:
    config = replace(QUIET, client_presence=("shown-",))
    async with MemoryCluster(2, config) as cluster:
        first, second = cluster.managers
        told = Told(first, second)
        connections = [await first.connect(client, FakeWebSocket()) for client in ("ann", "bob")]
        for connection in connections:
            await connection.join(room)
        await cluster.flush()  # and both have other ids
        _, _ = held_back(
            first.link, "presence", "reported"
        )  # Redis never learns that the node has reported it
        leaving = asyncio.create_task(connections[0].leave(room))
        await eventually(lambda: bool(told["room_left"]), what="the node has reported it")
        await cluster.kill(first)
        leaving.cancel()
        assert sorted(set(told["room_left"])) == sorted(told["room_joined"])


async def test_end_that_a_failed_sweep_has_noted_is_reported_although_the_client_is_back() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        told = Told(first, second)
        connection = await first.connect("ann", FakeWebSocket())
        await connection.join("lobby")
        node_id, hub = first.registry.state.node_id, first.link.hub
        hub.leases[node_id] = LAPSED
        sweep = second.registry.recovery.sweeper.sweep
        for port, method in (("rooms", "leave"), ("presence", "release")):
            goes_on = answers_get_lost(second, port, method)
            with pytest.raises(BackendUnavailableError):
                await sweep(node_id)
            goes_on()
            hub.fences[node_id] = LAPSED
        hub.fences[node_id] = hub.now_ms() + 60_000
        await first.beat()
        await cluster.quiet()
        assert connection.connection_id in hub.clients["ann"]
        hub.fences[node_id] = LAPSED
        await sweep(node_id)
        await connection.close()
        assert sorted(told["left"]) == sorted(told["joined"])
        assert sorted(told["room_left"]) == sorted(told["room_joined"])
        assert len(told["joined"]) == len(told["room_joined"]) == 2


async def test_room_is_not_entered_again_under_the_id_that_was_swept_during_a_freeze() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        told = Told(first, second)
        connection = await first.connect("ann", FakeWebSocket())
        await connection.join("lobby")
        node_id, hub = first.registry.state.node_id, first.link.hub
        came, goes_on = held_back(first.link, "presence", "claim")
        reclaims = first.registry.connections.reclaims
        reclaims.again(connection)
        claiming = reclaims.run()
        await came.wait()
        hub.leases[node_id] = LAPSED
        await second.registry.recovery.sweeper.sweep(node_id)
        first.registry.lease.gate.note_beat(float("-inf"))  # the process was frozen during the sweep
        goes_on.set()
        await asyncio.gather(claiming, return_exceptions=True)
        await cluster.beat()
        await connection.close()
        assert sorted(told["room_left"]) == sorted(told["room_joined"])
        assert len(told["room_joined"]) == 2
