"""Presence for clients: what connections that watch a room are sent."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from fastapi_websocket_stabilizer import WebSocketConfig
from fastapi_websocket_stabilizer.registry import watching
from fastapi_websocket_stabilizer.testing import MemoryCluster, MemoryManager
from fastapi_websocket_stabilizer.wire.channels import Channel
from tests.support.waiting import eventually
from tests.unit.registry.sessions import Client, connect

CONFIG = WebSocketConfig(log_level="CRITICAL", client_presence=("chat:",), max_connections_per_client=3)
ROOM = "chat:1"


class Watcher:
    """The client's side of presence, as docs/protocol.md has it."""

    def __init__(self, client: Client) -> None:
        self.client, self.version, self.members = client, 0, dict[str, Any]()
        self.snapshots = self.changes = self._read = 0

    def watch(self, version: int | None = None) -> bool:
        known = self.version if version is None else version
        return self.client.manager.registry.watching.watch(self.client.connection, ROOM, known)

    def looked(self) -> "Watcher":
        """Take the frames that have come."""
        received = self.client.socket.received
        for text in received[self._read :]:
            frame = json.loads(text)
            if "p" not in frame:
                continue
            if "=" in frame:
                self.snapshots += 1
                self.version, self.members = frame["v"], dict(frame["="])
            else:
                self.changes += 1
                assert frame.get("from", frame["v"] - 1) == self.version
                for name in frame.get("-", ()):
                    self.members.pop(name, None)
                self.members.update(frame.get("+", ()))
                self.version = frame["v"]
        self._read = len(received)
        return self

    async def sees(self, *names: str) -> None:
        def is_there() -> bool:
            return sorted(self.looked().members) == sorted(names)

        await eventually(is_there)


async def watcher(manager: MemoryManager, name: str, *, number: int = 1) -> Watcher:
    client = await connect(manager, f"{name}-{number}", client_id=name)
    await client.connection.join(ROOM)
    return Watcher(client)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "GATHER_S", 0.01)


async def test_watcher_gets_all_members_and_then_the_changes() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann = await watcher(first, "ann")
        bob = await watcher(second, "bob")
        assert ann.watch()
        await ann.sees("ann", "bob")
        carol = await watcher(second, "carol")
        await ann.sees("ann", "bob", "carol")
        await bob.client.connection.leave(ROOM)
        await carol.client.connection.close()
        await ann.sees("ann")
        assert (ann.snapshots, ann.changes >= 1) == (1, True)


async def test_several_connections_are_one_member_and_metadata_is_shown() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann = await watcher(first, "ann")
        ann.watch()
        await ann.sees("ann")
        tabs = [await watcher(second, "bob", number=number) for number in (1, 2)]
        await ann.sees("ann", "bob")
        await tabs[1].client.connection.update_metadata({"status": "away"})
        await eventually(lambda: ann.looked().members["bob"] == {"status": "away"})
        await tabs[0].client.connection.close()
        await cluster.quiet()
        await ann.sees("ann", "bob")
        await tabs[1].client.connection.close()
        await ann.sees("ann")


async def test_room_that_is_not_shown_or_not_entered_cannot_be_watched() -> None:
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        client = await connect(manager, "s1")
        await client.connection.join("lobby")
        watch = manager.registry.watching.watch
        assert [watch(client.connection, room, 0) for room in ("lobby", ROOM)] == [False, False]


async def test_rooms_are_not_shown_by_default() -> None:
    async with MemoryCluster(1, WebSocketConfig(log_level="CRITICAL")) as cluster:
        (manager,) = cluster.managers
        ann = await watcher(manager, "ann")
        assert not ann.watch()
        assert manager.link.hub.shown == {}


async def test_client_that_comes_back_gets_the_missing_changes() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann, bob = await watcher(first, "ann"), await watcher(second, "bob")
        for each in (ann, bob):
            each.watch()
            await each.sees("ann", "bob")
        first.registry.watching.unwatch(ann.client.connection, ROOM)
        await watcher(second, "carol")
        await bob.sees("ann", "bob", "carol")
        again = Watcher(await connect(second, "ann-2", client_id="ann"))
        await again.client.connection.join(ROOM)
        again.version, again.members = ann.version, dict(ann.members)
        again.watch()
        await again.sees("ann", "bob", "carol")
        assert (again.snapshots, again.changes) == (0, 1)


async def test_client_with_an_unknown_version_gets_all_members() -> None:
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        ann = await watcher(manager, "ann")
        ann.watch(version=17)
        await ann.sees("ann")
        assert ann.snapshots == 1


async def test_client_with_the_present_version_gets_nothing() -> None:
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        ann, bob = await watcher(manager, "ann"), await watcher(manager, "bob")
        for each in (ann, bob):
            each.watch()
            await each.sees("ann", "bob")
        ann.watch()
        await watcher(manager, "carol")
        await ann.sees("ann", "bob", "carol")
        assert (ann.snapshots, ann.changes) == (1, 1)


