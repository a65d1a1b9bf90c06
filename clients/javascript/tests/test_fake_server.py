"""The server for tests of a page sends the frames that the real one sends."""

import base64
import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_websocket_stabilizer import (
    Connection,
    History,
    Identity,
    Mailbox,
    WebSocketConfig,
    WebSocketConnectionManager,
)

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH")
BY_TIME = "t", "at"
"""Kinds of frames that the real server sends when some time has passed."""
SMALLEST_ID = 10**12
Frame = str | dict[str, str]


class World(Protocol):
    """A server, its application and its clients."""

    def call(self, verb: str, *parameters: Any) -> None: ...

    def next(self, client: str) -> Frame:
        """Return the next frame of a client, bytes as ``{"hex": …}``."""


class Fake:
    def __init__(self) -> None:
        command = ["node", str(HERE / "fake_server.mjs")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.frames: dict[str, list[Frame]] = defaultdict(list)

    def call(self, verb: str, *parameters: Any) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([verb, *parameters]) + "\n")
        self.process.stdin.flush()
        for client, frame in json.loads(self.process.stdout.readline()):
            self.frames[client].append(frame)

    def next(self, client: str) -> Frame:
        frames = [frame for frame in self.frames[client] if frame != "{}"]
        assert frames, f"{client} gets no frame"
        self.frames[client] = frames[1:]
        return frames[0]


class Real:
    def __init__(self, stack: ExitStack) -> None:
        histories = {"chat": History(), "open": History()}
        self.manager = WebSocketConnectionManager(
            WebSocketConfig(
                history=histories, history_for_all=History(), mailbox=Mailbox(), client_presence=("chat",)
            )
        )
        self.stack = stack
        self.http = stack.enter_context(TestClient(application(self.manager)))
        self.sockets: dict[str, Any] = {}
        self.asked: Future[Any] | None = None

    def call(self, verb: str, *parameters: Any) -> None:
        getattr(self, f"_{verb}")(*parameters)

    def next(self, client: str) -> Frame:
        while True:
            if not client:
                assert self.asked is not None
                return {"answer": self.asked.result(timeout=30)}
            message = self.sockets[client].receive()
            if message["type"] == "websocket.close":
                return {"close": message["code"]}
            if (text := message.get("text")) is None:
                return {"hex": message["bytes"].hex()}
            if text[0] != "{" or next(iter(json.loads(text)), "") not in (*BY_TIME, ""):
                return str(text)

    def _run(self, method: Any, *parameters: Any, **options: Any) -> None:
        async def run() -> None:
            await method(*parameters, **options)

        assert self.http.portal is not None
        self.http.portal.call(run)

    def _open(self, client: str, items: list[str]) -> None:
        session = self.http.websocket_connect(f"/ws?name={client}", subprotocols=items)
        self.sockets[client] = self.stack.enter_context(session)

    def _send(self, client: str, frame: Frame) -> None:
        if isinstance(frame, str):
            self.sockets[client].send_text(frame)
        else:
            self.sockets[client].send_bytes(bytes.fromhex(frame["hex"]))

    def _hang_up(self, client: str) -> None:
        self.sockets.pop(client).close(1000)

    def _publish(self, room: str, data: Any) -> None:
        self._run(self.manager.broadcast, data_of(data), room=room)

    def _send_to(self, client: str, data: Any, store: bool) -> None:
        self._run(self.manager.send_to_client, client, data_of(data), store=store)

    def _broadcast(self, data: Any, store: bool) -> None:
        self._run(self.manager.broadcast, data_of(data), store=store)

    def _forget(self, room: str) -> None:
        self._run(self.manager.delete_history, room)

    def _put(self, client: str, room: str) -> None:
        self._run(self.manager.join, client, room)

    def _take_out(self, client: str, room: str) -> None:
        self._run(self.manager.leave, client, room)

    def _ask(self, client: str, name: str, data: Any) -> None:
        assert self.http.portal is not None
        self.asked = self.http.portal.start_task_soon(self.manager.request, client, name, data)


def data_of(data: Any) -> Any:
    return bytes.fromhex(data["hex"]) if isinstance(data, dict) and "hex" in data else data


def application(manager: WebSocketConnectionManager) -> FastAPI:
    app = FastAPI(lifespan=manager.lifespan)

    async def handle(connection: Connection, message: Any) -> None:
        if message == "bad":
            raise ValueError("no")

    @manager.websocket(app, "/ws", on_message=handle)
    async def identify(name: str) -> Identity:
        return Identity(name, rooms=["chat", "plain"])

    @manager.on_request("double")
    async def double(connection: Connection, data: int) -> int:
        return 2 * data

    @manager.on_join
    async def may_join(connection: Connection, room: str) -> bool:
        return room.startswith("open")

    return app


