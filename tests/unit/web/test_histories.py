"""``GET /history/{room}``: who may read, which pages there are, and what a wrong request is answered."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import FastAPI, Header, HTTPException

from fastapi_websocket_stabilizer import (
    ConfigurationError,
    History,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.registry.refusals import UNREACHABLE
from fastapi_websocket_stabilizer.testing import MemoryCluster
from tests.support import http

ADA = {"user": "ada"}


async def may_read(room: str, user: Annotated[str, Header()]) -> bool:
    """Everybody may read except eve, who gets an error of the application, and bob, who is told no."""
    if user == "eve":
        raise HTTPException(401, "who are you?")
    return user == "ada"


def manager_of(**settings: Any) -> WebSocketConnectionManager:
    history = {"chat:": History(), "secret:": History(visible="since_join")}
    return WebSocketConnectionManager(WebSocketConfig(history=history, log_level="CRITICAL", **settings))


@asynccontextmanager
async def asking(manager: WebSocketConnectionManager) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.include_router(manager.history_router(may_read))
    async with http.AsyncClient(
        transport=httpx2.ASGITransport(app=app), base_url="http://test", headers=ADA
    ) as client:
        yield client


async def test_pages_follow_one_another_to_the_first_message() -> None:
    manager, began_ms = manager_of(), time.time_ns() // 1_000_000  # an id has whole milliseconds
    results = [await manager.broadcast({"n": number}, room="chat:1") for number in range(5)]
    pages: list[list[int]] = []
    before: dict[str, int] | None = {}
    async with asking(manager) as client:
        while before is not None:
            page = (await client.get("/history/chat:1", params={"limit": 2, **before})).json()
            pages.append([entry["message"]["n"] for entry in page["entries"]])
            before = None if page["cursor"] is None else {"before": page["cursor"]}
        newest = (await client.get("/history/chat:1")).json()["entries"]
    assert pages == [[3, 4], [1, 2], [0]]
    assert [entry["id"] for entry in newest] == [result.id for result in results]
    at_ms = [round(datetime.fromisoformat(entry["at"]).timestamp() * 1000) for entry in newest]
    assert all(began_ms <= at <= time.time_ns() // 1_000_000 for at in at_ms)


async def test_text_bytes_and_json_can_be_told_apart() -> None:
    manager = manager_of()
    for message in ('{"a":1}', b"\x00\xff", ["a"], "", b""):
        await manager.broadcast(message, room="chat:1")
    async with asking(manager) as client:
        entries = (await client.get("/history/chat:1")).json()["entries"]
    shown = [{key: entry[key] for key in entry if key not in ("id", "at")} for entry in entries]
    assert shown == [
        {"message": '{"a":1}'}, {"base64": "AP8="}, {"message": ["a"]}, {"message": ""}, {"base64": ""},
    ]  # fmt: skip


async def test_room_may_have_any_legal_name() -> None:
    manager, room = manager_of(), "chat:a/b %?#ü"
    await manager.broadcast("hello", room=room)
    async with asking(manager) as client:
        answer = await client.get("/history/chat%3Aa%2Fb%20%25%3F%23%C3%BC")
        assert [entry["message"] for entry in answer.json()["entries"]] == ["hello"]


@pytest.mark.parametrize(("user", "status"), [("ada", 200), ("bob", 403), ("eve", 401), (None, 422)])
async def test_application_decides_who_may_read(user: str | None, status: int) -> None:
    manager = manager_of()
    await manager.broadcast("private", room="chat:1")
    async with asking(manager) as client:
        client.headers.pop("user")
        answer = await client.get("/history/chat:1", headers={} if user is None else {"user": user})
    assert answer.status_code == status
    assert ("private" in answer.text) == (status == 200)


async def test_application_decides_also_about_rooms_without_a_history() -> None:
    """Otherwise the status would show which rooms there are."""
    async with asking(manager_of()) as client:
        for room in ("chat:1", "plain", "secret:1", "%00"):
            assert (await client.get(f"/history/{room}", headers={"user": "bob"})).status_code == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("plain", 404),
        ("secret:1", 403),
        ("", 400),
        ("chat:%00", 400),
        (f"chat:{'x' * 600}", 400),
        ("chat:1?limit=0", 422),
        ("chat:1?limit=101", 422),
        ("chat:1?before=0", 422),
        ("chat:1?before=9007199254740992", 422),
        ("chat:1?before=a", 422),
        ("chat:1?limit=100&before=9007199254740991", 200),
    ],
)
async def test_wrong_request_is_answered_with_json(path: str, status: int) -> None:
    async with asking(manager_of()) as client:
        answer = await client.get(f"/history/{path}")
    assert answer.status_code == status
    assert "detail" in answer.json() or status == 200


async def test_answer_is_kept_by_no_cache() -> None:
    async with asking(manager_of()) as client:
        assert (await client.get("/history/chat:1")).headers["cache-control"] == "no-store"


async def test_manager_that_is_not_started_answers_503() -> None:
    async with asking(manager_of(redis_url="redis://127.0.0.1:1")) as client:
        answer = await client.get("/history/chat:1")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_away_redis_is_answered_with_503_without_its_address() -> None:
    config = WebSocketConfig(history={"": History()}, log_level="CRITICAL")
    async with MemoryCluster(1, config) as cluster:
        (manager,) = cluster.managers
        cluster.cut(manager)
        async with asking(manager) as client:
            answer = await client.get("/history/chat:1")
    assert (answer.status_code, answer.json()) == (503, {"detail": UNREACHABLE})


def no_room(user: str) -> None: ...


@pytest.mark.parametrize("authorize", [None, True, "ada", no_room, lambda: True])
def test_route_cannot_be_made_without_a_decision_by_room(authorize: Any) -> None:
    with pytest.raises(ConfigurationError, match="dependency with a parameter room"):
        manager_of().history_router(authorize)


def test_routes_of_the_router_for_load_balancers_have_no_history() -> None:
    paths = {getattr(route, "path", "") for route in manager_of().router.routes}
    assert paths == {"/livez", "/readyz", "/drain", "/stabilizer/client.js"}