async def test_watching_ends_with_the_room() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann, bob = await watcher(first, "ann"), await watcher(first, "bob")
        for each in (ann, bob):
            each.watch()
            await each.sees("ann", "bob")
        await ann.client.connection.leave(ROOM)
        await bob.sees("bob")
        await watcher(second, "carol")
        await bob.sees("bob", "carol")
        assert ann.changes == 0
        await bob.client.connection.leave(ROOM)
        await eventually(lambda: not first.registry.watching._rooms)


async def lose_one(cluster: MemoryCluster, reader: MemoryManager, writer: MemoryManager) -> None:
    """Lose one change of presence, so that the next one does not follow."""
    reader.link.is_cut = True
    await watcher(writer, "carol")
    reader.link.is_cut = False
    await watcher(writer, "dora")


async def gap(cluster: MemoryCluster, reader: MemoryManager, writer: MemoryManager) -> None:
    cluster.cut(reader)
    for name in ("carol", "dora"):
        await watcher(writer, name)
    await cluster.mend(reader)
    reader.registry.recovery.gap_ended(0.1)


@pytest.mark.parametrize("lose", [lose_one, gap])
async def test_lost_changes_are_read(
    lose: Callable[[MemoryCluster, MemoryManager, MemoryManager], Awaitable[None]],
) -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann = await watcher(first, "ann")
        ann.watch()
        await ann.sees("ann")
        await lose(cluster, first, second)
        await ann.sees("ann", "carol", "dora")
        assert ann.snapshots == 1


async def test_members_of_a_dead_node_leave_when_it_is_swept() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann, _ = await watcher(first, "ann"), await watcher(second, "bob")
        ann.watch()
        await ann.sees("ann", "bob")
        await cluster.kill(second)
        await ann.sees("ann")


async def test_members_are_shown_again_after_redis_lost_them() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann, _ = await watcher(first, "ann"), await watcher(second, "bob")
        ann.watch()
        await ann.sees("ann", "bob")
        before = ann.version
        await cluster.flush()
        await eventually(lambda: ann.looked().version > before)
        await ann.sees("ann", "bob")


async def test_member_of_a_node_that_lapsed_stays() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann, _ = await watcher(first, "ann"), await watcher(second, "bob")
        ann.watch()
        await ann.sees("ann", "bob")
        await cluster.lapse(second)
        await ann.sees("ann", "bob")
        assert set((await first.registry.state.backend.rosters.read(ROOM)).members) == {"ann", "bob"}


async def test_storm_of_joins_costs_a_watcher_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "GATHER_S", 0.1)
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        ann = await watcher(manager, "ann")
        ann.watch()
        await ann.sees("ann")
        crowd = [f"c{number}" for number in range(200)]
        began_s = asyncio.get_running_loop().time()
        for name in crowd:
            (await watcher(manager, name)).watch()
        await ann.sees("ann", *crowd)
        took_s = asyncio.get_running_loop().time() - began_s
        assert ann.changes <= took_s / 0.1 + 1


async def test_malformed_change_is_dropped() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann = await watcher(first, "ann")
        ann.watch()
        await ann.sees("ann")
        for body in ("5", "[5]", '["x", 5]', "[]", '{"a": 1}', "["):
            envelope = second.registry.state.outgoing.presence(ROOM, body)
            forged = replace(envelope, entry=(ann.version + 1, ann.version))
            await second.registry.state.backend.bus.publish(Channel("room", ROOM), forged)
        await cluster.quiet()
        assert first.statistics().counters["bus_malformed"] == 6
        await watcher(second, "bob")
        await ann.sees("ann", "bob")


async def test_short_questions_do_not_cause_many_long_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "AGAIN_S", 0.3)
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        ann, bob = await watcher(manager, "ann"), await watcher(manager, "bob")
        bob.watch()
        began_s = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began_s < 0.7:
            manager.registry.watching.unwatch(ann.client.connection, ROOM)
            ann.watch(version=0)
            await asyncio.sleep(0.01)
        await eventually(lambda: ann.looked().snapshots >= 3)
        took_s = asyncio.get_running_loop().time() - began_s
        assert ann.snapshots <= took_s / 0.3 + 1


async def test_times_of_long_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "AGAIN_S", 0.05)
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        ann = await watcher(manager, "ann")
        ann.watch(version=0)
        await ann.sees("ann")
        watched = manager.registry.watching._rooms[ROOM]
        assert list(watched.answered_s) == [ann.client.connection]
        await asyncio.sleep(2 * watching.AGAIN_S)
        bob = await watcher(manager, "bob")
        await ann.sees("ann", "bob")
        assert ann.client.connection not in watched.answered_s
        assert bob.client.connection in manager.registry.state.shards
