"""The history of a node in memory and over a hub: with and without ``start``, faults on demand, and no Redis."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConfigurationError,
    Connection,
    History,
    Identity,
    InvalidNameError,
    Mailbox,
    MessageError,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.log_ports import LogName, Unread
from fastapi_websocket_stabilizer.local.shards import Shards
from fastapi_websocket_stabilizer.registry import history
from fastapi_websocket_stabilizer.registry.logs import name_of
from fastapi_websocket_stabilizer.testing import FakeWebSocket, MemoryCluster
from fastapi_websocket_stabilizer.wire.channels import ALL, Channel
from tests.support.waiting import eventually

CONFIG = WebSocketConfig(history={"chat:": History()}, history_for_all=History(), log_level="CRITICAL")


def test_manager_with_a_history_is_made_outside_of_an_event_loop() -> None:
    manager = WebSocketConnectionManager(CONFIG)
    for _ in range(2):  # a loop for each call, as under a test client
        asyncio.run(_store_one(manager))


async def _store_one(manager: WebSocketConnectionManager) -> None:
    socket: Any = FakeWebSocket()
    connection = await manager.connect("ann", socket)
    await connection.join("chat:1")
    result = await manager.broadcast("hello", room="chat:1")
    assert (result.succeeded, result.heard) == (1, True)
    assert result.id
    assert (await manager.broadcast("all")).ids
    page = await manager.history("chat:1")
    assert {entry.message for entry in page} == {"hello"}
    assert abs((datetime.now(UTC) - page.entries[-1].at).total_seconds()) < 5
    assert socket.received == ["hello", "all"]
    await connection.close()


def test_client_of_an_empty_log_resumes_although_the_manager_was_not_started() -> None:
    manager, app = WebSocketConnectionManager(CONFIG), FastAPI()

    @manager.websocket(app, "/ws")
    async def identify() -> Identity:
        return Identity("ann", rooms=["chat:1"])

    def hi(*offer: str) -> dict[str, Any]:
        with TestClient(app).websocket_connect("/ws", ["stabilizer.v1", *offer]) as socket:
            frame: dict[str, Any] = json.loads(socket.receive_text())["hi"]
            return frame

    first = hi()
    cursor = json.dumps({"s": first["sid"], "t": first["t"], "at": first["at"], "all": first["all"]})
    again = hi("stabilizer.v1.resume." + urlsafe_b64encode(cursor.encode()).decode().rstrip("="))
    assert (again["re"], again.get("lost")) == (True, None)


def test_resumes_are_counted_by_their_outcome() -> None:
    config = WebSocketConfig(history={"chat:": History(messages=4)}, log_level="CRITICAL")
    manager, app = WebSocketConnectionManager(config), FastAPI()

    @manager.websocket(app, "/ws")
    async def identify() -> Identity:
        return Identity("ann", rooms=["chat:1"])

    def counted() -> dict[str, int]:
        return {
            name: count for name, count in manager.statistics().counters.items() if count and name in NAMES
        }

    def visit(cursor: str | None) -> str:
        offer = [] if cursor is None else ["stabilizer.v1.resume." + encoded(cursor)]
        with TestClient(app).websocket_connect("/ws", ["stabilizer.v1", *offer]) as socket:
            hi = json.loads(socket.receive_text())["hi"]
            assert manager.statistics().sessions == 1
        return json.dumps({"s": hi["sid"], "t": hi["t"], "at": hi["at"]})

    def encoded(cursor: str) -> str:
        return urlsafe_b64encode(cursor.encode()).decode().rstrip("=")

    async def store(count: int) -> None:
        for _ in range(count):
            await manager.broadcast("x", room="chat:1")

    async def size() -> int:
        return (await manager._state.backend.logs.read(name_of(Channel("room", "chat:1")))).entries[-1].size

    asyncio.run(store(1))
    cursor = visit(None)
    assert counted() == {}
    asyncio.run(store(2))
    cursor = visit(cursor)
    expected = {"resumes_whole": 1, "sessions_gone": 1, "history_replayed": 2, "history_ring_misses": 1}
    expected["history_replayed_bytes"] = 2 * asyncio.run(size())
    assert counted() == expected
    asyncio.run(store(6))
    visit(cursor)
    assert counted() == {**expected, "resumes_lost": 1, "sessions_gone": 2, "history_ring_misses": 2}
    visit("no cursor")
    expected |= {"resumes_lost": 2, "sessions_gone": 2, "history_ring_misses": 2, "cursors_unreadable": 1}
    assert counted() == expected
    assert manager.statistics().sessions == 0


NAMES = {
    *("resumes_whole", "resumes_lost", "resumes_later", "sessions_kept", "sessions_taken", "sessions_gone"),
    *(
        "cursors_unreadable",
        "history_replayed",
        "history_replayed_bytes",
        "history_ring_hits",
        "history_ring_misses",
    ),
}


@pytest.mark.parametrize("position", [0, 1, 2**52, 2**53 - 1, "the next", "before"])
@pytest.mark.parametrize("t_ms", [0, 2**53 - 1])
def test_position_that_a_log_never_had_is_a_loss(position: int | str, t_ms: int) -> None:
    """It may be of another registry, from the future, or made up. Whatever it is, nothing is replayed in part."""
    config = WebSocketConfig(history={"chat:": History(messages=2)}, log_level="CRITICAL")
    manager, app = WebSocketConnectionManager(config), FastAPI()

    @manager.websocket(app, "/ws")
    async def identify() -> Identity:
        return Identity("ann", rooms=["chat:1"])

    async def store() -> int:
        return [(await manager.broadcast(f"{number}", room="chat:1")).id or 0 for number in range(4)][-1]

    top = asyncio.run(store())
    named = {"the next": top + 1, "before": top - 1}
    cursor = {"s": "x", "t": t_ms, "at": {"chat:1": named.get(str(position), position)}}
    item = "stabilizer.v1.resume." + urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")
    with TestClient(app).websocket_connect("/ws", ["stabilizer.v1", item]) as socket:
        hi = json.loads(socket.receive_text())["hi"]
        assert json.loads(socket.receive_text()) == {"live": 0}
    ((log, lost_to, code),) = hi["lost"]
    assert (hi["re"], log, lost_to, hi["at"]) == (False, "chat:1", top, {"chat:1": top})
    assert code in ("unknown", "trimmed", "reset")
    assert manager.statistics().counters["resumes_lost"] == 1


@pytest.mark.parametrize("trimmed", [False, True])
def test_mailbox_that_is_trimmed_while_its_client_comes_is_a_loss(trimmed: bool) -> None:
    """Otherwise a client without a cursor would skip all its messages, and would not be told."""
    manager = WebSocketConnectionManager(WebSocketConfig(mailbox=Mailbox(messages=4), log_level="CRITICAL"))
    app, logs = FastAPI(), manager._state.backend.logs

    @manager.websocket(app, "/ws")
    async def identify() -> Identity:
        return Identity("ann")

    async def store(count: int) -> None:
        for number in range(count):
            await manager.send_to_client("ann", f"{number}", store=True)

    class Trimming:
        """The logs, with messages that are stored between the question and the read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(logs, name)

        async def unread(self, log: LogName) -> Unread:
            found = await logs.unread(log)
            await store(4 * trimmed)
            return found

    asyncio.run(store(3))
    backend: Any = manager._state.backend
    backend.logs = Trimming()
    with TestClient(app).websocket_connect("/ws", ["stabilizer.v1"]) as socket:
        hi = json.loads(socket.receive_text())["hi"]
        frames = [json.loads(socket.receive_text())]
        while "live" not in frames[-1]:
            frames.append(json.loads(socket.receive_text()))
    replayed = [frame[2] for frame in frames if isinstance(frame, list)]
    if trimmed:
        assert (hi["lost"], replayed) == ([[0, hi["box"], "trimmed"]], [])
    else:
        assert (hi.get("lost"), replayed) == (None, ["0", "1", "2"])


