"""Each handshake has one outcome, and the label of the metric is one that the code knows."""

from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Query
from starlette.exceptions import WebSocketException
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConnectionLimitExceededError,
    DrainingError,
    Identity,
    InvalidNameError,
    InvalidTokenError,
    MemoryLimitExceededError,
    NotStartedError,
    ShutdownError,
    WebSocketConfig,
    WebSocketConnectionManager,
    WebSocketStabilizerError,
)
from fastapi_websocket_stabilizer.registry.arrivals import Arrival, arrival_of


def served(identify: Any, **settings: Any) -> tuple[WebSocketConnectionManager, TestClient]:
    manager = WebSocketConnectionManager(WebSocketConfig(log_level="CRITICAL", **settings))
    app = FastAPI(lifespan=manager.lifespan)
    manager.websocket(app, "/ws")(identify)
    return manager, TestClient(app)


def outcomes(manager: WebSocketConnectionManager) -> dict[str, int]:
    return {name: count for name, count in manager._state.arrivals.counts.items() if count}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (HTTPException(401), "unauthenticated"),
        (HTTPException(403), "forbidden"),
        (HTTPException(429), "rate_limited"),
        (HTTPException(418), "refused"),
        (HTTPException(500), "error"),
        (WebSocketException(4321), "refused"),
        (ValueError("asked for"), "error"),
    ],
)
@pytest.mark.parametrize("subprotocols", [None, ["stabilizer.v1"]])
def test_refusal_of_the_application_is_counted(
    error: Exception, outcome: str, subprotocols: list[str] | None
) -> None:
    async def identify() -> Identity:
        raise error

    manager, client = served(identify)
    expected = ValueError if isinstance(error, ValueError) else WebSocketDisconnect
    with (
        client,
        pytest.raises(expected),
        client.websocket_connect("/ws", subprotocols=subprotocols) as socket,
    ):
        socket.receive_text()
    assert outcomes(manager) == {outcome: 1}


def test_parameter_that_is_not_valid_is_counted() -> None:
    async def identify(number: int = Query()) -> Identity:
        return Identity(str(number))

    manager, client = served(identify)
    with client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws?number=many"):
        pass
    assert outcomes(manager) == {"invalid": 1}


def test_token_that_is_not_valid_is_counted_although_its_error_is_one_of_this_library() -> None:
    async def identify() -> Identity:
        try:
            raise InvalidTokenError("no such token")
        except InvalidTokenError as error:
            raise HTTPException(401) from error

    manager, client = served(identify)
    with client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws"):
        pass
    assert outcomes(manager) == {"unauthenticated": 1}


def test_room_that_is_not_legal_is_counted() -> None:
    async def identify() -> Identity:
        return Identity("ada", rooms=["a\x00b"])

    manager, client = served(identify)
    with client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws"):
        pass
    assert outcomes(manager) == {"invalid": 1}


def test_broken_subprotocol_is_counted() -> None:
    manager, client = served(anybody)
    with (
        client,
        client.websocket_connect(
            "/ws", subprotocols=["stabilizer.v1", "stabilizer.v1.auth.YQ", "stabilizer.v1.auth.Yg"]
        ) as socket,
        pytest.raises(WebSocketDisconnect),
    ):
        socket.receive_text()
    assert outcomes(manager) == {"invalid": 1}


async def anybody() -> Identity:
    return Identity("ada")


def test_accepted_and_full_are_counted_and_measured() -> None:
    manager, client = served(anybody, max_connections=1)
    with (
        client,
        client.websocket_connect("/ws"),
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/ws"),
    ):
        pass
    assert outcomes(manager) == {"accepted": 1, "node_full": 1}
    histograms = manager._state.histograms
    assert (histograms.handshake.snapshot().count, histograms.claim.snapshot().count) == (1, 1)


def test_name_that_is_not_legal_is_counted_once() -> None:
    async def identify() -> Identity:
        return Identity("a\x00b")

    manager, client = served(identify)
    with client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws"):
        pass
    assert outcomes(manager) == {"invalid": 1}


def test_drain_is_counted() -> None:
    manager, client = served(anybody)
    with client:
        manager._state.is_draining = True
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws"):
            pass
    assert outcomes(manager) == {"draining": 1}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConnectionLimitExceededError("", scope="node", limit=1, current=1), Arrival.NODE_FULL),
        (ConnectionLimitExceededError("", scope="client", limit=1, current=1), Arrival.CLIENT_FULL),
        (MemoryLimitExceededError(""), Arrival.NODE_FULL),
        (InvalidNameError(""), Arrival.INVALID),
        (DrainingError(""), Arrival.DRAINING),
        (ShutdownError(""), Arrival.DRAINING),
        (BackendUnavailableError(""), Arrival.REDIS_AWAY),
        (NotStartedError(""), Arrival.ERROR),
    ],
)
def test_error_of_the_library_has_one_outcome(error: WebSocketStabilizerError, outcome: Arrival) -> None:
    assert arrival_of(error) is outcome


async def test_failure_of_a_hook_is_counted_by_its_event() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(log_level="CRITICAL"))

    def fail(*_: Any) -> None:
        raise ValueError("asked for")

    manager.on_connect(fail)
    hooks = manager._state.hooks
    hooks.on_disconnect.append(failing := lambda *_: fail())
    await hooks.run(hooks.on_connect, None)
    await hooks.run([failing], None)
    await hooks.call(lambda *_: fail(), None)
    assert {event: count for event, count in hooks.failed.items() if count} == {
        "on_connect": 1,
        "on_disconnect": 1,
        "on_message": 1,
    }
    assert manager.statistics().counters["hooks_failed"] == 3


@pytest.mark.parametrize("is_measured", [False, True])
def test_functions_for_messages_are_measured_if_asked_for(is_measured: bool) -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(log_level="CRITICAL", enable_metrics=is_measured))
    app = FastAPI(lifespan=manager.lifespan)

    @manager.on_message
    async def echo(connection: Any, message: str | bytes) -> None:
        await connection.send(message)

    manager.websocket(app, "/ws")(anybody)
    with TestClient(app) as client, client.websocket_connect("/ws") as socket:
        for _ in range(3):
            socket.send_text("hello")
            assert socket.receive_text() == "hello"
    assert manager._state.histograms.message_handler.snapshot().count == 3 * is_measured
