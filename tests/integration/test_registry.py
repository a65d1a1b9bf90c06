"""The main job: any replica reaches any client, and everybody agrees who is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_websocket_stabilizer import (
    BroadcastFailedError,
    Connection,
    ConnectionLimitExceededError,
    ConnectionNotFoundError,
    InvalidNameError,
    InvalidTokenError,
    NotStartedError,
    PresenceEvent,
    Publisher,
    RoomMember,
    ShutdownError,
    SyncPublisher,
    WebSocketConnectionManager,
)
from tests.integration.cluster import (
    REPLACED,
    Managers,
    RemoteError,
    Replica,
    Socket,
    StalledSocket,
    counter,
    everyone_hears,
    hears,
    join,
    knows,
    register,
)
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

# Messages


class Greeting(BaseModel):
    text: str


MESSAGES = ["text", "ä 🦊", b"\x00\xff", {"a": [1, None]}, [1, "two"], Greeting(text="hi")]
AS_RECEIVED = ["text", "ä 🦊", b"\x00\xff", {"a": [1, None]}, [1, "two"], {"text": "hi"}]


async def test_every_kind_of_message_arrives_the_same_here_and_elsewhere(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    sockets = [await join(here, "alice"), await join(there, "bob")]
    for message in MESSAGES:
        assert await here.send_to_clients(["alice", "bob"], message) == 2  # type: ignore[arg-type]  # a list of all kinds
    await everyone_hears(sockets, *AS_RECEIVED)


async def test_a_send_to_nobody_is_false_and_counted(managers: Managers) -> None:
    node = await managers.start()
    assert not await node.send_to_client("nobody", "hello")
    assert counter(node, "sends_unreachable") == 1


async def test_a_send_to_several_says_how_many_took_it(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    sockets = [await join(there, f"client {number}") for number in range(1_100)]
    names = [f"client {number}" for number in range(1_100)]
    assert await here.send_to_clients([*names, "nobody", *names[:3]], "hello") == 1_100
    await everyone_hears(sockets, "hello")


async def test_a_confirmed_send_is_true_once_it_was_written(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    bob = await join(there, "bob")
    assert await here.send_to_client("bob", "hello", confirm=2.0)
    assert bob.received == ["hello"]
    assert not await here.send_to_client("nobody", "hello", confirm=2.0)


async def test_a_confirmed_send_to_a_stalled_peer_is_false(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    await register(there, "bob", StalledSocket())
    assert not await here.send_to_client("bob", "hello", confirm=0.2)
    assert counter(here, "confirmations_missing") == 1


async def test_a_broadcast_reaches_every_node_and_counts_the_own_sockets(managers: Managers) -> None:
    nodes = await managers.start_many(3)
    sockets = [await join(nodes[number % 3], f"client {number}") for number in range(9)]
    result = await nodes[0].broadcast("hello")
    assert (result.total, result.succeeded, result.nodes, result.heard) == (3, 3, 3, True)
    await everyone_hears(sockets, "hello")


async def test_a_broadcast_leaves_out_whom_it_excludes_wherever_they_are(managers: Managers) -> None:
    nodes = await managers.start_many(3)
    sockets = [await join(nodes[number % 3], f"client {number}") for number in range(6)]
    await nodes[0].broadcast("but one", exclude_client="client 1")
    await nodes[0].broadcast("but two", exclude_client=["client 2", "client 3"])
    await nodes[0].broadcast("all")
    await everyone_hears(sockets[4:], "but one", "but two", "all")
    await hears(sockets[1], "but two", "all")
    await everyone_hears(sockets[2:4], "but one", "all")


async def test_a_broadcast_leaves_out_single_connections_wherever_they_are(managers: Managers) -> None:
    nodes = await managers.start_many(2, max_connections_per_client=2)
    sockets = [Socket() for _ in range(4)]
    ann_here, ann_there, _, bob_there = [
        await register(nodes[number % 2], client_id, sockets[number])
        for number, client_id in enumerate(("ann", "ann", "bob", "bob"))
    ]
    for connection in (ann_here, ann_there, bob_there):
        await connection.join("lobby")
    await nodes[0].broadcast("to all but two", exclude_connection=[ann_here, bob_there.connection_id])
    await nodes[0].broadcast("to the room but one", room="lobby", exclude_connection=ann_there)
    result = await nodes[1].broadcast(
        "counted", exclude_connection=ann_here, exclude_client="bob", confirm=2.0
    )
    assert (result.total, result.succeeded, result.missing) == (4, 1, [])
    await nodes[0].broadcast("to all")
    await hears(sockets[0], "to the room but one", "to all")
    await hears(sockets[1], "to all but two", "counted", "to all")
    await hears(sockets[2], "to all but two", "to all")
    await hears(sockets[3], "to the room but one", "to all")
    with pytest.raises(InvalidNameError, match="exclude_connection must be a Connection"):
        await nodes[0].broadcast("to all", exclude_connection=[7])  # type: ignore[list-item]  # the mistake


async def test_a_confirmed_broadcast_counts_the_sockets_of_all_nodes(managers: Managers) -> None:
    nodes = await managers.start_many(3)
    for number in range(9):
        await join(nodes[number % 3], f"client {number}")
    result = await nodes[0].broadcast("hello", exclude_client="client 1", confirm=2.0)
    assert (result.total, result.succeeded, result.failed, result.missing) == (9, 8, 0, [])


class BrokenSocket(Socket):
    async def send_text(self, data: str) -> None:
        raise RuntimeError("gone")


async def test_a_confirmed_broadcast_names_the_failures_of_other_nodes(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    await join(here, "alice")
    await register(there, "bob", BrokenSocket())
    result = await here.broadcast("hello", confirm=2.0)
    assert (result.total, result.succeeded, result.failed) == (2, 1, 1)
    assert result.errors == [("bob", "gone")]
    await knows(here, "alice")


async def test_a_confirmed_broadcast_that_fails_everywhere_is_an_error(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    await register(there, "bob", BrokenSocket())
    with pytest.raises(BroadcastFailedError):
        await here.broadcast("hello", confirm=2.0)


# Rooms


async def test_a_room_is_heard_by_its_members_on_every_node_and_by_nobody_else(managers: Managers) -> None:
    nodes = await managers.start_many(3)
    inside = [await join(node, f"in {number}", "room") for number, node in enumerate(nodes)]
    outside = [await join(node, f"out {number}") for number, node in enumerate(nodes)]
    await nodes[0].broadcast("to the room", room="room")
    await nodes[0].broadcast("to all")
    await everyone_hears(inside, "to the room", "to all")
    await everyone_hears(outside, "to all")


async def test_who_is_in_several_addressed_rooms_hears_once(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    both, one = await join(there, "both", "a", "b"), await join(there, "one", "b")
    neither = await join(there, "neither", "c")
    await here.broadcast("to rooms", room=["a", "b", "a"])
    await here.broadcast("to all")
    await everyone_hears([both, one], "to rooms", "to all")
    await hears(neither, "to all")


async def test_no_room_is_nobody(managers: Managers) -> None:
    node = await managers.start()
    alice = await join(node, "alice")
    assert (await node.broadcast("hello", room=[])).total == 0
    assert alice.received == []


async def test_a_broadcast_to_a_room_without_own_members_says_so(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    bob = await join(there, "bob", "room")
    result = await here.broadcast("hello", room="room")
    assert (result.total, result.nodes, result.heard) == (0, 1, False)
    await hears(bob, "hello")


async def test_a_client_joins_and_leaves_by_a_call_on_another_node(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    bob = await join(there, "bob")
    await here.join("bob", "room")
    await here.broadcast("heard", room="room")
    await here.leave("bob", "room")
    await here.broadcast("not heard", room="room")
    await here.broadcast("all")
    await hears(bob, "heard", "all")
    assert await here.room_count("room") == 0


async def test_joining_or_leaving_twice_changes_nothing(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    await join(there, "bob")
    for _ in range(2):
        await here.join("bob", "room")
    assert await here.room_count("room") == 1
    for _ in range(2):
        await here.leave("bob", "room")
    assert await here.room_count("room") == 0


async def test_the_limit_of_rooms_is_told_to_a_caller_on_another_node(managers: Managers) -> None:
    here, there = await managers.start_many(2, max_rooms_per_connection=1)
    await join(there, "bob", "room")
    with pytest.raises(ConnectionLimitExceededError, match="max_rooms_per_connection is 1") as caught:
        await here.join("bob", "another")
    assert (caught.value.scope, caught.value.limit, caught.value.current) == ("rooms", 1, 1)


@pytest.mark.parametrize("method", ["join", "leave", "disconnect"])
async def test_nothing_can_be_done_with_a_client_that_is_not_connected(
    managers: Managers, method: str
) -> None:
    node = await managers.start()
    arguments = [] if method == "disconnect" else ["room"]
    with pytest.raises(ConnectionNotFoundError, match="'nobody' is not connected"):
        await getattr(node, method)("nobody", *arguments)


async def test_one_of_a_clients_connections_is_closed_wherever_it_is(managers: Managers) -> None:
    here, there = await managers.start_many(2, max_connections_per_client=3)
    sockets = [Socket(), Socket(), Socket()]
    first, second, third = [
        await register(node, "bob", socket)
        for node, socket in zip((here, there, there), sockets, strict=True)
    ]
    await here.disconnect("bob", 4001, "kicked", connection_id=second.connection_id)
    assert [socket.closed_with for socket in sockets] == [None, (4001, "kicked"), None]
    await here.disconnect("bob", connection_id=first.connection_id)
    assert [socket.is_open for socket in sockets] == [False, False, True]
    with pytest.raises(ConnectionNotFoundError, match="client 'bob' has no connection"):
        await here.disconnect("bob", connection_id=second.connection_id)
    assert [entry.connection_id for entry in await here.presence("bob")] == [third.connection_id]


async def test_a_client_is_disconnected_by_a_call_on_another_node(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    bob = await join(there, "bob", "room")
    await here.disconnect("bob", code=4001, reason="kicked")
    assert bob.closed_with == (4001, "kicked")
    assert not await here.is_connected("bob")
    assert await here.room_count("room") == 0


async def test_pages_of_a_room_hold_every_member_with_its_client_and_node(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    connections = [await register(there, f"client {number}") for number in range(700)]
    await asyncio.gather(*(connection.join("room") for connection in connections))
    node_id = there.statistics().node_id
    wanted = {RoomMember(c.client_id, c.connection_id, node_id) for c in connections}  # type: ignore[arg-type]  # a NodeId is a str here
    found: set[RoomMember] = set()
    cursor, is_over = None, False
    while not is_over:
        page = await here.room_members("room", limit=100, cursor=cursor)
        assert len(page) <= 100
        found |= set(page)
        cursor = page.cursor
        is_over = cursor is None
    assert found == wanted
    assert await here.room_count("room") == 700


# Who is there


async def test_presence_says_where_a_client_is_since_when_and_with_what_metadata(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    connection = await register(there, "bob", name="Bob", tags=["a"])
    (entry,) = await here.presence("bob")
    assert (entry.client_id, entry.connection_id) == ("bob", connection.connection_id)
    assert entry.node == there.statistics().node_id
    assert entry.metadata == {"name": "Bob", "tags": ["a"]}
    assert entry.since == connection.since


async def test_everybody_lists_the_same_clients_nodes_and_counts(managers: Managers) -> None:
    nodes = [await managers.start(node_name=f"node {number}") for number in range(3)]
    for number in range(30):
        await register(nodes[number % 3], f"client {number}")
    for node in nodes:
        await knows(node, *(f"client {number}" for number in range(30)))
        assert {info.name for info in await node.nodes()} == {"node 0", "node 1", "node 2"}
        assert [info.connections for info in await node.nodes()] == [10, 10, 10]
        assert await node.cluster_connection_count() == 30


async def test_the_clients_of_one_node_can_be_listed(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    await register(here, "alice")
    await register(there, "bob")
    found = [entry.client_id async for entry in here.clients(there.statistics().node_id)]
    assert found == ["bob"]


async def test_a_new_node_is_known_at_once(managers: Managers) -> None:
    first = await managers.start(lease_ttl_s=30, renew_interval_s=10)
    second = await managers.start(lease_ttl_s=30, renew_interval_s=10)
    await register(second, "bob")
    assert await first.is_connected("bob")


# Several sockets of one client


async def test_a_client_moves_to_the_node_where_it_connected_last(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    old = await join(here, "alice")
    new = await join(there, "alice")
    await eventually(lambda: old.closed_with == REPLACED)
    await here.send_to_client("alice", "hello")
    await hears(new, "hello")
    assert old.received == []


async def test_a_client_may_have_several_sockets_that_all_hear(managers: Managers) -> None:
    nodes = await managers.start_many(3, max_connections_per_client=2)
    sockets = [await join(node, "alice") for node in nodes]
    await eventually(lambda: sockets[0].closed_with == REPLACED)
    assert len(await nodes[0].presence("alice")) == 2
    assert await nodes[0].send_to_client("alice", "hello")
    await everyone_hears(sockets[1:], "hello")
    await nodes[0].disconnect("alice")
    assert [socket.is_open for socket in sockets] == [False] * 3


async def test_a_client_may_exceed_a_full_node_by_one_socket_while_its_claims_wait(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start(max_connections=10, redis_timeout_s=20.0, lease_ttl_s=60.0)
    sockets = [await join(node, f"client {number}") for number in range(10)]
    server.freeze()
    calls = [asyncio.create_task(register(node, "client 0")) for _ in range(100)]
    await eventually(lambda: sum(call.done() for call in calls) == 99)
    refusals = {type(call.exception()) for call in calls if call.done()}
    assert refusals == {ConnectionLimitExceededError}
    assert node.get_connection_count() == 11
    server.thaw()
    await asyncio.wait(calls)
    assert [call.exception() for call in calls].count(None) == 1
    await eventually(lambda: sockets[0].closed_with == REPLACED)
    assert node.get_connection_count() == 10


async def test_one_socket_too_many_is_refused_under_reject(managers: Managers) -> None:
    here, there = await managers.start_many(2, on_client_overflow="reject")
    old = await join(here, "alice")
    with pytest.raises(ConnectionLimitExceededError, match="max_connections_per_client is 1") as caught:
        await register(there, "alice")
    assert (caught.value.scope, caught.value.limit, caught.value.current) == ("client", 1, 1)
    assert old.is_open
    await here.disconnect("alice")
    await register(there, "alice")
    await knows(here, "alice")


async def test_simultaneous_sockets_under_reject_leave_one(managers: Managers) -> None:
    nodes = await managers.start_many(3, on_client_overflow="reject")
    calls = [register(nodes[number % 3], "alice") for number in range(9)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, Connection) for answer in answers) == 1
    assert sum(node.get_connection_count() for node in nodes) == 1


# Tokens


async def test_a_token_of_one_node_is_redeemed_on_another_once(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    token = await here.issue_reconnect_token("a.li:ce {*}")
    assert await there.validate_reconnect_token(token) == "a.li:ce {*}"
    with pytest.raises(InvalidTokenError, match="already used"):
        await here.validate_reconnect_token(token)


async def test_a_token_made_without_waiting_is_redeemed_elsewhere(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    token = here.generate_reconnect_token("alice")

    async def redeemed() -> str | None:
        return await there.validate_reconnect_token(token)

    assert await eventually(redeemed) == "alice"


async def test_a_token_outlives_the_node_that_issued_it(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    token = await here.issue_reconnect_token("alice")
    await here.graceful_shutdown()
    assert await there.validate_reconnect_token(token) == "alice"


async def test_nodes_with_the_same_configured_secret_read_each_others_tokens(managers: Managers) -> None:
    here, there = await managers.start_many(2, token_secret="0123456789abcdef")
    assert await there.validate_reconnect_token(await here.issue_reconnect_token("alice")) == "alice"


# Hooks


def note_events(*nodes: WebSocketConnectionManager) -> list[PresenceEvent]:
    events: list[PresenceEvent] = []
    for node in nodes:
        node.on_presence(events.append)
    return events


async def test_each_presence_event_is_reported_once_in_the_whole_registry(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    events = note_events(here, there)
    await join(here, "alice", "room")
    await join(there, "alice", "room")  # takes over: still there, and in the room by another connection
    await here.leave("alice", "room")
    await eventually(lambda: counter(here, "connections_closed") == 1)
    await here.disconnect("alice")
    wanted = ["joined", "room_joined", "room_joined", "room_left", "room_left", "left"]
    await eventually(lambda: sorted(event.kind for event in events) == sorted(wanted))
    assert len({event.event_id for event in events}) == len(events)


async def test_connect_and_disconnect_hooks_run_on_the_node_of_the_socket(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    seen: list[Any] = []
    here.on_connect(lambda connection: seen.append("wrong node"))
    there.on_connect(lambda connection: seen.append(connection.client_id))
    there.on_disconnect(lambda connection, code, reason: seen.append((connection.client_id, code, reason)))
    await register(there, "bob")
    await here.disconnect("bob", 4001, "kicked")
    assert seen == ["bob", ("bob", 4001, "kicked")]


async def test_a_hook_that_fails_is_counted_and_harms_nothing(managers: Managers) -> None:
    node = await managers.start()

    def fail(_: object) -> None:
        raise RuntimeError("the application's bug")

    node.on_connect(fail)
    node.on_presence(fail)
    await register(node, "alice")
    assert counter(node, "hooks_failed") == 2
    await knows(node, "alice")


# Publishers


async def test_a_publisher_reaches_clients_rooms_and_all(managers: Managers) -> None:
    nodes = await managers.start_many(2)
    sockets = [await join(node, f"client {number}", "room") for number, node in enumerate(nodes)]
    async with Publisher(managers.url, namespace=managers.namespace) as publisher:
        assert await publisher.send_to_client("client 0", b"to one")
        assert await publisher.send_to_clients(["client 0", "client 1", "nobody"], "to two") == 2
        assert await publisher.broadcast({"to": "all"}) == 2
        assert await publisher.broadcast("to the room", room="room", exclude_client="client 1") == 2
        assert await publisher.broadcast("to rooms", room=["room", "other"]) == 2
        assert not await publisher.send_to_client("nobody", "hello")
    await hears(sockets[0], b"to one", "to two", {"to": "all"}, "to the room", "to rooms")
    await hears(sockets[1], "to two", {"to": "all"}, "to rooms")


async def test_publishers_leave_out_single_connections(managers: Managers) -> None:
    node = await managers.start(max_connections_per_client=2)
    tab, phone = Socket(), Socket()
    spared = (await register(node, "ann", tab)).connection_id
    await register(node, "ann", phone)

    def publish() -> None:
        with SyncPublisher(managers.url, namespace=managers.namespace) as publisher:
            publisher.broadcast("from a script", exclude_connection=spared)

    async with Publisher(managers.url, namespace=managers.namespace) as publisher:
        await publisher.broadcast("from a worker", exclude_connection=[spared])
        await asyncio.to_thread(publish)
        await publisher.broadcast("to all")
    await hears(tab, "to all")
    await hears(phone, "from a worker", "from a script", "to all")


async def test_publisher_of_a_namespace_without_replicas_names_it_in_the_log_once(
    managers: Managers, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    alice = await join(await managers.start(), "alice", "room")
    elsewhere = f"{namespace}-elsewhere"

    def publish(name: str) -> list[object]:
        with SyncPublisher(managers.url, namespace=name) as publisher:
            return [publisher.send_to_client("nobody", "hello"), publisher.broadcast("hello", room="empty")]

    for _ in range(2):
        async with Publisher(managers.url, namespace=managers.namespace) as publisher:
            assert not await publisher.send_to_client("nobody", "hello")
        assert await asyncio.to_thread(publish, managers.namespace) == [False, 0]
    assert caplog.messages == []
    async with Publisher(managers.url, namespace=elsewhere) as publisher:
        assert [await publisher.send_to_client("alice", "hello"), await publisher.broadcast("hello")] == [
            False,
            0,
        ]
    assert await asyncio.to_thread(publish, elsewhere) == [False, 0]
    [first, second] = caplog.messages
    assert first == second
    assert first.startswith(f"no replica is in namespace {elsewhere!r} of Redis at redis")
    assert alice.received == []


async def test_messages_of_a_publisher_arrive_in_the_order_of_its_calls(managers: Managers) -> None:
    node = await managers.start()
    alice = await join(node, "alice", "room")
    async with Publisher(managers.url, namespace=managers.namespace) as publisher:
        await publisher.send_to_client("alice", "first")
        ways: list[Callable[[str], Awaitable[object]]] = [
            lambda text: publisher.send_to_client("alice", text),
            lambda text: publisher.broadcast(text),
            lambda text: publisher.broadcast(text, room="room"),
        ]
        await asyncio.gather(*(ways[number % 3](str(number)) for number in range(300)))
    await hears(alice, "first", *map(str, range(300)))


async def test_a_sync_publisher_reaches_clients_rooms_and_all(managers: Managers) -> None:
    nodes = await managers.start_many(2)
    sockets = [await join(node, f"client {number}", "room") for number, node in enumerate(nodes)]

    def publish() -> list[object]:
        with SyncPublisher(managers.url, namespace=managers.namespace) as publisher:
            return [
                publisher.send_to_client("client 0", b"to one"),
                publisher.send_to_clients(["client 0", "client 1", "nobody"], "to two"),
                publisher.broadcast({"to": "all"}),
                publisher.broadcast("to the room", room="room", exclude_client=["client 1"]),
                publisher.broadcast("to nobody", room=[]),
            ]

    assert await asyncio.to_thread(publish) == [True, 2, 2, 2, 0]
    await hears(sockets[0], b"to one", "to two", {"to": "all"}, "to the room")
    await hears(sockets[1], "to two", {"to": "all"})


async def test_threads_may_share_a_sync_publisher(managers: Managers) -> None:
    node = await managers.start()
    alice = await join(node, "alice")
    with SyncPublisher(managers.url, namespace=managers.namespace) as publisher:

        def publish(thread: int) -> None:
            for number in range(50):
                assert publisher.send_to_client("alice", f"{thread}.{number}")

        await asyncio.gather(*(asyncio.to_thread(publish, thread) for thread in range(8)))
    await eventually(lambda: len(alice.received) == 400)
    for thread in range(8):
        mine = [text for text in alice.received if text.startswith(f"{thread}.")]
        assert mine == [f"{thread}.{number}" for number in range(50)]
    assert counter(node, "bus_lost") == counter(node, "bus_duplicates") == 0


# Several registries


async def test_namespaces_on_one_redis_do_not_disturb_each_other(managers: Managers) -> None:
    blue = Managers(managers.url, f"{managers.namespace}:blue")
    mine, theirs = await managers.start(), await blue.start()
    sockets = [await join(node, "alice", "room") for node in (mine, theirs)]
    await mine.broadcast("to all of mine")
    await mine.broadcast("to my room", room="room")
    await mine.send_to_client("alice", "to my alice")
    await theirs.broadcast("theirs")
    await hears(sockets[0], "to all of mine", "to my room", "to my alice")
    await hears(sockets[1], "theirs")
    assert await theirs.cluster_connection_count() == 1
    assert await outcome_of_foreign_token(mine, theirs) is InvalidTokenError
    await blue.close()
    assert all(socket.closed_with == wanted for socket, wanted in zip(sockets, (None, BYE), strict=True))


BYE = (1001, "server shutdown")


async def outcome_of_foreign_token(
    mine: WebSocketConnectionManager, theirs: WebSocketConnectionManager
) -> type[Exception] | None:
    try:
        await theirs.validate_reconnect_token(await mine.issue_reconnect_token("alice"))
    except InvalidTokenError as error:
        return type(error)
    return None


async def test_a_shutdown_closes_the_own_clients_only_and_start_joins_again(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    alice, bob = await join(here, "alice"), await join(there, "bob")
    report = await here.graceful_shutdown()
    assert (report.closed_count, report.failed_count, alice.closed_with) == (1, 0, BYE)
    await knows(there, "bob")
    with pytest.raises(ShutdownError):
        await register(here, "alice")
    await here.start()
    await here.send_to_client("bob", "back")
    await hears(bob, "back")
    assert len(await there.nodes()) == 2


# Real processes


async def test_real_clients_on_three_replicas_reach_each_other(replicas: list[Replica]) -> None:
    first, second, third = replicas
    async with second.client("r-alice", "r-room") as alice, third.client("r-bob", "r-room") as bob:
        await alice.greeted()
        await bob.greeted()
        assert await first.call("clients") == ["r-alice", "r-bob"]
        await eventually(lambda: members_are(first, "r-alice", "r-bob"))
        await first.call("send_to_client", client_id="r-alice", message="one")
        await first.call("broadcast", message="room", room="r-room", exclude_client="r-alice")
        await first.call("broadcast", message="all")
        await hears(alice, "registered", "one", "all")
        await hears(bob, "registered", "room", "all")
        await alice.socket.send("echo")
        await hears(alice, "registered", "one", "all", "echo")
        await first.call("disconnect", client_id="r-bob", code=4001, reason="kicked")
        await eventually(lambda: bob.closed_with == (4001, "kicked"))
        with pytest.raises(RemoteError, match="ConnectionNotFoundError"):
            await second.call("disconnect", client_id="r-bob")
        token = await second.call("issue_reconnect_token", client_id="r-bob")
        assert await third.call("validate_reconnect_token", token=token) == "r-bob"
        with pytest.raises(RemoteError, match="InvalidTokenError"):
            await first.call("validate_reconnect_token", token=token)


async def members_are(replica: Replica, *wanted: str) -> bool:
    return bool(await replica.call("room_members", room="r-room") == list(wanted))


async def test_client_is_refused_until_the_start_has_a_lease(
    own_managers: Managers, server: RedisServer
) -> None:
    """If the node died now, no sweep would find what it has entered."""
    node = own_managers.make()
    server.freeze()
    starting = asyncio.create_task(node.start())
    await eventually(lambda: node._state.loop is not None, what="the start is under way")
    with pytest.raises(NotStartedError, match=r"start\(\) has not returned yet"):
        await register(node, "ann")
    server.thaw()
    await starting
    await register(node, "ann")
