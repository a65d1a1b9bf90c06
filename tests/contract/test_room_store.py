"""``ports.RoomStore`` on every backend."""

import pytest

from fastapi_websocket_stabilizer import InvalidCursorError
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.ports import Backend, Membership
from tests.contract.support import AWKWARD_NAMES, fill, lines, rest_of

C1, C2 = ConnectionId("n1.1"), ConnectionId("n2.1")
N1, N2 = NodeId("n1"), NodeId("n2")
MANY = 1500
"""Over every size at which a server changes how it keeps a hash (128 on Redis 7, 512 on 6.2)."""


async def test_join_tells_whether_the_connection_is_new(backend: Backend) -> None:
    assert await backend.rooms.join("lobby", "alice", C1)
    assert not await backend.rooms.join("lobby", "alice", C1)
    assert await backend.rooms.counts("lobby") == {N1: 1}


async def test_leave_tells_whether_the_connection_was_there(backend: Backend) -> None:
    await backend.rooms.join("lobby", "alice", C1)
    assert await backend.rooms.leave("lobby", C1)
    assert not await backend.rooms.leave("lobby", C1)
    assert await backend.rooms.counts("lobby") == {}


async def test_counts_are_by_node(backend: Backend) -> None:
    for connection_id in (C1, C2, ConnectionId("n1.2")):
        await backend.rooms.join("lobby", "alice", connection_id)
    await backend.rooms.leave("lobby", ConnectionId("n1.2"))
    assert await backend.rooms.counts("lobby") == {N1: 1, N2: 1}


async def test_an_empty_room_has_no_members(backend: Backend) -> None:
    assert await backend.rooms.members("nowhere", "", 10) == ([], "")
    assert await backend.rooms.counts("nowhere") == {}


async def test_a_member_is_a_connection_and_its_client(backend: Backend) -> None:
    await backend.rooms.join("lobby", "alice", C1)
    assert await backend.rooms.members("lobby", "", 10) == ([(C1, "alice")], "")


async def test_pages_of_a_small_room_hold_each_member_once(backend: Backend) -> None:
    members = await fill(backend.rooms, "lobby", range(25))
    assert sorted(await rest_of(backend.rooms, "lobby", "", 10)) == sorted(members)


async def test_pages_of_a_large_room_hold_every_member(backend: Backend) -> None:
    members = await fill(backend.rooms, "lobby", range(MANY))
    assert set(await rest_of(backend.rooms, "lobby", "", 64)) == set(members)


@pytest.mark.parametrize("cursor", ["zzz", "-1", "0x1", "9" * 20, "9" * 21])
async def test_a_cursor_of_no_page_is_refused_by_name(backend: Backend, cursor: str) -> None:
    await backend.rooms.join("lobby", "alice", C1)
    with pytest.raises(InvalidCursorError, match=f"^cursor must be page.cursor, got '{cursor}'$"):
        await backend.rooms.members("lobby", cursor, 10)


async def test_who_stays_is_on_a_page_though_others_leave_between_pages(backend: Backend) -> None:
    members = await fill(backend.rooms, "lobby", range(30))
    first, cursor = await backend.rooms.members("lobby", "", 10)
    gone = [connection_id for connection_id, _ in first]
    for connection_id in gone:
        await backend.rooms.leave("lobby", ConnectionId(connection_id))
    rest = await rest_of(backend.rooms, "lobby", cursor, 10)
    assert set(members) - set(gone) <= set(rest)


async def test_who_stays_is_on_a_page_though_the_room_grows_between_pages(backend: Backend) -> None:
    members = await fill(backend.rooms, "lobby", range(100))
    first, cursor = await backend.rooms.members("lobby", "", 50)
    await fill(backend.rooms, "lobby", range(100, MANY))
    rest = await rest_of(backend.rooms, "lobby", cursor, 50)
    assert set(members) <= {connection_id for connection_id, _ in first} | set(rest)


async def test_the_index_has_a_place_before_it_is_answered_and_until_it_is_forgotten(
    backend: Backend,
) -> None:
    line = Membership(C1, "alice", "lobby")
    await backend.rooms.join("lobby", "alice", C1)
    assert await lines(backend, N1) == {line}
    await backend.rooms.leave("lobby", C1)
    assert await lines(backend, N1) == {line}
    await backend.nodes.forget(N1, [line])
    assert await lines(backend, N1) == set()


async def test_names_cannot_collide_or_match_one_another(backend: Backend) -> None:
    for number, name in enumerate(AWKWARD_NAMES):
        await backend.rooms.join(name, name, ConnectionId(f"n1.{number}"))
    for number, name in enumerate(AWKWARD_NAMES):
        assert await backend.rooms.members(name, "", 10) == ([(f"n1.{number}", name)], "")
        assert await backend.rooms.counts(name) == {N1: 1}
    assert {line.room for line in await lines(backend, N1)} == set(AWKWARD_NAMES)
