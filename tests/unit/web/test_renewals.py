"""Newer credentials on an open connection: what the application is asked, and what the client is answered."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_websocket_stabilizer import (
    ConfigurationError,
    Connection,
    Identity,
    WebSocketConnectionManager,
    offered_token,
)
from fastapi_websocket_stabilizer.wire.client_protocol import format_offer

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

    def renew(self, token: str) -> Any:
        self.number += 1
        self.socket.send_text(json.dumps({"auth": token, "q": self.number}))
        answer = self.next()
        assert answer.pop("a") == self.number
        return answer


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
        assert ann.renew("broken")["x"]["code"] == "failed"
        (connection,) = world.manager._state.shards
        assert 57 <= (connection.expires_in_s or 0) <= 60
    assert world.manager.statistics().counters["hooks_failed"] == 1
    assert world.manager.statistics().counters["requests_refused"] == 2


def test_token_of_another_client_is_refused(world: World, client: TestClient) -> None:
    with opened(client, "bob 60", "bob") as socket:
        assert Ann(socket).renew(LONG)["x"]["code"] == "forbidden"


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
