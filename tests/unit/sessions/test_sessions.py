"""The sessions of a node, in memory: the first frame of a client, and what the application is told before it."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from fastapi_websocket_stabilizer import (
    Connection,
    History,
    Identity,
    ResumeOutcome,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.registry import members


class World:
    """A manager whose client comes and goes, on one event loop."""

    def __init__(self) -> None:
        bounds = History(messages=4)
        self.manager = WebSocketConnectionManager(
            WebSocketConfig(history={"chat:": bounds}, history_for_all=bounds)
        )
        self.app = FastAPI()
        self.cursor: str | None = None

        async def ignore(_: Connection, __: str | bytes) -> None: ...

        @self.manager.websocket(self.app, "/ws", on_message=ignore)
        async def identify() -> Identity:
            return Identity("ann", rooms=["chat:1", "chat:2", "plain"])

        self.client = TestClient(self.app)

    @contextmanager
    def visit(self) -> Iterator[WebSocketTestSession]:
        offer = [] if self.cursor is None else [f"stabilizer.v1.resume.{encoded(self.cursor)}"]
        with self.client.websocket_connect("/ws", ["stabilizer.v1", *offer]) as socket:
            yield socket

    def begin(self, socket: WebSocketTestSession) -> Any:
        """Return the content of the first frame."""
        hi = json.loads(socket.receive_text())["hi"]
        at = {room: position for room, position in hi["at"].items() if position is not None}
        self.cursor = json.dumps({"s": hi["sid"], "t": hi["t"], "at": at, "all": hi["all"]})
        return hi

    def store(self, room: str | None, *messages: str, exclude: str | None = None) -> None:
        for message in messages:
            self.call(partial(self.manager.broadcast, message, room=room, exclude_client=exclude))

    def call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        assert self.client.portal is not None
        return self.client.portal.call(function)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    with world.client:
        for room in ("chat:1", "chat:2", None):
            world.store(room, "before")
        yield world


def encoded(cursor: str) -> str:
    return urlsafe_b64encode(cursor.encode()).decode().rstrip("=")


def test_application_is_told_what_a_client_missed_before_its_first_frame(world: World) -> None:
    outcomes: list[ResumeOutcome] = []

    @world.manager.on_resume
    async def came_back(connection: Connection, outcome: ResumeOutcome) -> None:
        outcomes.append(outcome)
        await connection.send("welcome back")

    with world.visit() as socket:
        assert "re" not in world.begin(socket)
    assert outcomes == [], "a new client has not come back"
    world.store("chat:1", "1", "2")
    world.store(None, "all")
    with world.visit() as socket:
        assert world.begin(socket)["re"] is True
        frames = [json.loads(socket.receive_text()) for _ in range(5)]
    assert [frame[1:] if isinstance(frame, list) else frame for frame in frames] == [
        ["chat:1", "1"],
        ["chat:1", "2"],
        [1, "all"],
        {"live": 3},
        [0, "welcome back"],
    ]
    world.store("chat:2", *map(str, range(20)))
    with world.visit() as socket:
        assert world.begin(socket)["re"] is False
    assert outcomes == [
        ResumeOutcome(True, 3, {}, has_session=False),
        ResumeOutcome(False, 3, {"chat:2": "trimmed"}, has_session=False),
    ]


def test_session_that_was_taken_over_is_told(world: World) -> None:
    outcomes: list[ResumeOutcome] = []
    world.manager.on_resume(lambda _, outcome: outcomes.append(outcome))
    with world.visit() as socket:
        world.begin(socket)
        socket.send_text('{"m":"hello","n":1}')
        while "n" not in json.loads(socket.receive_text()):
            pass
    with world.visit() as socket:
        assert world.begin(socket)["n"] == 1
    assert outcomes == [ResumeOutcome(True, 0, {}, has_session=True)]


def test_cursor_that_cannot_be_read_has_lost_every_history(world: World) -> None:
    outcomes: list[ResumeOutcome] = []
    world.manager.on_resume(lambda _, outcome: outcomes.append(outcome))
    world.cursor = "no cursor"
    with world.visit() as socket:
        assert world.begin(socket)["re"] is False
    lost: dict[str | int, str] = {"chat:1": "unknown", "chat:2": "unknown", 1: "unknown"}
    assert outcomes == [ResumeOutcome(False, 0, lost, has_session=False)]


def test_hook_may_end_a_connection_before_its_first_frame(world: World) -> None:
    @world.manager.on_resume
    async def refuse(connection: Connection, _: ResumeOutcome) -> None:
        await connection.close(4503, "no")

    with world.visit() as socket:
        world.begin(socket)
    with world.visit() as socket:
        with pytest.raises(WebSocketDisconnect) as error:
            socket.receive_text()
        assert (error.value.code, error.value.reason) == (4503, "no")


def test_hook_that_raises_ends_nothing(world: World) -> None:
    @world.manager.on_resume
    async def fail(_: Connection, __: ResumeOutcome) -> None:
        raise LookupError

    for _ in range(2):
        with world.visit() as socket:
            world.begin(socket)
    assert world.manager.statistics().counters["hooks_failed"] == 1


# Positions that move without a message


def test_excluded_client_is_told_its_position_soon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "TOLD_AFTER_S", 0.01)
    with world.visit() as socket:
        before = world.begin(socket)["at"]["chat:1"]
        assert json.loads(socket.receive_text()) == {"live": 0}
        for _ in range(2):
            world.store("chat:1", "not for her", "nor this", exclude="ann")
            at = json.loads(socket.receive_text())["at"]["chat:1"]
            assert at > before
            before = at
        world.store("chat:1", "for all")
        frame = json.loads(socket.receive_text())
        while isinstance(frame, dict):  # on a slow machine each of the two entries has told a position
            frame = json.loads(socket.receive_text())
        assert frame[0] > before


def test_excluded_client_is_told_its_positions_before_an_orderly_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "TOLD_AFTER_S", 3600.0)
    with world.visit() as socket:
        before = world.begin(socket)
        assert json.loads(socket.receive_text()) == {"live": 0}
        world.store("chat:1", "not for her", exclude="ann")
        world.store("chat:2", "not for her", exclude="ann")
        world.store("chat:2", "for all")
        world.store(None, "not for her", exclude="ann")
        world.call(partial(world.manager.disconnect, "ann"))
        frames = [json.loads(socket.receive_text()) for _ in range(3)]
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    assert frames[0][1:] == ["chat:2", "for all"]
    assert frames[1]["all"] > before["all"]
    assert frames[2]["at"]["chat:1"] > before["at"]["chat:1"]
