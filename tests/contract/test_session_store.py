"""``ports.SessionStore`` on every backend."""

import asyncio

import pytest

from fastapi_websocket_stabilizer.backends.ports import (
    ROOM_BYTES,
    SESSION_BYTES,
    SESSIONS_PER_CLIENT,
    Backend,
    KeptRoom,
    KeptSession,
    SessionName,
)
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from tests.contract.conftest import OpenPeer
from tests.contract.support import AWKWARD_NAMES, lines
from tests.support.waiting import eventually

LONG_MS = 60_000


def session(sid: str, connection_id: str = "n1.1", client_id: str = "alice") -> SessionName:
    return SessionName(client_id, sid, ConnectionId(connection_id))


FIRST, SECOND = session("s1"), session("s2", "n2.1")


async def take(backend: Backend, former: str, name: SessionName) -> KeptSession | None:
    return await backend.sessions.take(former, name, LONG_MS)


async def rooms_of(backend: Backend, name: SessionName) -> list[str] | None:
    """Return the rooms of a session without taking it; None if it is unknown."""
    kept = await take(backend, name.sid, name)
    return None if kept is None else sorted(kept.rooms)


async def begun(backend: Backend, name: SessionName, *rooms: str) -> None:
    await backend.sessions.begin(name)
    for room in rooms:
        assert await backend.sessions.note(name, room, by_client=False)


# Taking over


