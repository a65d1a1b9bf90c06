"""The tables of this node against a model."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.local.shards import Shards
from fastapi_websocket_stabilizer.names import ConnectionId
from tests.unit.fakes import connect

CLIENTS, ROOMS = ["a", "b", "c"], ["x", "y"]


def members(shards: Shards, room: str) -> list[Connection]:
    return [c for shard in shards.shards for c in shard.rooms.get(room, {}).values()]


def assert_consistent(shards: Shards, expected: list[Connection]) -> None:
    """Every way to look a connection up says the same."""
    assert (list(shards), len(shards)) == (expected, len(expected))
    assert [shards.get(c.connection_id) for c in expected] == expected
    assert sorted(shards.client_ids()) == sorted({c.client_id for c in expected})
    for client in CLIENTS:
        of_client = [c for c in expected if c.client_id == client]
        assert shards.of_client(client) == of_client
        assert shards.has_client(client) is bool(of_client)
    for room in ROOMS:
        in_room = [c for c in expected if room in c.rooms]
        assert {id(c) for c in members(shards, room)} == {id(c) for c in in_room}
        assert shards.rooms.get(room, 0) == len(in_room)
    assert sum(len(shard.connections) for shard in shards.shards) == len(expected)
    assert all(table for shard in shards.shards for table in (*shard.clients.values(), *shard.rooms.values()))


@dataclass
class Step:
    action: str
    number: int
    client: str
    room: str


steps = st.builds(
    Step,
    st.sampled_from(["add", "remove", "rename", "join", "leave"]),
    st.integers(0, 5),
    st.sampled_from(CLIENTS),
    st.sampled_from(ROOMS),
)


@settings(max_examples=60)
@given(st.lists(steps, max_size=40), st.integers(1, 4))
async def test_tables_agree_whatever_happens(actions: list[Step], count: int) -> None:
    shards, live = Shards(count), list[Connection]()
    for step in actions:
        if step.action == "add":
            live.append(connect(step.client))
            shards.add(live[-1])
        elif live:
            connection = live[step.number % len(live)]
            do(step, shards, connection, live)
        assert_consistent(shards, live)


def do(step: Step, shards: Shards, connection: Connection, live: list[Connection]) -> None:
    match step.action:
        case "remove":
            live.remove(connection)
            assert shards.remove(connection)
            assert not shards.remove(connection)
        case "rename":
            live.append(live.pop(live.index(connection)))
            shards.rename(connection, ConnectionId(f"{connection.connection_id}+"))
        case "join":
            is_new = step.room not in connection.rooms
            assert shards.join(connection, step.room) is is_new
        case _:
            was_there = step.room in connection.rooms
            assert shards.leave(connection, step.room) is was_there


async def test_connection_is_in_the_tables_only_as_itself() -> None:
    shards, alice = Shards(4), connect("alice")
    shards.add(alice)
    assert (alice in shards, connect("alice") in shards) == (True, False)


async def test_joining_and_leaving_twice_is_once() -> None:
    shards, alice, bob = Shards(4), connect("alice"), connect("bob")
    for connection in (alice, bob):
        shards.add(connection)
    assert [shards.join(alice, "x"), shards.join(alice, "x"), shards.join(bob, "x")] == [True, False, True]
    assert shards.rooms == {"x": 2}
    assert [shards.leave(alice, "x"), shards.leave(alice, "x"), shards.rooms] == [True, False, {"x": 1}]


async def test_connection_that_is_not_here_is_not_removed() -> None:
    assert Shards(4).remove(connect()) is False


async def test_client_with_two_sockets_stays_until_the_last_is_removed() -> None:
    shards = Shards(4)
    pair = [connect("alice"), connect("alice")]
    for connection in pair:
        shards.add(connection)
    left = [(shards.remove(connection), shards.has_client("alice")) for connection in pair]
    assert left == [(True, True), (True, False)]


async def test_removed_connection_keeps_its_own_list_of_rooms() -> None:
    shards, alice = Shards(4), connect("alice")
    shards.add(alice)
    shards.join(alice, "x")
    shards.remove(alice)
    assert (alice.rooms, shards.rooms) == ({"x"}, {})


async def test_newest_connection_of_a_client_is_last() -> None:
    shards = Shards(4)
    older, newer = connect("alice"), connect("alice")
    shards.add(older)
    shards.add(newer)
    assert shards.of_client("alice") == [older, newer]


async def test_renamed_connection_is_found_by_its_new_id_only() -> None:
    shards, alice = Shards(4), connect("alice")
    shards.add(alice)
    shards.join(alice, "x")
    former = alice.connection_id
    shards.rename(alice, ConnectionId("other.1"))
    assert (shards.get(former), shards.get(ConnectionId("other.1"))) == (None, alice)
    assert members(shards, "x") == [alice]


async def test_slow_members_are_counted_apart_from_new_ones() -> None:
    shards, slow, new = Shards(1), connect("slow"), connect("new")
    (shard,) = shards.shards
    for each in (slow, new):
        shards.add(each)
        shards.join(each, "lobby")
        assert shards.is_target(each, ["other", "lobby"])
    shards.hold(slow, "lobby", is_behind=True)
    shards.hold(new, "lobby")
    shards.rename(slow, ConnectionId("other.1"))
    assert (shard.behind(["lobby"]), shard.behind([])) == (1, 0)
    assert not shards.is_target(slow, ["other", "lobby"])
    assert shards.is_target(slow, [])
    assert shards.fed("lobby") == []
    shards.release(slow, "lobby")
    assert (shard.behind(["lobby"]), shards.fed("lobby")) == (0, [slow])


async def test_tables_may_change_while_they_are_iterated() -> None:
    shards = Shards(2)
    for client in CLIENTS:
        shards.add(connect(client))
    for connection in shards:
        shards.remove(connection)
    assert len(shards) == 0


async def test_client_is_always_in_the_same_one_shard() -> None:
    shards = Shards(8)
    found = {id(shards.of("alice")) for _ in range(3)}
    assert found <= {id(shard) for shard in shards.shards}
    assert len(found) == 1
