"""What watchers of a node are told: each connection that opens or ends, bounded, and only while they watch."""

import asyncio
from typing import Any

import pytest

from fastapi_websocket_stabilizer import RequestFailedError, WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry import tail
from fastapi_websocket_stabilizer.registry.replies import PendingReplies
from tests.integration.cluster import register
from tests.support.waiting import eventually


class Told:
    """A watcher that remembers what it is told."""

    def __init__(self, manager: WebSocketConnectionManager, ask: int = 1) -> None:
        self.messages: list[dict[str, Any]] = []
        self.tail, self.name = manager._state.tail, (NodeId("operator"), ask)

    def watch(self) -> None:
        self.tail.watch(self.name, self.hear)

    async def hear(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    @property
    def events(self) -> list[tuple[Any, ...]]:
        return [
            (event["kind"], event["client_id"], event.get("cause"))
            for message in self.messages
            for event in message["events"]
        ]

    @property
    def dropped(self) -> int:
        return sum(message["dropped"] for message in self.messages)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> WebSocketConnectionManager:
    monkeypatch.setattr(tail, "TELL_S", 0.01)
    return WebSocketConnectionManager(WebSocketConfig(log_level="CRITICAL"))


async def test_watcher_is_told_what_opens_and_ends(manager: WebSocketConnectionManager) -> None:
    await register(manager, "before")
    told = Told(manager)
    told.watch()
    connection = await register(manager, "ada")
    await connection.close(4001, "enough")
    await eventually(lambda: len(told.events) == 2, what="both events")
    assert told.events == [("opened", "ada", None), ("closed", "ada", "released")]
    opened, closed = (event for message in told.messages for event in message["events"])
    assert opened["connection_id"] == closed["connection_id"] == connection.connection_id
    assert (opened["node"], closed["code"]) == (manager._state.node_id, 4001)


async def test_more_events_than_a_watcher_gets_are_counted(manager: WebSocketConnectionManager) -> None:
    told = Told(manager)
    told.watch()
    tail_of_manager = manager._state.tail
    connection = await register(manager, "ada")
    for _ in range(tail.MAX_TOLD + 6):
        tail_of_manager.opened(connection)
    await eventually(lambda: told.dropped > 0, what="the others are counted")
    assert (len(told.events), told.dropped) == (tail.MAX_TOLD, 7)


async def test_watcher_that_does_not_ask_again_is_forgotten(
    manager: WebSocketConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "LASTS_S", 0.05)
    told = Told(manager)
    told.watch()
    await eventually(lambda: not manager._state.tail.watchers, what="the node has stopped")
    await register(manager, "ada")
    assert told.events == []
    told.watch()
    await register(manager, "bob")
    await eventually(lambda: told.events == [("opened", "bob", None)], what="it can watch again")


async def test_watcher_that_asks_again_is_told_once(manager: WebSocketConnectionManager) -> None:
    told = Told(manager)
    told.watch()
    told.watch()
    assert manager._state.tail.watchers == 1
    await register(manager, "ada")
    await eventually(lambda: told.events != [], what="the event")
    await asyncio.sleep(0.05)
    assert told.events == [("opened", "ada", None)]


async def test_watch_that_is_over_frees_its_place_at_once(manager: WebSocketConnectionManager) -> None:
    told = Told(manager)
    told.watch()
    manager._state.tail.unwatch(told.name)
    assert manager._state.tail.watchers == 0
    told.watch()
    await register(manager, "ada")
    await eventually(lambda: told.events != [], what="the event")
    await asyncio.sleep(0.05)
    assert told.events == [("opened", "ada", None)]


async def test_too_many_watchers_are_refused(manager: WebSocketConnectionManager) -> None:
    for number in range(tail.MAX_WATCHERS):
        Told(manager, number).watch()
    with pytest.raises(RequestFailedError, match="4 operators watch this node already") as refused:
        Told(manager, 99).watch()
    assert refused.value.code == "limit"
    assert manager.statistics().counters["views_refused"] == 1
    Told(manager, 0).watch()


class Silent:
    """A watch of nodes that tell nothing, and why."""

    def __init__(self, *reasons: str) -> None:
        self.reasons, self.asked, self.ended = list(reasons), list[int](), list[int]()

    async def begin(self, ask: int) -> list[str]:
        self.asked.append(ask)
        return self.reasons

    async def end(self, ask: int) -> None:
        self.ended.append(ask)


async def test_nodes_that_tell_nothing_are_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "ASK_AGAIN_S", 0.01)
    replies, watch = PendingReplies(), Silent("node a is not subscribed")
    messages = tail.followed(replies, watch)
    assert (await anext(messages))["silent"] == ["node a is not subscribed"]
    following = asyncio.ensure_future(anext(messages))
    await eventually(lambda: len(watch.asked) > 3, what="it is asked again")
    replies.resolve(watch.asked[0], NodeId("b"), ["RequestFailedError", "4 operators watch", {}])
    assert (await following)["silent"] == ["node b: 4 operators watch"]
    await messages.aclose()
    assert watch.ended == watch.asked[:1]


@pytest.mark.parametrize(
    "message",
    [
        None,
        7,
        {},
        {"events": [{}], "dropped": 0},
        {"events": [{"at": 1}], "dropped": 0},
        {"events": 1, "dropped": 0},
    ],
)
async def test_message_of_a_stranger_is_not_taken(message: Any) -> None:
    assert not tail.is_told(message)


async def test_messages_that_wait_for_a_slow_reader_are_bounded_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tail, "MAX_WAITING", 2)
    replies, watch = PendingReplies(), Silent("begin")
    messages = tail.followed(replies, watch)
    await anext(messages)
    for _ in range(5):
        replies.resolve(watch.asked[0], NodeId("b"), {"events": [], "dropped": 0})
    assert [(await anext(messages))["dropped"] for _ in range(2)] == [3, 0]
    await messages.aclose()


async def test_watchers_do_not_delay_a_shutdown(manager: WebSocketConnectionManager) -> None:
    Told(manager).watch()
    report = await manager.graceful_shutdown(30.0)
    assert report.duration_seconds < 5
    assert manager._state.tail.watchers == 0
