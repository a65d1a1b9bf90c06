"""The catalog as instruments of OpenTelemetry: every metric, under names that Prometheus makes the catalog's of."""

import builtins
import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import Histogram as _Histogram

from fastapi_websocket_stabilizer import ConfigurationError, WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.observe.catalog import METRICS, Metric
from fastapi_websocket_stabilizer.observe.opentelemetry import name_of
from fastapi_websocket_stabilizer.registry.telemetry import Sample
from tests.integration.cluster import register
from tests.support.spans import Collected

ENABLED = WebSocketConfig(enable_otel_metrics=True, enable_metrics=True, namespace="chat")


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Collected:
    return Collected(monkeypatch)


def values_of(points: list[Any], label: str = "") -> dict[str, Any]:
    assert {point.attributes["registry"] for point in points} == {"chat"}
    return {point.attributes.get(label, ""): point.value for point in points}


async def test_counters_and_gauges_are_those_of_the_catalog(collected: Collected) -> None:
    manager = WebSocketConnectionManager(ENABLED)
    await register(manager, "alice")
    await register(manager, "bob")
    await manager.disconnect("bob")
    points = collected.points()
    for metric in METRICS:
        if metric.kind != "histogram":
            labels = set(values_of(points[name_of(metric)[0]], metric.label))
            assert labels == (set(metric.sources) if metric.label else {""}), metric.name
    assert values_of(points["stabilizer.connections"]) == {"": 1}
    assert values_of(points["stabilizer.connections_opened"]) == {"": 2}
    assert values_of(points["stabilizer.connections_closed"], "cause")["kicked"] == 1


async def test_durations_are_recorded_with_the_buckets_of_the_catalog(collected: Collected) -> None:
    manager = WebSocketConnectionManager(ENABLED)
    await register(manager, "alice")
    await manager.broadcast("hello")
    await manager.disconnect("alice")
    points = collected.points()
    by_name = {metric.name: metric for metric in METRICS}
    for name in ("fan_out_seconds", "handshake_seconds", "claim_seconds"):
        (point,) = points[name_of(by_name[name])[0]]
        assert point.explicit_bounds == by_name[name].bounds_s
        assert point.count == 1
    (ended,) = points["stabilizer.connection_duration"]
    assert dict(ended.attributes) == {"registry": "chat", "cause_class": "server"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_exporter_for_prometheus_makes_the_name_of_the_catalog(metric: Metric) -> None:
    """Rules of the specification "Prometheus and OpenMetrics Compatibility": unit and ``_total`` are appended."""
    name, unit = name_of(metric)
    made = name.replace(".", "_") + {"s": "_seconds", "By": "_bytes", "": ""}[unit]
    assert made + "_total" * (metric.kind == "counter") == metric.full_name


async def test_values_of_one_collection_are_made_once(
    collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, made = WebSocketConnectionManager(ENABLED), []
    telemetry = manager._registry.telemetry
    own = telemetry.own

    def noted(**options: Any) -> Sample:
        made.append(options)
        return own(**options)

    monkeypatch.setattr(telemetry, "own", noted)
    assert len(collected.points()) > 100
    assert made == [{"goes_on": False}]


async def test_manager_that_is_gone_shows_nothing_and_is_not_kept(collected: Collected) -> None:
    manager = WebSocketConnectionManager(ENABLED)
    assert collected.points()
    kept = weakref.ref(manager)
    del manager
    gc.collect()
    assert kept() is None
    assert not collected.points().get("stabilizer.connections")


async def test_all_managers_of_a_process_are_shown_also_one_that_comes_later(collected: Collected) -> None:
    first = WebSocketConnectionManager(ENABLED)
    await register(first, "alice")
    second = WebSocketConnectionManager(replace(ENABLED, namespace="other"))
    found = {
        point.attributes["registry"]: point.value for point in collected.points()["stabilizer.connections"]
    }
    assert found == {"chat": 1, "other": 0}
    del first
    gc.collect()
    assert [point.attributes["registry"] for point in collected.points()["stabilizer.connections"]] == [
        "other"
    ]
    await register(second, "bob")
    assert len(collected.points()["stabilizer.handshake"]) == 2


def test_recording_that_raises_disturbs_nothing(
    collected: Collected, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = WebSocketConnectionManager(ENABLED)
    monkeypatch.setattr(_Histogram, "record", lambda *_: 1 / 0)
    manager._state.histograms.fan_out.add(0.5)
    assert manager.statistics().fan_out_seconds.count == 1
    assert "a duration could not be recorded" in caplog.text


def test_there_are_none_without_the_setting(collected: Collected) -> None:
    WebSocketConnectionManager()
    assert collected.points() == {}


def test_setting_without_the_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *others: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"stabilizer\[opentelemetry\].*WS_ENABLE_OTEL_METRICS"):
        WebSocketConnectionManager(ENABLED)