async def test_next_session_gets_what_the_former_one_kept(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await backend.sessions.note(FIRST, "b", by_client=True)
    await backend.sessions.mark(FIRST, 17)
    kept = await take(backend, "s1", SECOND)
    assert kept is not None
    assert (kept.mark, {room: found.by_client for room, found in kept.rooms.items()}) == (
        17,
        {"a": False, "b": True},
    )
    assert kept.holder == FIRST.connection_id


async def test_client_that_numbers_its_messages_anew_gets_the_rooms_without_the_mark(
    backend: Backend,
) -> None:
    await begun(backend, FIRST, "a")
    await backend.sessions.mark(FIRST, 17)
    for _ in range(2):  # a call whose answer was lost is repeated
        kept = await backend.sessions.take("s1", SECOND, LONG_MS, mark=3)
        assert kept is not None
        assert (kept.mark, sorted(kept.rooms)) == (3, ["a"])
    await backend.sessions.mark(SECOND, 4)
    kept = await take(backend, "s2", SECOND)
    assert kept is not None
    assert kept.mark == 4


async def test_session_goes_to_one_only_however_many_name_it(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    names = [session(f"next-{number}", f"n1.{number}") for number in range(20)]
    found = await asyncio.gather(*(take(backend, "s1", name) for name in names))
    assert [kept.rooms.keys() for kept in found if kept is not None] == [{"a"}]


async def test_repeated_take_of_one_connection_has_the_same_answer(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    first, again = [await take(backend, "s1", SECOND) for _ in range(2)]
    assert first == again != None  # noqa: E711 - compares the three


async def test_unknown_session_is_not_taken(backend: Backend) -> None:
    assert await take(backend, "s1", SECOND) is None
    await begun(backend, FIRST, "a")
    assert await take(backend, "s1", session("s2", client_id="bob")) is None
    assert await take(backend, "s1 a", SECOND) is None


async def test_consumed_session_keeps_nothing_more(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await take(backend, "s1", SECOND)
    assert not await backend.sessions.note(FIRST, "b", by_client=False)
    await backend.sessions.mark(FIRST, 5)
    await backend.sessions.forget(FIRST, "a")
    assert await take(backend, "s2", SECOND) == await take(backend, "s2", session("s3"))
    assert await take(backend, "s1", session("s4")) is None


async def test_room_is_kept_through_many_sessions_with_what_was_known_first(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await backend.sessions.note(FIRST, "a", by_client=None, since=17)
    kept = await take(backend, "s1", SECOND)
    assert kept is not None
    for number in range(3, 6):
        await backend.sessions.begin(session(f"s{number - 1}"))
        assert await backend.sessions.note(session(f"s{number - 1}"), "a", by_client=True, since=number)
        assert await take(backend, f"s{number - 1}", session(f"s{number}")) == kept
    assert kept.rooms == {"a": KeptRoom(by_client=False, since=17)}


async def test_position_is_kept_of_rooms_that_were_not_entered_and_of_everybody(backend: Backend) -> None:
    await begun(backend, FIRST)
    assert await backend.sessions.note(FIRST, "a", by_client=None, since=0)
    assert await backend.sessions.note(FIRST, "", by_client=None, since=5)
    await backend.sessions.release(FIRST, LONG_MS)
    kept = await take(backend, "s1", SECOND)
    assert kept is not None
    assert kept.rooms == {"a": KeptRoom(None, 0), "": KeptRoom(None, 5)}
    assert await backend.sessions.note(SECOND, "a", by_client=True)
    await backend.sessions.forget(SECOND, "")
    found = await take(backend, "s2", SECOND)
    assert found is not None
    assert found.rooms == {"a": KeptRoom(by_client=True, since=0)}
    assert await backend.sessions.revoke("alice", "a")
    assert await rooms_of(backend, SECOND) == []


async def test_session_of_a_take_that_nothing_followed_expires(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    assert await backend.sessions.take("s1", SECOND, 50) is not None

    async def has_expired() -> bool:
        return await rooms_of(backend, SECOND) is None

    await eventually(has_expired)


async def test_former_sid_that_begins_anew_has_its_own_rooms_beside_the_taken_session(
    backend: Backend,
) -> None:
    names = [FIRST, *(session(f"copy-{number}", f"n2.{number}") for number in range(3))]
    await begun(backend, FIRST, "0", "all")
    for number, name in enumerate(names[1:], start=1):  # each copy of a tab takes the session of its original
        assert await take(backend, "s1", name) is not None
        await backend.sessions.begin(name)
        await begun(backend, FIRST, str(number), "all")
        await backend.sessions.mark(FIRST, number)
    content = {"copy-0": (["0", "all"], 0), "copy-1": (["1", "all"], 1), "copy-2": (["2", "all"], 2)}
    content["s1"] = (["3", "all"], 3)
    for name in names:
        kept = await take(backend, name.sid, name)
        assert kept is not None
        assert (sorted(kept.rooms), kept.mark) == content[name.sid]
    await backend.sessions.forget(FIRST, "3")
    assert await backend.sessions.revoke("alice", "all")
    assert [await rooms_of(backend, name) for name in names] == [[], ["0"], ["1"], ["2"]]
    await backend.sessions.release(FIRST, LONG_MS)
    assert await take(backend, "s1", session("s9", "n1.9")) == KeptSession({}, 3, FIRST.connection_id)


async def test_many_copies_of_one_session_stay_in_the_bound(backend: Backend) -> None:
    copies = [session(f"copy-{number}", f"n2.{number}") for number in range(SESSIONS_PER_CLIENT + 4)]
    await begun(backend, FIRST, "a")
    for name in copies:
        assert await take(backend, "s1", name) is not None
        await backend.sessions.begin(name)
        await begun(backend, FIRST, "a")
    found = [await rooms_of(backend, name) for name in (*copies, FIRST)]
    assert found.count(["a"]) == SESSIONS_PER_CLIENT
    assert found[-1] == ["a"]
    for name in (*copies, FIRST):
        await backend.sessions.release(name, 0)
    assert {await rooms_of(backend, name) is None for name in (*copies, FIRST)} == {True}


# Content


@pytest.mark.parametrize("room", AWKWARD_NAMES)
async def test_any_room_is_kept_and_removed_again(backend: Backend, room: str) -> None:
    name = session("s1", client_id=room)
    await begun(backend, name, room, "other")
    assert await rooms_of(backend, name) == sorted([room, "other"])
    await backend.sessions.forget(name, room)
    assert await rooms_of(backend, name) == ["other"]


async def test_sessions_of_one_client_do_not_mix(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await begun(backend, SECOND, "b")
    await backend.sessions.forget(FIRST, "b")
    await backend.sessions.mark(SECOND, 3)
    kept = await take(backend, "s1", session("s3"))
    assert kept is not None
    assert (sorted(kept.rooms), kept.mark) == (["a"], 0)
    assert await rooms_of(backend, SECOND) == ["b"]


async def test_mark_only_rises(backend: Backend) -> None:
    await begun(backend, FIRST)
    for number in (5, 3, 2**32 - 1, 7):
        await backend.sessions.mark(FIRST, number)
    kept = await take(backend, "s1", SECOND)
    assert kept == KeptSession({}, 2**32 - 1)


async def test_session_that_was_not_begun_keeps_nothing(backend: Backend) -> None:
    assert not await backend.sessions.note(FIRST, "a", by_client=False)
    await backend.sessions.mark(FIRST, 1)
    assert await rooms_of(backend, FIRST) is None


async def test_second_begin_changes_nothing(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await backend.sessions.begin(FIRST)
    assert await rooms_of(backend, FIRST) == ["a"]


# Bounds


async def test_room_over_the_bound_is_not_kept_until_another_one_is_forgotten(backend: Backend) -> None:
    name, long = session("s1"), "r" * 500
    size = len(long) + 4 + ROOM_BYTES
    await begun(backend, name, *(f"{long}{number:04}" for number in range(SESSION_BYTES // size)))
    assert not await backend.sessions.note(name, f"{long}more", by_client=False)
    await backend.sessions.forget(name, f"{long}0000")
    assert await backend.sessions.note(name, f"{long}more", by_client=False)


async def test_oldest_session_without_a_connection_makes_room_for_a_new_one(backend: Backend) -> None:
    names = [session(f"s{number}", f"n1.{number}") for number in range(SESSIONS_PER_CLIENT + 1)]
    for name in names[:-1]:
        await begun(backend, name, "a")
    for name in (names[3], names[4]):
        await backend.sessions.release(name, LONG_MS)
    await begun(backend, names[-1], "a")
    unknown = [name for name in names if await rooms_of(backend, name) is None]
    assert unknown == [names[3]]


# The application, while the client is away


async def test_revoked_room_is_in_no_session_of_the_client(backend: Backend) -> None:
    for name in (FIRST, SECOND, session("s3", client_id="bob")):
        await begun(backend, name, "vip", "lobby")
    await backend.sessions.release(FIRST, LONG_MS)
    assert await backend.sessions.revoke("alice", "vip")
    assert not await backend.sessions.revoke("alice", "vip")
    assert not await backend.sessions.revoke("carol", "vip")
    assert [await rooms_of(backend, name) for name in (FIRST, SECOND)] == [["lobby"], ["lobby"]]
    assert await rooms_of(backend, session("s3", client_id="bob")) == ["lobby", "vip"]


async def test_room_that_is_revoked_after_the_takeover_is_missing_when_the_session_is_read_again(
    backend: Backend,
) -> None:
    await begun(backend, FIRST, "vip")
    await take(backend, "s1", SECOND)
    await backend.sessions.revoke("alice", "vip")
    await backend.sessions.begin(SECOND)
    assert await rooms_of(backend, SECOND) == []


async def test_all_sessions_of_a_client_end(backend: Backend) -> None:
    for name in (FIRST, SECOND):
        await begun(backend, name, "a")
    assert await backend.sessions.end_all("alice")
    assert not await backend.sessions.end_all("alice")
    assert await take(backend, "s1", session("s3")) is None
    assert not await backend.sessions.note(SECOND, "b", by_client=False)


# The end of a connection


async def test_released_session_is_there_for_its_time_and_then_gone(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await begun(backend, SECOND, "a")
    await backend.sessions.release(FIRST, LONG_MS)
    await backend.sessions.release(SECOND, 50)

    async def has_expired() -> bool:
        return await rooms_of(backend, SECOND) is None

    await eventually(has_expired)
    assert await rooms_of(backend, FIRST) == ["a"]


async def test_release_by_a_connection_that_holds_it_no_more_does_nothing(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await take(backend, "s1", SECOND)
    await backend.sessions.begin(SECOND)
    await backend.sessions.release(FIRST, 0)
    await backend.sessions.release(session("s2", "n1.1"), 0)
    assert await rooms_of(backend, SECOND) == ["a"]


async def test_session_stays_when_its_connection_has_another_id_and_the_former_one_is_swept(
    backend: Backend,
) -> None:
    await begun(backend, FIRST, "a")
    renamed = session("s1", "n9.1")
    await backend.sessions.begin(renamed)
    await backend.sessions.release(FIRST, 0)
    assert await rooms_of(backend, renamed) == ["a"]


async def test_session_that_keeps_nothing_is_gone_at_its_release(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await backend.sessions.forget(FIRST, "a")
    await backend.sessions.release(FIRST, LONG_MS)
    assert await rooms_of(backend, FIRST) is None


async def test_release_with_no_time_removes_the_session(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await backend.sessions.release(FIRST, 0)
    assert await rooms_of(backend, FIRST) is None


async def test_held_session_does_not_expire_with_a_released_one(backend: Backend) -> None:
    await begun(backend, FIRST, "a")
    await backend.sessions.release(FIRST, 50)
    await begun(backend, SECOND, "b")

    async def has_expired() -> bool:
        return await rooms_of(backend, FIRST) is None

    await eventually(has_expired)
    assert await rooms_of(backend, SECOND) == ["b"]


async def test_index_has_a_session_before_its_begin_is_answered(open_peer: OpenPeer) -> None:
    backend = (await open_peer("n1")).backend
    await backend.sessions.begin(FIRST)
    assert await lines(backend, NodeId("n1")) == {FIRST.line}
    assert FIRST.line.sid == "s1"
    await backend.nodes.forget(NodeId("n1"), [FIRST.line])
    assert await lines(backend, NodeId("n1")) == set()
