"""What a node shows to operators: filtered, ordered, bounded, and in turns of the event loop."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    CloseCause,
    RequestFailedError,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.views import (
    MAX_AT_ONCE,
    MAX_ROWS,
    SHOWN_ROOMS,
    Found,
    OfClosed,
    OfConnections,
    OfRooms,
    Question,
    Views,
    answered,
    as_answer,
    is_answer,
    question_in,
    request_of,
)
from tests.integration.cluster import StalledSocket, register
from tests.support.waiting import eventually

NODE = NodeId("a1b2")
VIEW: dict[str, Any] = {
    "client_id": "ada", "connection_id": "a1b2.1", "node": "a1b2", "open_s": 1.0, "silent_s": 1.0, "ping_s": None,
    "queued_bytes": 0, "queued_limit": 1, "is_behind": False, "is_asked": False, "is_parked": False,
    "protocol": "", "expires_s": None, "rooms": [], "room_count": 0,
}  # fmt: skip


def node(**settings: Any) -> WebSocketConnectionManager:
    return WebSocketConnectionManager(WebSocketConfig(log_level="CRITICAL", **settings))


async def ask(manager: WebSocketConnectionManager, question: Question) -> Found:
    return await Views(manager._state).answer(question)


async def clients(manager: WebSocketConnectionManager, **about: Any) -> list[str]:
    return [view.client_id for view in (await ask(manager, OfConnections(**about))).rows]


async def test_connection_is_shown_with_what_an_operator_needs_and_nothing_private() -> None:
    manager = node()
    connection = await register(manager, "ada", name="Ada Lovelace")
    await connection.join("b")
    await connection.join("a")
    (view,) = (await ask(manager, OfConnections())).rows
    assert (view.client_id, view.connection_id, view.node) == (
        "ada",
        connection.connection_id,
        manager._state.node_id,
    )
    assert (view.rooms, view.room_count, view.protocol, view.is_parked) == (("a", "b"), 2, "", False)
    assert (view.queued_bytes, view.queued_limit, view.is_behind) == (0, manager.config.outbox_size, False)
    assert (view.ping_s, view.expires_s, view.is_asked) == (None, None, False)
    assert 0 <= view.silent_s <= view.open_s < 60
    assert "Lovelace" not in repr(view)


async def test_rooms_of_a_connection_are_shown_up_to_a_number() -> None:
    manager = node()
    connection = await register(manager, "ada")
    for number in range(SHOWN_ROOMS + 5):
        await connection.join(f"{number:03d}")
    (view,) = (await ask(manager, OfConnections())).rows
    assert view.rooms == tuple(f"{number:03d}" for number in range(SHOWN_ROOMS))
    assert view.room_count == SHOWN_ROOMS + 5


async def test_connections_are_chosen_by_client_room_and_state() -> None:
    manager = node()
    ada, _, slow = [await register(manager, name) for name in ("ada", "bob")] + [
        await register(manager, "slow", StalledSocket())
    ]
    await ada.join("lobby")
    for _ in range(2):
        asyncio.get_running_loop().create_task(manager.send_to_client("slow", "x" * 100))
    await eventually(lambda: slow.writer.queued_bytes > 0, what="a message waits")
    ada.heartbeat.asked(ada.loop.time())
    ada.expires_at_s = ada.loop.time() + 30
    assert await clients(manager, client="bob") == ["bob"]
    assert await clients(manager, client="nobody") == []
    assert await clients(manager, room="lobby") == ["ada"]
    assert await clients(manager, state="slow") == ["slow"]
    assert await clients(manager, state="silent") == ["ada"]
    assert await clients(manager, state="expiring") == ["ada"]
    assert await clients(manager, state="parked") == []
    assert await clients(manager, room="lobby", state="slow") == []
    assert (await clients(manager, order="outbox"))[0] == "slow"


async def test_ping_has_the_time_of_its_answer() -> None:
    manager = node()
    heartbeat = (await register(manager, "ada")).heartbeat
    heartbeat.heard(10.0)
    assert heartbeat.ping_s is None
    heartbeat.asked(11.0)
    heartbeat.heard(11.25)
    heartbeat.heard(19.0)
    (view,) = (await ask(manager, OfConnections())).rows
    assert view.ping_s == 0.25


async def test_rows_are_the_first_of_all_and_the_others_are_counted() -> None:
    manager = node()
    for number in range(1_203):
        (await register(manager, f"c{number}")).opened_at_s -= number
    found = await ask(manager, OfConnections(limit=3))
    assert ([view.client_id for view in found.rows], found.count) == (["c1202", "c1201", "c1200"], 1_203)
    assert len((await ask(manager, OfConnections(limit=100_000))).rows) == MAX_ROWS
    assert len((await ask(manager, OfConnections(limit=-1))).rows) == 1


async def test_many_connections_are_looked_at_in_turns() -> None:
    manager = node()
    for number in range(1_203):
        await register(manager, f"c{number}")
    turns, looking = 0, asyncio.ensure_future(ask(manager, OfConnections(state="slow")))
    while not looking.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 3
    assert looking.result() == Found([], 0)


async def test_ends_are_chosen_by_client_and_cause_and_the_newest_is_first() -> None:
    manager = node()
    for name in ("ada", "bob", "ada"):
        await (await register(manager, name)).close()
    await register(manager, "ada")
    await manager.disconnect("ada")
    causes = [end.cause.value for end in (await ask(manager, OfClosed(client="ada"))).rows]
    assert causes == ["kicked", "released", "released"]
    (end,) = (await ask(manager, OfClosed(cause=CloseCause.KICKED))).rows
    assert end.client_id == "ada"
    assert (await ask(manager, OfClosed(limit=1))).count == 4


async def test_rooms_are_chosen_by_prefix_and_the_largest_is_first() -> None:
    manager = node()
    for number in range(3):
        connection = await register(manager, f"c{number}")
        for room in ("game:large", "chat")[: 1 + (number == 0)]:
            await connection.join(room)
    found = await ask(manager, OfRooms())
    assert [(room.room, room.connections) for room in found.rows] == [("game:large", 3), ("chat", 1)]
    assert [room.room for room in (await ask(manager, OfRooms("chat"))).rows] == ["chat"]


async def test_too_many_questions_at_once_are_refused_and_counted() -> None:
    manager = node()
    await register(manager, "ada")
    views = Views(manager._state)
    asked = [views.answer(OfConnections()) for _ in range(MAX_AT_ONCE + 2)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    refused = [each for each in found if isinstance(each, RequestFailedError)]
    assert [each.code for each in refused] == ["limit", "limit"]
    assert manager.statistics().counters["views_refused"] == 2
    assert (await views.answer(OfConnections())).count == 1


@pytest.mark.parametrize(
    "question",
    [
        OfConnections(),
        OfConnections("ada", "lobby", "slow", "outbox", 7),
        OfClosed("ada", CloseCause.SLOW, 7),
        OfRooms("game:", 7),
    ],
)
async def test_question_and_answer_survive_the_way_to_another_node(question: Question) -> None:
    assert question_in(request_of(question)) == question
    manager = node()
    await (await register(manager, "ada")).join("game:1")
    await (await register(manager, "ada")).close()
    found = await ask(manager, replace(question, limit=7))
    answer = json.loads(json.dumps(as_answer(question, found)))
    assert is_answer(answer)
    assert answered(question, [NODE], {NODE: answer}, 3.0).found == {NODE: found}


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"what": "secrets"},
        {"what": ["connections"]},
        {"what": "connections", "limit": "many"},
        {"what": "connections", "order": "size"},
        {"what": "closed", "cause": "bored"},
        {"what": "rooms", "prefix": 1},
    ],
)
def test_question_of_a_stranger_is_malformed(request_: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"nothing is known of|validation error"):
        question_in(request_)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "no answer within 3 s"),
        (["RequestFailedError", "busy", {}], "busy"),
        ({"rows": [{"client_id": "ada"}], "count": 1}, "its answer is not one of this release"),
        ({"rows": 1, "count": 1}, "its answer is not one of this release"),
        ({"count": 1}, "its answer is not one of this release"),
        (7, "its answer is not one of this release"),
        ({"rows": [], "count": -1}, "its answer is not one of this release"),
        ({"rows": [], "count": 10**400}, "its answer is not one of this release"),
        ({"rows": [VIEW | {"open_s": float("inf")}], "count": 1}, "its answer is not one of this release"),
        ({"rows": [VIEW | {"queued_bytes": 10**400}], "count": 1}, "its answer is not one of this release"),
    ],
)
def test_node_without_an_answer_is_silent(answer: Any, why: str) -> None:
    assert answered(OfConnections(), [NODE], {NODE: answer}, 3.0).silent == {NODE: why}


def test_time_without_a_zone_is_no_answer() -> None:
    end = {
        "client_id": "ada", "connection_id": "a1b2.1", "node": "a1b2", "at": "2026-01-01T00:00:00", "cause": "slow",
        "code": 4008, "reason": "", "error": "", "lasted_s": 1.0, "silent_s": 1.0, "queued_bytes": 0,
    }  # fmt: skip
    for at, is_found in (("2026-01-01T00:00:00", False), ("2026-01-01T00:00:00Z", True)):
        found = answered(OfClosed(), [NODE], {NODE: {"rows": [end | {"at": at}], "count": 1}}, 3.0)
        assert bool(found.found) == is_found


def test_usual_answer_is_found() -> None:
    assert answered(OfConnections(), [NODE], {NODE: {"rows": [VIEW], "count": 1}}, 3.0).silent == {}
