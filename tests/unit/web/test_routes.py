"""Routes that serve sockets: what is refused, when, and with which HTTP answer."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConfigurationError,
    ConnectionLimitExceededError,
    DrainingError,
    Identity,
    InvalidNameError,
    MessageError,
    ShutdownError,
    WebSocketConfig,
    WebSocketConnectionManager,
    WebSocketStabilizerError,
)
from fastapi_websocket_stabilizer.testing import FakeWebSocket, MemoryCluster
from fastapi_websocket_stabilizer.web.routes import status_of
from tests.support.waiting import eventually

Close = Callable[[WebSocketConnectionManager], Any]

CLOSED: dict[str, Close] = {
    "draining": lambda manager: manager.drain(over=0.1),
    "shut down": lambda manager: manager.graceful_shutdown(),
    "max_connections is 1": lambda manager: manager.connect("first", object()),  # type: ignore[arg-type]  # any object
}


def application(manager: WebSocketConnectionManager, identified: list[str]) -> FastAPI:
    """Return two routes that note who was identified: one of ours, and one of the application's own."""
    app = FastAPI()

    def note(client_id: str) -> Identity:
        identified.append(client_id)
        return Identity(client_id)

    manager.websocket(app, "/ours/{client_id}")(note)

    async def own(websocket: WebSocket, identity: Identity = Depends(note)) -> None:  # noqa: B008 - FastAPI's way
        await manager.serve(websocket, identity.client_id)

    app.add_api_websocket_route("/own/{client_id}", own, dependencies=[Depends(manager.check_open)])
    return app


def refusal(app: FastAPI, path: str) -> WebSocketDenialResponse:
    with pytest.raises(WebSocketDenialResponse) as caught, TestClient(app).websocket_connect(path):
        pass
    return caught.value


@pytest.mark.parametrize("path", ["/ours/ann", "/own/ann"])
@pytest.mark.parametrize("why", CLOSED)
def test_closed_door_refuses_before_anybody_is_identified(why: str, path: str) -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(max_connections=1, log_level="ERROR"))
    asyncio.run(CLOSED[why](manager))
    identified: list[str] = []
    refused = refusal(application(manager, identified), path)
    assert (refused.status_code, identified) == (503, [])
    assert why in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (InvalidNameError("empty"), (400, None)),
        (MessageError("no JSON"), (400, None)),
        (ConnectionLimitExceededError("full", scope="client"), (409, None)),
        (ConnectionLimitExceededError("full", scope="node"), (503, 5)),
        (ConnectionLimitExceededError("max_connections_per_client, says the application"), (503, 5)),
        (DrainingError("draining"), (503, 1)),
        (ShutdownError("shut down"), (503, 5)),
        (BackendUnavailableError("away"), (503, 5)),
    ],
)
def test_status_of_a_refusal(error: WebSocketStabilizerError, answer: tuple[int, int | None]) -> None:
    assert status_of(error) == answer


@pytest.mark.parametrize("why", ["draining", "max_connections is 1"])
def test_closed_door_counts_whom_it_refuses(why: str) -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(max_connections=1, log_level="ERROR"))
    asyncio.run(CLOSED[why](manager))
    refusal(application(manager, []), "/ours/ann")
    assert manager.statistics().counters["connections_rejected"] == 1


async def test_door_is_closed_without_redis_under_refuse_only() -> None:
    config = WebSocketConfig(on_backend_loss="refuse", log_level="ERROR")
    async with MemoryCluster(1, config) as cluster:
        (manager,) = cluster.managers
        await manager.check_open()
        manager.registry.state.is_away = True
        with pytest.raises(HTTPException, match="503: the registry cannot be reached"):
            await manager.check_open()
        manager.registry.state.degrades = True
        await manager.check_open()


# Mistakes of the application are raised by name, so that the log has them; a client's are an HTTP answer.


def mistaken(identify: Callable[[], Any]) -> FastAPI:
    app = FastAPI()
    WebSocketConnectionManager(WebSocketConfig(log_level="ERROR")).websocket(app, "/ws")(identify)
    return app


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ("ann", ConfigurationError, ("who", "/ws", "must return an Identity", "got str", "return Identity(")),
        (None, ConfigurationError, ("who", "/ws", "must return an Identity", "got NoneType")),
        (Identity(7), InvalidNameError, ("client_id must be a string", "got int", "str()")),  # type: ignore[arg-type]  # the mistake
        (Identity("ann", metadata="admin"), MessageError, ("metadata must be a dict", "got str")),  # type: ignore[arg-type]  # the mistake
    ],
)  # fmt: skip
def test_mistake_of_identify_is_an_error_that_says_what_to_do(
    answer: Any, error: type[Exception], words: tuple[str, ...]
) -> None:
    def who() -> Any:
        return answer

    with pytest.raises(error) as caught, TestClient(mistaken(who)).websocket_connect("/ws"):
        pass
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "identity", [Identity("\x01"), Identity("ann", rooms=["\x01"])], ids=["client id", "room"]
)
def test_illegal_name_from_a_client_is_refused_with_400_before_accept(identity: Identity) -> None:
    refused = refusal(mistaken(lambda: identity), "/ws")
    assert (refused.status_code, "control characters" in refused.json()["detail"]) == (400, True)


async def test_one_room_may_be_given_as_a_bare_string() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(log_level="ERROR"))
    app = FastAPI()
    manager.websocket(app, "/ours")(lambda: Identity("ann", rooms="lobby"))

    async def own(websocket: WebSocket) -> None:
        async with manager.connection(websocket, "bob", rooms="lobby") as connection:
            async for _ in connection:
                pass

    app.add_api_websocket_route("/own", own)
    client = TestClient(app)
    with client.websocket_connect("/ours"), client.websocket_connect("/own"):
        await eventually(lambda: both_are_in(manager), what="rooms are entered behind accept")


async def both_are_in(manager: WebSocketConnectionManager) -> bool:
    return await manager.room_count("lobby") == 2


@pytest.mark.parametrize("confirm", ["2", -1, 0, float("nan"), float("inf"), 10**400, True, [1]])
async def test_confirm_must_be_a_positive_number_of_seconds(confirm: Any) -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(log_level="ERROR"))
    for call in (
        manager.send_to_client("ann", "hi", confirm=confirm),
        manager.broadcast("hi", confirm=confirm),
    ):
        with pytest.raises(
            ConfigurationError, match="confirm must be a positive number of seconds"
        ) as caught:
            await call
        assert f"got {confirm!r:.80}" in str(caught.value)


async def test_one_client_may_be_given_as_a_bare_string() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(log_level="ERROR"))
    ann = FakeWebSocket()
    await manager.connect("ann", ann)
    assert (await manager.send_to_clients("ann", "hi"), ann.received) == (1, ["hi"])


async def test_metadata_that_is_no_dict_is_refused_by_name() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(log_level="ERROR"))
    with pytest.raises(MessageError, match="metadata must be a dict, got str"):
        await manager.connect("ann", FakeWebSocket(), "admin")  # type: ignore[arg-type]  # the mistake
