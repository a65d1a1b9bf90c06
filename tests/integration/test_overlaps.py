"""Operations that overlap: what one does while another waits for Redis, or after a fork, is not undone by it."""

import asyncio
import multiprocessing
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    ConnectionLimitExceededError,
    PresenceEvent,
    SyncPublisher,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.redis.connection import ConnectionFactory
from tests.integration.cluster import REPLACED, Managers, Socket, counter, hears, join, keys_with, register
from tests.integration.test_faults import forget
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


async def test_a_request_to_several_nodes_arrives_while_others_are_sent(managers: Managers) -> None:
    asker, *holders = await managers.start_many(3, max_connections_per_client=2)
    for holder in holders:
        await join(holder, "alice")
        await join(holder, "bob")
    for number in range(20):
        traffic = [asker.send_to_client("bob", "hello") for _ in range(20)]
        await asyncio.gather(asker.join("alice", f"room {number}"), *traffic)
        assert await asker.room_count(f"room {number}") == 2


async def test_whoever_joins_again_while_an_earlier_join_is_under_way_is_in_the_room(
    managers: Managers,
) -> None:
    node = await managers.start()
    socket = Socket()
    connection = await register(node, "alice", socket)
    await asyncio.gather(connection.join("room"), connection.leave("room"), connection.join("room"))
    await node.broadcast("hello", room="room")
    await hears(socket, "hello")
    assert await node.room_count("room") == 1


async def test_a_room_left_and_entered_again_is_not_a_loss(managers: Managers) -> None:
    node, speaker = await managers.start_many(2)
    connection = await register(node, "alice")
    for _ in range(3):
        await connection.join("room")
        await speaker.broadcast("hello", room="room")
        await connection.leave("room")
        await speaker.broadcast("nobody hears this", room="room")
    assert counter(node, "bus_lost") == 0


async def test_what_is_sent_after_a_cancelled_broadcast_stays_behind_it(managers: Managers) -> None:
    node = await managers.start()
    socket = await join(node, "alice")
    for number in range(20):
        call = asyncio.create_task(node.broadcast(f"broadcast {number}"))
        await asyncio.sleep(0)
        call.cancel()
        await node.send_to_client("alice", f"direct {number}")
    await hears(socket, *(f"{kind} {number}" for number in range(20) for kind in ("broadcast", "direct")))


async def test_rooms_are_not_left_by_a_lapsed_lease(own_managers: Managers, server: RedisServer) -> None:
    node = await own_managers.start()
    events: list[PresenceEvent] = []
    connection = await register(node, "alice")
    await connection.join("room")
    node.on_presence(events.append)
    former = node.statistics().node_id
    forget(server, former)
    await eventually(lambda: not keys_with(server.url, former), what="the former id is swept")
    assert [event.kind for event in events if event.kind.endswith("left")] == []
    assert await node.room_count("room") == 1


async def test_a_room_left_while_it_is_claimed_again_is_left(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start()
    connections = [await register(node, f"client {number}") for number in range(50)]
    await asyncio.gather(*(connection.join("room") for connection in connections))
    forget(server, node.statistics().node_id)
    await eventually(lambda: counter(node, "leases_refused") == 1)
    await asyncio.gather(*(connection.leave("room") for connection in connections))

    async def is_empty() -> bool:
        return not (await node.room_members("room", limit=100)).members and await node.room_count("room") == 0

    await eventually(is_empty, what="nobody is listed")


async def test_a_client_that_replaces_itself_needs_no_place_of_its_own(managers: Managers) -> None:
    node = await managers.start(max_connections=1)
    old = Socket()
    await register(node, "alice", old)
    await register(node, "alice")
    assert old.closed_with == REPLACED


async def test_several_sockets_of_one_client_each_need_a_place(managers: Managers) -> None:
    node = await managers.start(max_connections=2, max_connections_per_client=10)
    await register(node, "alice")
    await register(node, "alice")
    with pytest.raises(ConnectionLimitExceededError):
        await register(node, "alice")


async def test_a_small_message_limit_does_not_stop_the_heartbeat() -> None:
    config = WebSocketConfig(heartbeat_interval=0.05, heartbeat_timeout=0.1, max_message_size=8)
    async with WebSocketConnectionManager(config) as manager:
        socket: Any = Socket()
        await manager.connect("alice", socket)
        await eventually(lambda: socket.closed_with is not None, what="the silent client is closed")
        assert manager.statistics().counters["heartbeat_timeouts"] == 1


def _publish(publisher: SyncPublisher, answers: Any) -> None:
    answers.put(publisher.send_to_client("alice", "from a child"))


@pytest.mark.filterwarnings(
    "ignore:.*multi-threaded:DeprecationWarning"
)  # Python 3.12 and newer, of any fork here
async def test_a_publisher_works_in_every_fork(managers: Managers) -> None:
    node = await managers.start()
    socket = await join(node, "alice")
    fork = multiprocessing.get_context("fork")
    with SyncPublisher(managers.url, namespace=managers.namespace) as publisher:
        await asyncio.to_thread(publisher.send_to_client, "alice", "from the parent")
        answers = fork.Queue()
        children = [fork.Process(target=_publish, args=(publisher, answers)) for _ in range(3)]
        for child in children:
            child.start()
        assert [await asyncio.to_thread(answers.get, timeout=10) for _ in children] == [True] * 3
        for child in children:
            await asyncio.to_thread(child.join, 10)
    await hears(socket, "from the parent", *["from a child"] * 3)


@pytest.mark.filterwarnings(
    "ignore:.*multi-threaded:DeprecationWarning"
)  # Python 3.12 and newer, of any fork here
def test_a_publisher_can_be_closed_in_a_fork_that_was_made_while_it_published() -> None:
    publisher = SyncPublisher("redis+cluster://127.0.0.1:1")
    assert publisher._thread is not None
    with publisher._thread._lock:
        child = multiprocessing.get_context("fork").Process(target=publisher.close)
        child.start()
    child.join(10)
    ended = child.exitcode
    child.kill()
    assert ended == 0


async def test_a_node_id_is_made_when_the_node_starts(managers: Managers) -> None:
    manager = managers.make()  # before a fork, as gunicorn --preload does
    inherited = manager.statistics().node_id
    await manager.start()
    assert manager.statistics().node_id != inherited
    await manager.graceful_shutdown()


async def test_a_broadcast_ends_when_the_bus_is_deaf_and_commands_work(
    own_managers: Managers, server: RedisServer
) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        node = own_managers.make(redis_timeout_s=0.5)
        backend: Any = node._registry.state.backend
        backend._subscriber._factory = ConnectionFactory(f"redis://127.0.0.1:{proxy.port}", 0.5)
        await node.start()
        await register(node, "alice")
        proxy.blackhole()
        async with asyncio.timeout(3):
            result = await node.broadcast("into the void")
        assert (result.heard, result.nodes, result.succeeded) == (False, 1, 0)
        assert counter(node, "broadcasts_unheard") == 1
        proxy.cut()
        proxy.resume()
        await node.graceful_shutdown(1.0)
