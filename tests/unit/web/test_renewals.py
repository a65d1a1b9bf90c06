"""Newer credentials on an open connection: what the application is asked, and what the client is answered."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket, WebSocketException
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_websocket_stabilizer import (
    ConfigurationError,
    Connection,
    Identity,
    WebSocketConnectionManager,
    offered_token,
)
from fastapi_websocket_stabilizer.sessions import exchange
from fastapi_websocket_stabilizer.wire.client_protocol import format_offer

LATER = {"code": "limit", "message": "a connection has one renewal at a time, and one in 1 s", "retry": True}
REFUSED = {"code": "forbidden", "message": "the token was refused", "retry": False}
LONG = "long " + "x" * 8000


class Noticing:
    """A middleware, which every handshake passes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["noticed"] = scope.get("path")
        await self.app(scope, receive, send)


class World:
    """An application whose tokens are "<client id> <seconds until they expire>"."""

    def __init__(self) -> None:
        self.manager = WebSocketConnectionManager()
        self.tokens: list[str | None] = []
        self.ended_dependencies = 0
        self.may_go = Event()  # the slow one, which a cancellation does not stop

        async def depends() -> Any:
            yield
            self.ended_dependencies += 1

        async def identify(
            websocket: WebSocket,
            name: str,
            token: Annotated[str | None, Depends(offered_token)],
            _: Annotated[None, Depends(depends)],
        ) -> Identity:
            self.tokens.append(token)
            assert websocket.scope["noticed"] == websocket.url.path
            if token is None:
                raise HTTPException(401, "a token is needed")
            if token == "broken":
                raise LookupError(token)
            await self.refuse(token)
            client_id, seconds = [*token.split(maxsplit=1), ""][:2]
            if client_id not in (name, "long"):
                raise HTTPException(403, {"code": "stranger", "message": "not you"})
            at = datetime.now(UTC) + timedelta(seconds=float(seconds)) if seconds[:1].isdigit() else None
            return Identity("ann" if client_id == "long" else client_id, expires_at=at)

        async def ignore(_: Connection, __: str | bytes) -> None: ...

        router = APIRouter(prefix="/api")
        self.manager.websocket(router, "/{name}", on_message=ignore)(identify)
        self.app = FastAPI()
        self.app.add_middleware(Noticing)
        self.app.include_router(router)
        inner, outer = FastAPI(), FastAPI()
        inner.include_router(router)
        inner.add_middleware(Noticing)
        outer.mount("/inner", inner)
        self.app.mount("/outer", outer)

    async def refuse(self, token: str) -> None:
        """Raise if the token is a status or a close code, or slow."""
        if token == "slow":
            while not self.may_go.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)
            raise HTTPException(401)
        if token.isdigit():
            raise HTTPException(int(token), "no") if int(token) < 1000 else WebSocketException(int(token))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["", "/outer/inner"])