class Script:
    """What happens to a server, and what its clients got of it, without numbers that differ from run to run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: list[tuple[str, Any]] = []
        self.names: dict[int, str] = {}
        self.cursor: dict[str, Any] = {}
        """Positions of the client "ann"."""

    def receive(self, client: str, count: int = 1) -> None:
        for _ in range(count):
            frame = self.world.next(client)
            value = json.loads(frame) if isinstance(frame, str) else frame
            if client == "ann":
                self._follow(value)
            self.seen.append((client, self._plain(value)))

    def _follow(self, value: Any) -> None:
        match value:
            case [position, log, *_]:
                self._move(log, position)
            case {"hex": frame}:
                self._move(("chat", 0, 1)[int(frame[:2])], int(frame[2:18], 16))
            case {"hi": hi}:
                self.cursor = {"s": hi["sid"], "t": hi["t"], "at": dict(hi["at"])}
                self.cursor |= {"all": hi["all"], "box": hi["box"]}

    def _move(self, log: Any, position: int) -> None:
        if not position:
            return
        if isinstance(log, str):
            self.cursor["at"][log] = position
        else:
            self.cursor["all" if log else "box"] = position

    def _plain(self, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and value >= SMALLEST_ID:
            return self.names.setdefault(value, f"id {len(self.names)}")
        if isinstance(value, list):
            return [self._plain(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "hex" in value:
            return {
                "id": self._plain(int(value["hex"][2:18], 16)),
                "rest": value["hex"][:2] + value["hex"][18:],
            }
        known = {"t": 0, "ping": 0, "pong": False, "sid": "", "message": ""}
        if "p" in value:
            known |= {"v": value["v"] - self.cursor.setdefault("v", value["v"]), "from": 0}
        plain = {key: self._plain(each) for key, each in value.items() if key not in (*known, "retry")}
        return plain | {key: known[key] for key in known if key in value}

    def items(self, **changed: Any) -> list[str]:
        """Return the offer of "ann" with the positions that it has."""
        at = {room: position for room, position in self.cursor["at"].items() if position is not None}
        cursor = {key: value for key, value in self.cursor.items() if key != "v"} | {"at": at} | changed
        coded = base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")
        return ["stabilizer.v1", f"stabilizer.v1.resume.{coded}"]

    def play(self) -> list[tuple[str, Any]]:
        call, receive = self.world.call, self.receive
        call("open", "ann", ["stabilizer.v1"])
        receive("ann", 2)
        self._messages()
        self._calls()
        call("hang_up", "ann")
        call("publish", "chat", "missed")
        call("publish", "plain", "volatile")
        call("send_to", "ann", "mail", True)
        call("broadcast", "news", True)
        call("open", "ann", self.items())
        receive("ann", 5)
        call("hang_up", "ann")
        call("publish", "chat", "kept")
        call("forget", "chat")
        call("publish", "chat", "not replayed")
        call("open", "ann", ["stabilizer.v1", "stabilizer.v1.resume.later"])
        call("send", "ann", json.dumps({"resume": self.cursor | {"at": {"chat": self.cursor["at"]["chat"]}}}))
        receive("ann", 2)
        call("hang_up", "ann")
        call("open", "ann", self.items(at={"chat": 5}, all=6, box=7))
        receive("ann", 2)
        return self.seen

    def _messages(self) -> None:
        call, receive = self.world.call, self.receive
        for data in ({"a": 1}, "text", {"hex": "00ff"}):
            call("publish", "chat", data)
            call("publish", "plain", data)
            call("send_to", "ann", data, True)
            call("send_to", "ann", data, False)
            call("broadcast", data, True)
            call("broadcast", data, False)
            receive("ann", 6)
        call("send", "ann", '{"m":"not confirmed"}')
        call("send", "ann", '{"m":"good","n":1}')
        receive("ann")
        call("send", "ann", '{"m":"bad","n":2}')
        receive("ann")
        call("send", "ann", {"hex": "03000000030102"})
        receive("ann")
        call("send", "ann", '{"ping":1}')

    def _calls(self) -> None:
        call, receive = self.world.call, self.receive
        call("send", "ann", '{"q":1,"m":"double","d":21}')
        receive("ann")
        call("send", "ann", '{"q":2,"m":"unknown"}')
        receive("ann")
        call("send", "ann", '{"join":"open","q":3}')
        receive("ann", 2)
        call("send", "ann", '{"join":"shut","q":4}')
        receive("ann")
        call("publish", "open", [1])
        receive("ann")
        call("send", "ann", '{"leave":"open","q":5}')
        receive("ann", 2)
        call("put", "ann", "open")
        receive("ann")
        call("take_out", "ann", "open")
        receive("ann")
        call("ask", "ann", "confirm", {"text": "four"})
        receive("ann")
        call("send", "ann", '{"a":1,"d":4}')
        receive("")
        call("send", "ann", '{"p":"chat","v":0}')
        receive("ann")
        call("open", "bob", ["stabilizer.v1"])
        receive("bob", 2)
        receive("ann")
        call("hang_up", "bob")
        receive("ann")
        call("send", "ann", '{"p":"chat","v":null}')


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake()
    with fake.process:
        yield fake
        assert fake.process.stdin is not None
        fake.process.stdin.close()


@pytest.mark.timeout(180)
def test_frames_of_the_server_for_tests_are_those_of_the_real_one(fake: Fake) -> None:
    found = Script(fake).play()
    with ExitStack() as stack:
        expected = Script(Real(stack)).play()
    for one, other in zip(found, expected, strict=True):
        assert one == other
    assert len(found) > 40
