"""Who may use ``POST /drain``: callers that send ``drain_secret``, from any address; without one, no caller."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager

SECRET = "open sesame, please"
ADDRESSES = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "203.0.113.9", "2001:db8::1", "localhost", ""]


def client_of(address: str, **settings: str) -> TestClient:
    app = FastAPI()
    app.include_router(WebSocketConnectionManager(WebSocketConfig(**settings)).router)  # type: ignore[arg-type]  # checked there

    async def from_address(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client": (address, 50_000)}, receive, send)

    return TestClient(from_address)  # its parameter ``client`` came with Starlette 0.42


def post(address: str, *, secret: str | None = None, **headers: str) -> tuple[int, str | None]:
    """Return the answer to ``POST /drain``, and why the node is not ready after it."""
    client = client_of(address, **({} if secret is None else {"drain_secret": secret}))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status = client.post("/drain", headers=named).status_code
    return status, client.get("/readyz").json().get("reason")


@pytest.mark.parametrize("authorization", [None, "Bearer ", "Bearer None", f"Bearer {SECRET}"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_caller_is_obeyed_without_a_secret(address: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    assert post(address, **headers) == (403, None)


def test_refusal_without_a_secret_names_the_setting_and_the_other_ways() -> None:
    detail = client_of("127.0.0.1").post("/drain").json()["detail"]
    assert [
        way for way in ("drain_secret", "SIGTERM", "stabilizer drain", "manager.drain()") if way not in detail
    ] == []


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
    headers = {b"authorization": f"Bearer {secret}".encode()}
    assert client_of("203.0.113.9", drain_secret=secret).post("/drain", headers=headers).status_code == 200


def test_manager_that_is_not_started_has_nothing_to_drain() -> None:
    client = client_of("127.0.0.1", drain_secret=SECRET, redis_url="redis://127.0.0.1:1")
    answer = client.post("/drain", headers={"authorization": f"Bearer {SECRET}"})
    assert (answer.status_code, "start()" in answer.json()["detail"]) == (503, True)
