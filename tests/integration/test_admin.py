"""The admin routes of one node show all nodes, and say so when some of them, or Redis, do not answer."""

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from fastapi_websocket_stabilizer.testing import RedisServer
from tests.integration.asgi import Caller
from tests.integration.cluster import Managers, join, register
from tests.support.waiting import eventually

SECRET = "a secret of the operators"
HEADERS = {"Authorization": f"Bearer {SECRET}", "X-Stabilizer": "1"}


def admin(node: WebSocketConnectionManager) -> Caller:
    """Return a caller of the routes of one node."""
    app = FastAPI()
    app.include_router(node.admin_router(prefix="/admin", actions=["kick", "drain", "broadcast"]))
    return Caller(app, "/admin/api/", HEADERS)


@pytest.fixture
async def nodes(own_managers: Managers) -> list[WebSocketConnectionManager]:
    settings = {"admin_secret": SECRET, "redis_timeout_s": 1.0, "log_level": "CRITICAL"}
    return await own_managers.start_many(3, **settings)


async def published(nodes: list[WebSocketConnectionManager]) -> None:
    for node in nodes:
        await node._registry.telemetry.publish()


async def test_any_node_shows_all_nodes(nodes: list[WebSocketConnectionManager]) -> None:
    for number, node in enumerate(nodes):
        for _ in range(number + 1):
            await join(node, f"client {number}", "lobby")
    await published(nodes)
    client = admin(nodes[0])
    overview = await client.read("overview")
    assert {node["node_id"]: node["connections"] for node in overview["nodes"]} == {
        node._state.node_id: len(node._state.shards) for node in nodes
    }
    assert (overview["mode"], overview["redis"]["reachable"], overview["missing"]) == ("redis", True, 0)
    found = await client.read("connections?room=lobby")
    assert {row["client_id"] for row in found["rows"]} == {"client 0", "client 1", "client 2"}
    assert found["silent"] == {}
    (room,) = (await client.read("rooms"))["rows"]
    assert (room["room"], room["nodes"]) == ("lobby", 3)
    last = nodes[2]._state.node_id
    assert [row["node"] for row in (await client.read(f"connections?node={last}"))["rows"]] == [last]


async def test_client_of_another_node_is_explained_and_closed(
    nodes: list[WebSocketConnectionManager],
) -> None:
    socket = await join(nodes[1], "ada", "lobby")
    client = admin(nodes[0])
    found = await client.read("clients/ada")
    assert [view["node"] for view in found["connections"]] == [nodes[1]._state.node_id]
    assert found["verdict"] == ["Nothing is wrong with its connections."]
    answer = await client.post("clients/ada/disconnect", {"reason": "spam"})
    assert answer.json() == {"client_id": "ada", "closed": 1}
    assert socket.closed_with == (4510, "spam")
    (end,) = (await client.read("closed?cause=kicked"))["rows"]
    assert (end["client_id"], end["node"]) == ("ada", nodes[1]._state.node_id)


async def test_another_node_is_drained(nodes: list[WebSocketConnectionManager]) -> None:
    await join(nodes[1], "ada")
    client = admin(nodes[0])
    other = nodes[1]._state.node_id
    answer = await client.post(f"nodes/{other}/drain", {"over_s": 0.2})
    assert answer.json() == {"node_id": other}
    await eventually(lambda: len(nodes[1]._state.shards) == 0, what="its client is moved")
    await published(nodes)
    shown = {node["node_id"]: node["draining"] for node in (await client.read("overview"))["nodes"]}
    assert shown == {node._state.node_id: node is nodes[1] for node in nodes}