async def test_stored_messages_are_counted_by_what_became_of_them() -> None:
    bounds = History(messages=4, bytes=2_000)
    config = WebSocketConfig(history={"chat:": bounds}, log_level="CRITICAL", redis_timeout_s=0.1)
    async with MemoryCluster(2, config) as cluster:
        manager = cluster.managers[0]
        await cluster.connect(manager, "ann", rooms=["chat:1", "chat:2"])

        def counters() -> dict[str, int]:
            found = manager.statistics().counters
            names = "appends", "refused", "trimmed_messages", "trimmed_bytes", "unconfirmed"
            return {name: found[f"history_{name}"] for name in names if found[f"history_{name}"]}

        for _ in range(6):
            await manager.broadcast("x", room="chat:1")
        assert counters() == {"appends": 6, "trimmed_messages": 2}
        for _ in range(3):
            await manager.broadcast("x" * 900, room="chat:2")
        assert counters() == {"appends": 9, "trimmed_messages": 2, "trimmed_bytes": 1}
        with pytest.raises(MessageError):
            await manager.broadcast("x" * 2_000, room="chat:1")
        cluster.cut(manager)
        await cluster.beat()
        with pytest.raises(BackendUnavailableError):
            await manager.broadcast("x", room="chat:1")
        await manager.broadcast("x", room="not stored")
        assert counters() == {"appends": 9, "trimmed_messages": 2, "trimmed_bytes": 1, "refused": 2}


