"""The route of the metrics: who may see them, and what it says without the extra."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from fastapi_websocket_stabilizer import ConfigurationError, WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.observe.prometheus import Exposition
from fastapi_websocket_stabilizer.registry import telemetry
from fastapi_websocket_stabilizer.registry.telemetry import Scrape

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


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_flood_of_scrapes_is_rendered_once(monkeypatch: pytest.MonkeyPatch, accept: str) -> None:
    """A stranger who reaches the port may ask as often as he likes."""
    rendered: list[Scrape] = []
    families = Exposition.families

    def counted(self: Exposition, scrape: Scrape) -> Iterator[Any]:
        rendered.append(scrape)
        return families(self, scrape)

    monkeypatch.setattr(Exposition, "families", counted)
    monkeypatch.setattr(telemetry, "OWN_LASTS_S", 60.0)
    client = client_of(manager())
    texts = {client.get("/metrics", headers={"Accept": accept}).content for _ in range(20)}
    assert (len(texts), len(rendered)) == (1, 1)


def test_own_values_are_shown_anew_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "OWN_LASTS_S", 0.0)
    node = manager()
    client = client_of(node)
    assert "stabilizer_views_refused_total{" in (before := client.get("/metrics").text)
    node._state.counters.views_refused += 1
    assert client.get("/metrics").text != before


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
