"""Who may use ``POST /drain``, by address, header and secret."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager

SECRET = "open sesame, please"
LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]
ELSEWHERE = ["203.0.113.9", "10.0.0.7", "2001:db8::1", "::ffff:203.0.113.9", "localhost", "", "0.0.0.0"]


def post(address: str, *, secret: str | None = None, **headers: str) -> tuple[int, str | None]:
    """Return the answer to ``POST /drain``, and why the node is not ready after it."""
    manager = WebSocketConnectionManager(WebSocketConfig(drain_secret=secret))
    app = FastAPI()
    app.include_router(manager.router)
    client = TestClient(app, client=(address, 50_000))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status = client.post("/drain", headers=named).status_code
    return status, client.get("/readyz").json().get("reason")


@pytest.mark.parametrize("address", LOOPBACK)
def test_caller_on_this_machine_is_obeyed(address: str) -> None:
    assert post(address) == (200, "draining")


@pytest.mark.parametrize("address", ELSEWHERE)
def test_caller_elsewhere_is_refused(address: str) -> None:
    assert post(address) == (403, None)


@pytest.mark.parametrize(
    "header",
    ["x_forwarded_for", "X_Forwarded_Host", "x_forwarded_proto", "Forwarded", "x_real_ip", "via", "origin"],
)
def test_forwarded_caller_is_refused_whatever_his_address(header: str) -> None:
    assert post("127.0.0.1", **{header: "127.0.0.1"}) == (403, None)


@pytest.mark.parametrize("address", ["127.0.0.1", "203.0.113.9"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_secret_opens_from_anywhere_and_through_proxies(address: str, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {SECRET}", "x_forwarded_for": "203.0.113.9"}
    assert post(address, secret=SECRET, **headers) == (200, "draining")


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", f"Basic {SECRET}", f"Bearer {SECRET}!", SECRET])
def test_wrong_secret_is_refused_on_this_machine_too(given: str) -> None:
    assert post("127.0.0.1", secret=SECRET, authorization=given) == (403, None)


def test_secret_need_not_be_ascii() -> None:
    secret = "sésame, öffne dich"
    manager = WebSocketConnectionManager(WebSocketConfig(drain_secret=secret))
    app = FastAPI()
    app.include_router(manager.router)
    client = TestClient(app, client=("203.0.113.9", 50_000))
    headers = {b"authorization": f"Bearer {secret}".encode()}
    assert client.post("/drain", headers=headers).status_code == 200


def test_manager_that_is_not_started_has_nothing_to_drain() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(redis_url="redis://127.0.0.1:1"))
    app = FastAPI()
    app.include_router(manager.router)
    answer = TestClient(app, client=("127.0.0.1", 50_000)).post("/drain")
    assert (answer.status_code, "start()" in answer.json()["detail"]) == (503, True)
