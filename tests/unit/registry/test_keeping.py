"""What is kept of a session, and what the next connection gets of it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    Connection,
    ConnectionNotFoundError,
    PresenceEvent,
    WebSocketConfig,
)
from fastapi_websocket_stabilizer.backends.ports import KeptSession, SessionName
from fastapi_websocket_stabilizer.names import ConnectionId
from fastapi_websocket_stabilizer.registry import keeping
from fastapi_websocket_stabilizer.testing import MemoryCluster, MemoryManager
from tests.support.waiting import eventually
from tests.unit.registry.sessions import connect, kept_rooms

QUIET = WebSocketConfig(log_level="CRITICAL")


class SlowHook:
    """A hook for presence that waits when somebody has left the lobby, until ``ends`` is set."""

    def __init__(self, manager: MemoryManager) -> None:
        self.begun, self.ends = asyncio.Event(), asyncio.Event()
        manager.on_presence(self._on_presence)

    async def _on_presence(self, event: PresenceEvent) -> None:
        if (event.kind, event.room) == ("room_left", "lobby"):
            self.begun.set()
            await self.ends.wait()


async def test_rooms_come_back_after_a_reconnect_on_another_node() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("lobby")
        await second.join("ann", "chat")
        new = await connect(second, "s2", "s1")
        assert sorted(await new.restore()) == ["chat", "lobby"]
        assert new.connection.rooms == {"chat", "lobby"}
        assert len(await first.room_members("lobby")) == 1


@pytest.mark.parametrize("kills", [False, True])
async def test_rooms_survive_the_connection_and_the_node(kills: bool) -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("lobby")
        if kills:
            await cluster.kill(first)
        else:
            await old.connection.close()
        await cluster.beat()
        held = second.link.hub.sessions["ann"]["s1"]
        assert held.ends_us is not None
        new = await connect(second, "s2", "s1")
        assert await new.restore() == ["lobby"]
        assert held.ends_us is None


async def test_session_without_content_costs_no_command() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        client = await connect(manager, "s1")
        await manager.registry.rooms.join(client.connection, "of the identity", keeps=False)
        await client.connection.close()
        await cluster.quiet()
        assert manager.link.hub.sessions == {}


@pytest.mark.parametrize(("pause_s", "asks"), [(0.0, 0), (1.0, 1)])
async def test_client_that_has_left_no_session_is_asked_for_none_just_after_its_claim(
    monkeypatch: pytest.MonkeyPatch, pause_s: float, asks: int
) -> None:
    monkeypatch.setattr(keeping, "FRESH_S", 0.5)
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        held, former = manager.registry.keeping, SessionName("bob", "s1", ConnectionId("n.1"))
        await manager.link.sessions.begin(former)
        calls: list[str] = []
        take = held._store.take

        async def count(sid: str, *arguments: Any, **named: Any) -> KeptSession | None:
            calls.append(sid)
            return await take(sid, *arguments, **named)

        monkeypatch.setattr(held, "_store", SimpleNamespace(take=count))
        await (await connect(manager, "s1")).connection.close()
        client = await connect(manager, "s2", "s1", begins=False)
        assert (calls, client.session.is_owed, client.session.is_taken) == ([], False, False)
        client.session.is_owed = True
        assert client.session.gone_at_s is not None
        client.session.gone_at_s -= pause_s
        await held.take(client.connection)
        assert len(calls) == asks, "a hook that took long may have run since the claim"
        await connect(manager, "s9", "s1", "bob")
        assert calls[asks:] == ["s1"]
        assert manager.statistics().counters["sessions_gone"] == 2


async def test_room_that_was_left_does_not_come_back() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        for room in ("lobby", "chat", "vip"):
            await old.connection.join(room)
        await old.connection.leave("lobby")
        await second.leave("ann", "vip")
        new = await connect(second, "s2", "s1")
        assert await new.restore() == ["chat"]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_room_that_was_left_does_not_come_back_while_hooks_run_or_the_leave_is_cancelled(
    is_cancelled: bool,
) -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        hook = SlowHook(manager)
        old = await connect(manager, "s1")
        for room in ("lobby", "chat"):
            await old.connection.join(room)
        leaving = asyncio.create_task(old.connection.leave("lobby"))
        await hook.begun.wait()
        if is_cancelled:
            leaving.cancel()
            await asyncio.wait([leaving])
        new = await connect(manager, "s2", "s1")
        assert await new.restore() == ["chat"]
        hook.ends.set()
        await asyncio.wait([leaving])
        await cluster.quiet()
        assert await kept_rooms(cluster, "s2") == {"chat"}


async def test_room_that_is_joined_again_while_the_hooks_of_its_leave_run_is_kept() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        hook = SlowHook(manager)
        client = await connect(manager, "s1")
        await client.connection.join("lobby")
        await manager.registry.keeping.note_position(client.connection, "lobby", 7)
        leaving = asyncio.create_task(client.connection.leave("lobby"))
        await hook.begun.wait()
        await client.connection.join("lobby")
        await manager.registry.keeping.note_position(client.connection, "lobby", 9)
        hook.ends.set()
        await leaving
        assert client.session.since == {"lobby": 9}
        new = await connect(manager, "s2", "s1")
        assert await new.restore() == ["lobby"]
        assert new.session.since == {"lobby": 9}


async def test_room_whose_leave_redis_refused_does_not_come_back() -> None:
    config = WebSocketConfig(log_level="CRITICAL", on_backend_loss="refuse")
    async with MemoryCluster(1, config) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        for room in ("lobby", "chat"):
            await old.connection.join(room)
        cluster.cut(manager)
        with pytest.raises(BackendUnavailableError):
            await old.connection.leave("lobby")
        await cluster.mend(manager)
        assert await kept_rooms(cluster, "s1") == {"chat"}
        new = await connect(manager, "s2", "s1")
        assert await new.restore() == ["chat"]


async def test_room_that_was_revoked_while_the_client_was_away_does_not_come_back() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        for room in ("lobby", "vip"):
            await old.connection.join(room)
        await old.connection.close()
        await second.leave("ann", "vip")
        with pytest.raises(ConnectionNotFoundError):
            await second.leave("ann", "vip")
        new = await connect(first, "s2", "s1")
        assert await new.restore() == ["lobby"]


async def test_room_that_is_revoked_between_takeover_and_join_is_left_again() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("vip")
        await old.connection.close()
        new = await connect(first, "s2", "s1")
        await second.leave("ann", "vip")
        assert await new.restore() == []
        assert new.connection.rooms == set()
        assert await kept_rooms(cluster, "s2") == set()


async def test_room_that_is_joined_while_others_are_restored_is_not_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        await old.connection.join("lobby")
        await old.connection.close()
        new = await connect(manager, "s2", "s1")
        store, writes = manager.registry.state.backend.sessions, asyncio.Event()
        note = store.note

        async def write_late(*arguments: Any, **options: Any) -> None:
            await writes.wait()
            await note(*arguments, **options)

        monkeypatch.setattr(store, "note", write_late)
        join = asyncio.create_task(new.connection.join("chat"))
        await eventually(lambda: "chat" in new.session.rooms, what="the join is noted, and not written yet")
        assert await new.restore() == ["lobby", "chat"]
        writes.set()
        await join
        assert new.connection.rooms == {"chat", "lobby"}
        assert await kept_rooms(cluster, "s2") == {"chat", "lobby"}


@pytest.mark.parametrize("is_rejoined", [False, True])
async def test_room_that_is_left_while_the_application_is_asked_is_not_entered(is_rejoined: bool) -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        await manager.registry.rooms.join(old.connection, "vip", by_client=True)
        await old.connection.close()
        new = await connect(manager, "s2", "s1")
        events: list[PresenceEvent] = []
        manager.on_presence(events.append)
        expected = ["vip"] if is_rejoined else []

        async def may_enter(connection: Connection, room: str) -> bool:
            await manager.leave("ann", room)
            if is_rejoined:
                await manager.join("ann", room)
            return True

        assert await manager.registry.rooms.restore(new.connection, may_enter) == expected
        await cluster.quiet()
        assert [event.room for event in events if event.kind == "room_joined"] == expected
        assert await kept_rooms(cluster, "s2") == set(expected)


async def test_client_that_was_disconnected_while_it_was_away_has_nothing_left() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("lobby")
        await old.connection.close()
        await second.disconnect("ann")
        new = await connect(first, "s2", "s1")
        assert await new.restore() == []
        assert second.link.hub.sessions == {}


async def test_application_is_asked_for_rooms_that_the_client_entered_by_itself() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        for room in ("open", "closed"):
            await manager.registry.rooms.join(old.connection, room, by_client=True)
        await old.connection.join("given")
        new = await connect(manager, "s2", "s1")
        asked: list[str] = []

        async def may_enter(connection: Connection, room: str) -> bool:
            assert connection is new.connection
            asked.append(room)
            return room == "open"

        rooms = await manager.registry.rooms.restore(new.connection, may_enter)
        assert (sorted(asked), sorted(rooms)) == (["closed", "open"], ["given", "open"])
        assert await kept_rooms(cluster, "s2") == {"given", "open"}


async def test_second_connection_with_the_same_session_gets_nothing() -> None:
    config = WebSocketConfig(log_level="CRITICAL", max_connections_per_client=3)
    async with MemoryCluster(2, config) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("lobby")
        next_one = await connect(first, "s2", "s1")
        copy = await connect(second, "s3", "s1")
        assert [await each.restore() for each in (next_one, copy)] == [["lobby"], []]
        assert next_one.socket.is_open


async def test_session_is_given_back_if_the_client_got_no_first_frame() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("lobby")
        failed = await connect(second, "s2", "s1", begins=False)
        await failed.restore()
        await failed.connection.close()
        await cluster.quiet()
        again = await connect(second, "s3", "s1")
        assert await again.restore() == ["lobby"]


async def test_mark_of_handled_messages_is_kept() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        for number in (1, 2, 17, 16):
            manager.registry.keeping.mark(old.connection, number)
        await cluster.quiet()
        new = await connect(manager, "s2", "s1")
        assert (new.session.is_taken, new.session.mark) == (True, 17)


@pytest.mark.parametrize("rooms", [[], ["lobby"]])
async def test_mark_of_a_message_whose_handler_ends_the_connection_is_kept(rooms: list[str]) -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        for room in rooms:
            await old.connection.join(room)
        await old.connection.close()
        manager.registry.keeping.mark(old.connection, 1)
        await cluster.quiet()
        assert manager.link.hub.sessions["ann"]["s1"].ends_us is not None
        assert manager.link.hub.index == {}
        new = await connect(manager, "s2", "s1")
        assert (new.session.is_taken, new.session.mark) == (True, 1)


async def test_mark_of_a_connection_whose_session_was_taken_over_is_not_kept() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        await old.connection.join("lobby")
        await connect(manager, "s2", "s1")
        await cluster.quiet()
        manager.registry.keeping.mark(old.connection, 1)
        await cluster.quiet()
        assert {sid: held.mark for sid, held in manager.link.hub.sessions["ann"].items()} == {"s2": 0}


async def test_first_mark_while_redis_was_away_is_written_later() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        cluster.cut(manager)
        await manager.beat()
        manager.registry.keeping.mark(old.connection, 3)
        await cluster.quiet()
        await cluster.mend(manager)
        assert manager.link.hub.sessions["ann"]["s1"].mark == 3


async def test_session_is_held_under_the_new_id_after_a_lapse() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("lobby")
        await cluster.lapse(first)
        held = second.link.hub.sessions["ann"]["s1"]
        assert (held.holder, held.ends_us) == (old.connection.connection_id, None)


async def test_session_is_written_again_after_redis_lost_it() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("lobby")
        first.registry.keeping.mark(old.connection, 5)
        await cluster.flush()
        new = await connect(second, "s2", "s1")
        assert (new.session.is_taken, set(new.session.rooms), new.session.mark) == (True, {"lobby"}, 5)


async def test_changes_while_redis_was_away_are_written_later() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        for room in ("before", "left"):
            await old.connection.join(room)
        cluster.cut(first)
        await first.beat()
        await old.connection.join("during")
        await old.connection.leave("left")
        await cluster.mend(first)
        assert await kept_rooms(cluster, "s1") == {"before", "during"}
        assert second.link.hub.sessions["ann"]["s1"].ends_us is None


async def test_nothing_is_left_of_sessions_after_their_time() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        manager.registry.state.session_ttl_ms = 0
        old = await connect(manager, "s1")
        await old.connection.join("lobby")
        await old.connection.close()
        await cluster.quiet()
        assert manager.link.hub.sessions == {}
        assert manager.link.hub.index == {}


async def test_rooms_over_the_limit_are_not_joined_again() -> None:
    config = WebSocketConfig(log_level="CRITICAL", max_rooms_per_connection=2)
    async with MemoryCluster(1, config) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        for room in ("a", "b"):
            await old.connection.join(room)
        new = await connect(manager, "s2", "s1")
        await manager.registry.rooms.join(new.connection, "of the identity", keeps=False)
        rooms = await new.restore()
        assert len(rooms) == 1
        assert await kept_rooms(cluster, "s2") == set(rooms)
        assert manager.statistics().counters["session_rooms_dropped"] == 1


async def test_membership_begins_at_the_position_of_the_first_connection_in_the_room() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        keeping, client = manager.registry.keeping, await connect(manager, "s1")
        await client.connection.join("lobby")
        await keeping.note_position(client.connection, "lobby", 7)
        await keeping.note_position(client.connection, "", 0)
        for number in (2, 3):
            client = await connect(manager, f"s{number}", f"s{number - 1}")
            assert await client.restore() == ["lobby"]
            assert client.session.since == {"lobby": 7, "": 0}
            await keeping.note_position(client.connection, "lobby", 8 + number)
        await client.connection.leave("lobby")
        assert client.session.since == {"": 0}
        assert await kept_rooms(cluster, "s3") == {""}


async def test_position_of_a_room_that_the_next_connection_is_not_in_is_forgotten() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        for room in ("still", "former"):
            await manager.registry.rooms.join(old.connection, room, keeps=False)  # of the Identity
            await manager.registry.keeping.note_position(old.connection, room, 7)
        new = await connect(manager, "s2", "s1")
        await manager.registry.rooms.join(new.connection, "still", keeps=False)
        assert await new.restore() == []
        assert new.connection.rooms == {"still"}
        assert new.session.since == {"still": 7}
        assert await kept_rooms(cluster, "s2") == {"still"}


async def test_position_that_redis_did_not_take_is_written_when_it_is_back() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, _ = cluster.managers
        client = await connect(first, "s1")
        await first.registry.rooms.join(client.connection, "lobby", keeps=False)
        cluster.cut(first)
        await first.registry.keeping.note_position(client.connection, "lobby", 7)
        assert await kept_rooms(cluster, "s1") is None
        await cluster.mend(first)
        new = await connect(first, "s2", "s1")
        assert new.session.since == {"lobby": 7}


async def test_position_brings_back_no_room_that_was_revoked_in_the_meantime() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("vip")
        await old.connection.close()
        new = await connect(first, "s2", "s1")
        # The request to this node is on its way.
        await second.registry.state.backend.sessions.revoke("ann", "vip")
        await first.registry.rooms.join(new.connection, "vip", keeps=False)  # as restore begins
        await first.registry.keeping.note_position(new.connection, "vip", 7)
        assert await new.restore() == []
        assert new.connection.rooms == set()
        assert await kept_rooms(cluster, "s2") == set()


async def test_room_that_is_joined_during_the_takeover_does_not_hide_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        await old.connection.join("lobby")
        await old.connection.close()
        rooms = manager.registry.rooms
        take_over = rooms.take_over

        async def join_and_take_over(connection: Connection) -> None:
            await connection.join("chat")
            await take_over(connection)

        monkeypatch.setattr(rooms, "take_over", join_and_take_over)
        new = await connect(manager, "s2", "s1")
        assert await new.restore() == ["lobby", "chat"]
        assert await kept_rooms(cluster, "s2") == {"lobby", "chat"}


async def test_connection_that_had_the_session_is_known_after_an_orderly_end() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        old = await connect(manager, "s1")
        await old.connection.join("lobby")
        await old.connection.close()
        new = await connect(manager, "s2", "s1")
        assert new.session.formers == (old.connection.connection_id,)


async def test_places_are_released_later_if_the_session_cannot_be_given_back() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("lobby")
        await old.connection.close()
        failed = await connect(first, "s2", "s1", begins=False)
        cluster.cut(first)
        await failed.connection.close()
        await cluster.mend(first)
        assert await second.presence("ann") == []
