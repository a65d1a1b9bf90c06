"""The route of the metrics: who may see them, and what it says without the extra."""

import sys

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from fastapi_websocket_stabilizer import ConfigurationError, WebSocketConfig, WebSocketConnectionManager

SECRET = "a secret of the scrapers"


def client_of(manager: WebSocketConnectionManager) -> TestClient:
    app = FastAPI()
    app.include_router(manager.metrics_router())
    return TestClient(app)


def manager(**settings: str) -> WebSocketConnectionManager:
    return WebSocketConnectionManager(WebSocketConfig(log_level="ERROR", **settings))  # type: ignore[arg-type]  # names of settings


def test_metrics_are_text_that_no_cache_keeps() -> None:
    answer = client_of(manager(namespace="chat")).get("/metrics")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'stabilizer_connections{registry="chat",worker="0"} 0.0' in answer.text
    assert 'stabilizer_scrape_missing_workers{registry="chat"} 0.0' in answer.text


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"])
def test_request_through_a_proxy_is_refused_and_told_what_to_set(header: str) -> None:
    answer = client_of(manager()).get("/metrics", headers={header: "for=203.0.113.7"})
    assert (answer.status_code, "metrics_secret" in answer.text) == (403, True)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 403),
        ("Bearer wrong", 403),
        (f"Basic {SECRET}", 403),
        ("Bearer \xff", 403),
        (f"bearer {SECRET}", 200),
    ],
)
def test_secret_is_the_only_key(authorization: str, status: int) -> None:
    headers = {b"Authorization": authorization.encode("latin-1"), b"X-Forwarded-For": b"203.0.113.7"}
    answer = client_of(manager(metrics_secret=SECRET)).get("/metrics", headers=headers)
    assert answer.status_code == status


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for call in (manager().metrics_router, manager().prometheus_collector):
        with pytest.raises(
            ConfigurationError, match=r"pip install 'fastapi-websocket-stabilizer\[prometheus\]'"
        ):
            call()