async def test_what_a_node_holds_of_logs_is_shown() -> None:
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        before = manager.statistics()
        assert (before.history_logs, before.history_bytes, before.history_members_waiting) == (1, 0, 0)
        await cluster.connect(manager, "ann", rooms=["chat:1", "plain"])
        await manager.broadcast("x" * 500, room="chat:1")
        await cluster.quiet()
        found = manager.statistics()
        assert (found.history_logs, found.history_members_waiting, found.sessions_unwritten) == (2, 0, 0)
        assert found.history_waiting_bytes == 0
        assert 500 <= found.history_bytes <= 1_000
        assert found.limits["history_bytes"] == history.MEMORY_BYTES


async def test_a_gap_of_the_bus_loses_no_stored_message() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann = await cluster.connect(first, "ann", rooms=["chat:1"])
        await second.broadcast("1", room="chat:1")
        cluster.lose_bus(first)
        await second.broadcast("2", room="chat:1")
        await cluster.beat()
        await second.broadcast("3", room="chat:1")
        await cluster.quiet()
        assert texts(ann) == ["1", "2", "3"]
        assert first.statistics().counters["history_repairs"] == 1
        assert second.statistics().counters["history_repairs"] == 0


async def test_a_gap_brings_many_messages_to_two_rooms_once() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann = await cluster.connect(first, "ann", rooms=["chat:1", "chat:2"])
        await second.broadcast("0", room=["chat:1", "chat:2"])
        await cluster.beat()
        cluster.cut(first)
        for number in range(1, 101):
            await second.broadcast(str(number), room=["chat:1", "chat:2"])
        await cluster.mend(first)
        await cluster.quiet()
        assert texts(ann) == [str(number) for number in range(101)]


async def test_what_was_published_while_a_manager_was_cut_off_comes_after_it() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        first, second = cluster.managers
        ann = await cluster.connect(first, "ann", rooms=["chat:1"])
        await second.broadcast("1", room="chat:1")
        await cluster.beat()
        cluster.cut(first)
        for text in ("2", "3"):
            await second.broadcast(text, room="chat:1")
        with pytest.raises(BackendUnavailableError):
            await first.broadcast("refused", room="chat:1")
        await cluster.mend(first)
        await second.broadcast("4", room="chat:1")
        await cluster.quiet()
        assert texts(ann) == ["1", "2", "3", "4"]


async def test_memory_of_all_logs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MEMORY_BYTES", 2000)
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        rooms = [f"chat:{number}" for number in range(20)]
        ann = await cluster.connect(manager, "ann", rooms=rooms)
        for room in rooms:
            await manager.broadcast("x" * 500, room=room)
        await cluster.quiet()
        assert len(texts(ann)) == 20
        counters = manager.statistics().counters
        assert counters["history_freed"] >= 15
        assert manager.registry.history._bytes <= 3000


async def test_excluded_connection_is_found_without_a_walk_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[Shards] = []

    def walk(shards: Shards) -> Iterator[Connection]:
        walks.append(shards)
        return iter(())

    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        manager.registry.state.has_met_sessions = True
        ann = await cluster.connect(manager, "ann", rooms=["chat:1"])
        bob = await cluster.connect(manager, "bob", rooms=["chat:1"])
        (excluded,) = manager.registry.state.shards.of_client("ann")
        with monkeypatch.context() as patch:
            patch.setattr(Shards, "__iter__", walk)
            await manager.broadcast("hello", room="chat:1", exclude_connection=excluded)
            await cluster.quiet()
        assert (texts(ann), texts(bob), walks) == ([], ["hello"], [])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda manager: manager.broadcast("x", exclude_connection="a\ud800"), InvalidNameError),
        (lambda manager: manager.request("ann", "\ud800"), InvalidNameError),
        (lambda manager: manager.history("chat:1", limit=2.5), ConfigurationError),
    ],
)
async def test_argument_that_could_not_be_sent_is_refused_by_name(
    call: Callable[[WebSocketConnectionManager], Awaitable[object]], error: type[Exception]
) -> None:
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        await cluster.connect(manager, "ann", rooms=["chat:1"])
        with pytest.raises(error):
            await call(manager)


def texts(socket: FakeWebSocket) -> list[str]:
    return [str(message) for message in socket.received]


async def test_message_that_is_delivered_without_redis_does_not_overtake_one_that_waits_for_a_log() -> None:
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        ann = await cluster.connect(manager, "ann")
        await manager.broadcast("stored")
        await cluster.quiet()
        log = manager._registry.history._logs[ALL]
        log.feed._held = log.feed._paused = True  # the bus has lost an entry, and no read is answered
        waiting = asyncio.create_task(manager.broadcast("waits", store=False))
        await eventually(lambda: log.feed._queue, what="the message waits for the log")
        manager._registry.state.is_away = True
        await manager.broadcast("later", store=False)
        await waiting
        assert texts(ann) == ["stored", "waits", "later"]
