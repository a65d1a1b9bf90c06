"""``ports.RoomStore`` on every backend."""

import pytest

from fastapi_websocket_stabilizer import InvalidCursorError
from fastapi_websocket_stabilizer.backends.ports import Backend, Removed
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from tests.contract.support import AWKWARD_NAMES, fill, lines, place, rest_of

C1, C2 = ConnectionId("n1.1"), ConnectionId("n2.1")
N1, N2 = NodeId("n1"), NodeId("n2")
MANY = 1500
"""Over every size at which a server changes how it keeps a hash (128 on Redis 7, 512 on 6.2)."""


async def test_join_is_to_be_reported_until_that_is_confirmed(backend: Backend) -> None:
    here = place(C1)
    assert [await backend.rooms.join(here) for _ in range(2)] == [True, True]
    await backend.presence.reported(here, "joined")
    assert not await backend.rooms.join(here)
    assert await backend.rooms.counts("lobby") == {N1: 1}


async def test_leave_is_to_be_reported_until_that_is_confirmed(backend: Backend) -> None:
    here = place(C1)
    await backend.rooms.join(here)
    await backend.presence.reported(here, "joined")
    gone = [await backend.rooms.leave(here) for _ in range(2)]
    assert gone == [Removed(was_there=True, joined="", left="n1.1:1")] * 2
    await backend.presence.reported(here, "left")
    assert await backend.rooms.leave(here) == Removed(was_there=False, joined="", left="")
    assert await backend.rooms.counts("lobby") == {}


async def test_leave_names_a_join_that_nothing_confirmed(backend: Backend) -> None:
    await backend.rooms.join(place(C1))
    assert (await backend.rooms.leave(place(C1))).joined


async def test_join_that_is_known_is_not_to_be_reported(backend: Backend) -> None:
    assert not await backend.rooms.join(place(C1), is_known=True)
    assert not (await backend.rooms.leave(place(C1))).joined


async def test_join_takes_the_place_of_a_former_id_and_is_no_event(backend: Backend) -> None:
    await backend.rooms.join(place(C1))
    await backend.presence.reported(place(C1), "joined")
    assert not await backend.rooms.join(place(C2), replaces=C1)
    assert await backend.rooms.members("lobby", "", 10) == ([(C2, "alice")], "")
    assert await backend.rooms.counts("lobby") == {N2: 1}
    assert not (await backend.rooms.leave(place(C1))).left


async def test_leave_of_an_earlier_stay_does_not_end_a_later_one(backend: Backend) -> None:
    await backend.rooms.join(place(C1, stay=2))
    assert not (await backend.rooms.leave(place(C1, stay=1))).was_there
    assert await backend.rooms.counts("lobby") == {N1: 1}


async def test_counts_are_by_node(backend: Backend) -> None:
    for connection_id in (C1, C2, ConnectionId("n1.2")):
        await backend.rooms.join(place(connection_id))
    await backend.rooms.leave(place("n1.2"))
    assert await backend.rooms.counts("lobby") == {N1: 1, N2: 1}


async def test_an_empty_room_has_no_members(backend: Backend) -> None:
    assert await backend.rooms.members("nowhere", "", 10) == ([], "")
    assert await backend.rooms.counts("nowhere") == {}


async def test_a_member_is_a_connection_and_its_client(backend: Backend) -> None:
    await backend.rooms.join(place(C1))
    assert await backend.rooms.members("lobby", "", 10) == ([(C1, "alice")], "")


async def test_pages_of_a_small_room_hold_each_member_once(backend: Backend) -> None:
    members = await fill(backend.rooms, "lobby", range(25))
    assert sorted(await rest_of(backend.rooms, "lobby", "", 10)) == sorted(members)


async def test_pages_of_a_large_room_hold_every_member(backend: Backend) -> None:
    members = await fill(backend.rooms, "lobby", range(MANY))
    assert set(await rest_of(backend.rooms, "lobby", "", 64)) == set(members)


@pytest.mark.parametrize("cursor", ["zzz", "-1", "0x1", "9" * 20, "9" * 21])
async def test_a_cursor_of_no_page_is_refused_by_name(backend: Backend, cursor: str) -> None:
    await backend.rooms.join(place(C1, "lobby"))
    with pytest.raises(InvalidCursorError, match=f"^cursor must be page.cursor, got '{cursor}'$"):
        await backend.rooms.members("lobby", cursor, 10)


async def test_who_stays_is_on_a_page_though_others_leave_between_pages(backend: Backend) -> None:
    members = await fill(backend.rooms, "lobby", range(30))
    first, cursor = await backend.rooms.members("lobby", "", 10)
    gone = [connection_id for connection_id, _ in first]
    for connection_id in gone:
        await backend.rooms.leave(place(connection_id))
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
    line = place(C1)
    await backend.rooms.join(place(C1))
    assert await lines(backend, N1) == {line}
    await backend.rooms.leave(line)
    assert await lines(backend, N1) == {line}
    await backend.nodes.forget(N1, [line])
    assert await lines(backend, N1) == set()


async def test_names_cannot_collide_or_match_one_another(backend: Backend) -> None:
    for number, name in enumerate(AWKWARD_NAMES):
        await backend.rooms.join(place(f"n1.{number}", name, name))
    for number, name in enumerate(AWKWARD_NAMES):
        assert await backend.rooms.members(name, "", 10) == ([(f"n1.{number}", name)], "")
        assert await backend.rooms.counts(name) == {N1: 1}
    assert {line.room for line in await lines(backend, N1)} == set(AWKWARD_NAMES)
