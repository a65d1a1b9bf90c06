"""A node that was cut off carries out what was taken from its clients in the meantime."""

import time
from contextlib import suppress

import pytest

from fastapi_websocket_stabilizer import BackendUnavailableError, ConnectionNotFoundError, WebSocketConfig
from fastapi_websocket_stabilizer.registry.registration import registration_of
from fastapi_websocket_stabilizer.testing import MemoryCluster, MemoryManager
from tests.unit.registry.sessions import connect

QUIET = WebSocketConfig(log_level="CRITICAL", max_connections_per_client=3, redis_timeout_s=0.1)
UNREACHED = BackendUnavailableError, ConnectionNotFoundError
LAPSES = pytest.mark.parametrize("lapses", [False, True], ids=["shorter than the lease", "longer"])


async def returned(cluster: MemoryCluster, manager: MemoryManager, *, lapses: bool) -> None:
    """Connect a manager again, perhaps after another one has swept it."""
    manager.link.mend()
    if lapses:
        await cluster.lapse(manager)
    await cluster.beat()


@LAPSES
async def test_room_that_was_taken_while_the_node_was_cut_off_is_left_at_its_return(lapses: bool) -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        ann = await cluster.connect(first, "ann", rooms=["vip", "lobby"])
        cluster.cut(first)
        with suppress(*UNREACHED):
            await second.leave("ann", "vip")
        await returned(cluster, first, lapses=lapses)
        assert [member.client_id for member in await second.room_members("vip")] == []
        assert [member.client_id for member in await second.room_members("lobby")] == ["ann"]
        await second.broadcast("secret", room="vip")
        await second.broadcast("news", room="lobby")
        await cluster.quiet()
        assert ann.received == ["news"]
        assert first.statistics().counters["revocations_missed"] == 1


@LAPSES
@pytest.mark.parametrize("only_one", [False, True])
async def test_client_that_was_closed_while_its_node_was_cut_off_is_closed_at_its_return(
    lapses: bool, only_one: bool
) -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        sockets = [await cluster.connect(first, "ann") for _ in range(2)]
        [_, older] = await second.presence("ann")
        cluster.cut(first)
        only = older.connection_id if only_one else None
        with suppress(*UNREACHED):
            await second.disconnect("ann", code=4001, reason="banned", connection_id=only)
        await returned(cluster, first, lapses=lapses)
        assert [socket.closed_with for socket in sockets] == [
            (4001, "banned"),
            None if only_one else (4001, "banned"),
        ]
        assert len(await second.presence("ann")) == only_one


@LAPSES
async def test_what_the_client_was_given_after_that_stays(lapses: bool) -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        await cluster.connect(first, "ann", rooms=["vip"])
        await second.leave("ann", "vip")
        await second.disconnect("ann")
        ann = await cluster.connect(first, "ann", rooms=["vip"])
        cluster.cut(first)
        await returned(cluster, first, lapses=lapses)
        assert ann.is_open
        assert len(await second.room_members("vip")) == 1
        assert first.statistics().counters["revocations_missed"] == 0


async def test_room_that_was_taken_while_the_content_of_redis_was_claimed_again_is_left() -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        old = await connect(first, "s1")
        await old.connection.join("vip")
        cluster.cut(first)
        await first.beat()
        await old.connection.join("cellar")
        with suppress(*UNREACHED):
            await second.leave("ann", "vip")
        await returned(cluster, first, lapses=True)
        assert old.connection.rooms == {"cellar"}
        session = second.link.hub.sessions["ann"]["s1"]
        assert set(session.rooms) == {"cellar"}


async def test_begin_of_a_stay_is_known() -> None:
    async with MemoryCluster(1, QUIET) as cluster:
        (manager,) = cluster.managers
        client = await connect(manager, "s1")
        registration = registration_of(client.connection)
        began_s = client.connection.loop.time()
        for room in ("a", "b"):
            await client.connection.join(room)
        ended_s = client.connection.loop.time()
        entered_s = [registration.entered_at_s(room) for room in ("a", "b")]
        assert began_s - 1e-6 <= entered_s[0] <= entered_s[1] <= ended_s
        assert [registration.stay_in(room) for room in ("a", "b", "c")] == [1, 2, 0]
        assert registration.entered_at_s("c") == 0


async def test_note_from_the_time_of_a_suspended_machine_is_carried_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryCluster(2, QUIET) as cluster:
        first, second = cluster.managers
        await cluster.beat()  # the clocks are known
        ann = await cluster.connect(first, "ann", rooms=["vip", "lobby"])
        cluster.cut(first)
        with suppress(*UNREACHED):
            await second.leave("ann", "vip")
        now_ns = time.monotonic_ns  # the clock of the hub, which goes on while the machine stands still
        monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns() + 600_000_000_000)
        await returned(cluster, first, lapses=True)
        await second.broadcast("secret", room="vip")
        await second.broadcast("news", room="lobby")
        await cluster.quiet()
        assert ann.received == ["news"]