def client(world: World, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with TestClient(world.app) as client:
        client.headers["prefix"] = request.param
        yield client


class Ann:
    """A client of the protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number = socket, 0
        self.hi = self.next()["hi"]
        assert self.next() == {"live": 0}

    def next(self) -> Any:
        return json.loads(self.socket.receive_text())

    def ask(self, *tokens: str) -> list[Any]:
        """Send tokens at once, and return the answers in the order in which they come."""
        for token in tokens:
            self.send(token)
        return [self.next() for _ in tokens]

    def send(self, token: str) -> None:
        self.number += 1
        self.socket.send_text(json.dumps({"auth": token, "q": self.number}))

    def renew(self, token: str) -> Any:
        """Send a token until it is looked at, which is once a second."""
        while True:
            (answer,) = self.ask(token)
            assert answer.pop("a") == self.number
            if answer.get("x") != LATER:
                return answer
            Event().wait(0.05)


def opened(client: TestClient, token: str, name: str = "ann") -> Any:
    path = f"{client.headers['prefix']}/api/{name}"
    return client.websocket_connect(path, format_offer(token=token))


def test_newer_token_is_given_to_the_function_that_identifies_clients(
    world: World, client: TestClient
) -> None:
    with opened(client, "ann 60") as socket:
        ann = Ann(socket)
        assert 58 <= ann.hi["exp"] <= 60
        (exp,) = ann.renew("ann 3600")["d"].values()
        assert 3598 <= exp <= 3600
        assert ann.renew("ann forever") == {"d": {}}
        assert ann.renew(LONG) == {"d": {}}
        (connection,) = world.manager._state.shards
        assert connection.expires_in_s is None
        assert world.ended_dependencies == 3, "those of the handshake last as long as its socket"
    assert world.tokens == ["ann 60", "ann 3600", "ann forever", LONG]
    assert world.manager.statistics().counters["connections_opened"] == 1


def test_refusal_of_a_newer_token_is_an_answer_and_the_connection_stays(
    world: World, client: TestClient
) -> None:
    with opened(client, "ann 60") as socket:
        ann = Ann(socket)
        assert ann.renew("bob 60")["x"] == {"code": "stranger", "message": "not you", "retry": False}
        assert ann.renew("broken")["x"] == {
            "code": "failed",
            "message": "the server could not handle it",
            "retry": False,
        }
        (connection,) = world.manager._state.shards
        assert 57 <= (connection.expires_in_s or 0) <= 60
    assert world.manager.statistics().counters["hooks_failed"] == 1
    counters = world.manager.statistics().counters
    assert counters["requests_refused"] == 2 + counters["renewals_deferred"]


@pytest.mark.parametrize("refused", [LONG, "401", "403", "404", "400", "1008", "4401", "4503", "4999"])
def test_refused_token_has_one_answer_whatever_is_wrong_with_it(
    world: World, client: TestClient, refused: str
) -> None:
    """The first one is a valid token of another client."""
    with opened(client, "bob 60", "bob") as socket:
        assert Ann(socket).renew(refused) == {"x": REFUSED}
    assert world.manager.statistics().counters["hooks_failed"] == 0


@pytest.mark.parametrize(
    ("raised", "code", "may_repeat"),
    [
        ("429", "limit", True),
        ("4029", "limit", True),
        ("503", "failed", True),
        ("1013", "failed", True),
        ("1011", "failed", False),
    ],
)
def test_answer_that_says_nothing_of_the_token_is_kept(
    client: TestClient, raised: str, code: str, may_repeat: bool
) -> None:
    with opened(client, "ann 60") as socket:
        answer = Ann(socket).renew(raised)["x"]
        assert (answer["code"], answer["retry"]) == (code, may_repeat)


def test_tokens_that_come_soon_after_another_one_are_not_looked_at(
    world: World, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "RENEWAL_INTERVAL_S", 3600.0)
    with opened(client, "ann 60") as socket:
        ann = Ann(socket)
        assert ann.renew("401") == {"x": REFUSED}
        assert [answer["x"] for answer in ann.ask(*["401"] * 40)] == [LATER] * 40
    assert world.tokens == ["ann 60", "401"]
    counters = world.manager.statistics().counters
    assert (counters["renewals_deferred"], counters["requests_refused"]) == (40, 41)


def test_token_is_looked_at_when_the_one_before_it_is_done(
    world: World, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "RENEWAL_INTERVAL_S", 0.0)
    with opened(client, "ann 60") as socket:
        ann = Ann(socket)
        ann.send("slow")
        assert [answer["x"] for answer in ann.ask(*["401"] * 40)] == [LATER] * 40
        world.may_go.set()
        assert ann.next() == {"a": 1, "x": REFUSED}
        assert "d" in ann.renew("ann 3600")
    assert world.tokens == ["ann 60", "slow", "ann 3600"]


def test_cancelled_renewal_counts_until_its_work_has_stopped(
    world: World, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "RENEWAL_INTERVAL_S", 0.0)
    with opened(client, "ann 60") as socket:
        ann = Ann(socket)
        ann.send("slow")
        while "slow" not in world.tokens:
            Event().wait(0.01)
        socket.send_text(json.dumps({"c": 1}))
        assert ann.ask("401") == [{"a": 2, "x": LATER}]
        world.may_go.set()
        assert "d" in ann.renew("ann 3600")


def test_credentials_that_do_not_expire_are_not_renewed(world: World, client: TestClient) -> None:
    with opened(client, "ann forever") as socket:
        ann = Ann(socket)
        assert "exp" not in ann.hi
        assert ann.renew("ann 60")["x"]["code"] == "not_found"
    assert world.tokens == ["ann forever"]


def test_draining_replica_still_takes_newer_tokens(world: World, client: TestClient) -> None:
    with opened(client, "ann 60") as socket:
        ann = Ann(socket)
        world.manager._state.is_draining = True
        assert ann.renew("ann 3600")["d"]["exp"] > 3000


@pytest.mark.parametrize("at", [datetime(2026, 1, 1), 5])  # noqa: DTZ001 - what is refused
def test_time_without_a_zone_is_refused(at: Any) -> None:
    manager, app = WebSocketConnectionManager(), FastAPI()

    @manager.websocket(app, "/ws")
    async def identify() -> Identity:
        return Identity("ann", expires_at=at)

    with (
        pytest.raises(ConfigurationError, match=r"expires_at .* time zone"),
        TestClient(app) as client,
        client.websocket_connect("/ws"),
    ):
        pass