async def test_node_that_does_not_answer_is_named(
    nodes: list[WebSocketConnectionManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: Any) -> Any:
        await asyncio.sleep(60)

    await join(nodes[0], "ada")
    monkeypatch.setattr(nodes[2]._registry.requests.views, "answer", never)
    client = admin(nodes[0])
    found = await client.read("connections")
    assert [row["client_id"] for row in found["rows"]] == ["ada"]
    assert found["silent"] == {nodes[2]._state.node_id: "no answer within 1 s"}


async def test_without_redis_the_own_node_is_shown(
    nodes: list[WebSocketConnectionManager], server: RedisServer
) -> None:
    await join(nodes[0], "ada", "lobby")
    client = admin(nodes[0])
    assert (await client.read("overview"))["redis"]["reachable"]
    server.kill()
    await eventually(lambda: nodes[0]._state.is_away, what="the node has noticed")
    overview = await client.read("overview")
    assert [node["node_id"] for node in overview["nodes"]] == [nodes[0]._state.node_id]
    assert not overview["redis"]["reachable"]
    assert "RedisFailing" in [problem["name"] for problem in overview["problems"]]
    for path in ("connections", "rooms", "clients/ada", "closed", "config"):
        await client.read(path)
    assert [row["client_id"] for row in (await client.read("connections"))["rows"]] == ["ada"]
    answer = await client.post("clients/bob/disconnect", {})
    assert answer.status in (404, 503)


async def test_problem_is_shown_for_a_minute(nodes: list[WebSocketConnectionManager]) -> None:
    def fail(_: Any) -> None:
        raise ValueError("asked for")

    client = admin(nodes[0])
    await published(nodes)
    assert "HookFailing" not in [each["name"] for each in (await client.read("overview"))["problems"]]
    nodes[1].on_connect(fail)
    await register(nodes[1], "ada")
    for _ in range(3):
        await published(nodes)
        problems = (await client.read("overview"))["problems"]
        # A machine that is busy with other tests may keep the event loop from its work.
        found = [
            (each["name"], each["node_id"]) for each in problems if each["name"] not in ("LoopLag", "BusLag")
        ]
        assert found == [("HookFailing", nodes[1]._state.node_id)]


async def test_doctor_examines_redis_once_for_all_callers(nodes: list[WebSocketConnectionManager]) -> None:
    client = admin(nodes[0])
    first, second = await asyncio.gather(client.read("doctor"), client.read("doctor"))
    assert first == second
    assert {"level", "text", "advice"} == set(first["findings"][0])


async def test_events_of_all_nodes_are_told(nodes: list[WebSocketConnectionManager]) -> None:
    events: list[tuple[str, str]] = []

    async def follow() -> None:
        async for message in nodes[0]._registry.survey.tail():
            events.extend((event["kind"], event["client_id"]) for event in message["events"])

    following = asyncio.ensure_future(follow())
    await eventually(lambda: all(node._state.tail.watchers for node in nodes), what="all are watched")
    await (await register(nodes[0], "ada")).close()
    await register(nodes[1], "bob")
    await eventually(lambda: len(events) == 3, what="three events")
    following.cancel()
    assert sorted(events) == [("closed", "ada"), ("opened", "ada"), ("opened", "bob")]


async def test_stream_of_events_ends_and_can_be_asked_for_again(
    nodes: list[WebSocketConnectionManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_websocket_stabilizer.web.admin.EVENTS_LAST_S", 0.5)
    client = admin(nodes[0])
    asked = asyncio.ensure_future(client.get("events?kind=opened&client=ada"))
    await eventually(lambda: nodes[1]._state.tail.watchers == 1, what="the other is watched")
    for name in ("ada", "bob"):
        await (await register(nodes[1], name)).close()
    answer = await asked
    assert answer.content_type == "application/x-ndjson"
    events = [json.loads(line) for line in answer.text.splitlines() if line]
    assert [(event["kind"], event["client_id"]) for event in events] == [("opened", "ada")]


async def test_too_many_streams_are_refused(nodes: list[WebSocketConnectionManager]) -> None:
    state = nodes[0]._state

    async def hear(_: dict[str, Any]) -> None:
        pass

    for number in range(4):
        state.tail.watch((state.node_id, 1_000 + number), hear)
    client = admin(nodes[0])
    answer = await client.get("events")
    assert (answer.status, answer.content_type) == (429, "application/problem+json")
