"""The catalog of metrics as instruments of OpenTelemetry, by its API alone.

An exporter for Prometheus makes the names of the catalog of these names. So the dashboard and most rules fit both.
"""

import logging
import time
import weakref
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import __about__
from ..exceptions import ConfigurationError
from ..registry.telemetry import Sample, Telemetry
from ..runtime.logs import Occasionally
from ..runtime.metrics import Histograms
from ..runtime.tracing import SCOPE
from .catalog import METRICS, Metric

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation

WITHOUT = (
    "enable_otel_metrics needs opentelemetry-api: pip install 'fastapi-websocket-stabilizer[opentelemetry]', "
    "or leave enable_otel_metrics (WS_ENABLE_OTEL_METRICS) off"
)
LASTS_S = 0.5
"""Seconds for which values are used again. A collection asks for one metric after the other."""
UNITS = {"_seconds": "s", "_bytes": "By"}
"""Unit by the end of a name of the catalog."""


def name_of(metric: Metric) -> tuple[str, str]:
    """Return the name and the unit of the instrument of a metric. The name does not end with the unit."""
    name = metric.name.removesuffix("_total")
    for end, unit in UNITS.items():
        if name.endswith(end):
            return f"stabilizer.{name.removesuffix(end)}", unit
    return f"stabilizer.{name}", ""


def export(telemetry: Telemetry, histograms: Histograms, registry: str) -> "Source":
    """Show a node by the meter provider of the application, for as long as the result is kept.

    Args:
        telemetry: Has the present values.
        histograms: Durations, which are recorded when they are measured.
        registry: The namespace, which is the attribute ``registry``.

    Raises:
        ConfigurationError: ``opentelemetry-api`` is not installed.
    """
    try:
        from opentelemetry import metrics
    except ImportError as error:
        raise ConfigurationError(WITHOUT) from error
    provider, source = metrics.get_meter_provider(), Source(telemetry, registry)
    if (instruments := _INSTRUMENTS.get(provider)) is None:
        instruments = _INSTRUMENTS[provider] = _Instruments(provider)
    instruments.add(source, histograms)
    return source


class Source:
    """The present values of a node, for callbacks that run in any thread."""

    def __init__(self, telemetry: Telemetry, registry: str) -> None:
        self._telemetry = telemetry
        self.registry: str = registry
        self._last: tuple[float, Sample] | None = None

    def sample(self) -> Sample:
        """Return values that are at most ``LASTS_S`` old."""
        now_s, last = time.monotonic(), self._last
        if last is None or now_s - last[0] >= LASTS_S:
            last = self._last = now_s, self._telemetry.own(goes_on=False)
        return last[1]


class _Instruments:
    """The instruments of one meter provider. An SDK makes each name once, so all nodes of a process share them."""

    def __init__(self, provider: "MeterProvider") -> None:
        meter = provider.get_meter(SCOPE, __about__.__version__)
        self._sources: weakref.WeakSet[Source] = weakref.WeakSet()
        self._durations: list[tuple[Metric, Histogram]] = []
        for metric in METRICS:
            name, unit = name_of(metric)
            if metric.kind == "histogram":
                bounds_s = metric.bounds_s
                measured = meter.create_histogram(
                    name, unit, metric.help, explicit_bucket_boundaries_advisory=bounds_s
                )
                self._durations.append((metric, measured))
            elif metric.kind == "counter":
                meter.create_observable_counter(name, [partial(self._observe, metric)], unit, metric.help)
            else:
                meter.create_observable_gauge(name, [partial(self._observe, metric)], unit, metric.help)

    def add(self, source: Source, histograms: Histograms) -> None:
        """Show a node until ``source`` is gone."""
        self._sources.add(source)
        for metric, measured in self._durations:
            for value, name in metric.sources.items():
                attributes = _attributes(source.registry, metric, value)
                histograms.by_name()[name].listen(partial(_record, measured, attributes))

    def _observe(self, metric: Metric, options: "CallbackOptions") -> "Iterator[Observation]":
        from opentelemetry.metrics import Observation

        for source in tuple(self._sources):
            for value, number in metric.values(source.sample()):
                yield Observation(number, _attributes(source.registry, metric, value))


_INSTRUMENTS: "weakref.WeakKeyDictionary[MeterProvider, _Instruments]" = weakref.WeakKeyDictionary()
_trouble = Occasionally(logging.getLogger(__name__))


def _record(measured: "Histogram", attributes: dict[str, Any], seconds: float) -> None:
    try:
        measured.record(seconds, attributes)
    except Exception as error:  # noqa: BLE001 - an SDK of the application, and deliveries are measured here
        _trouble.log("a duration could not be recorded", error=repr(error))


def _attributes(registry: str, metric: Metric, value: str) -> dict[str, Any]:
    return {"registry": registry, metric.label: value} if metric.label else {"registry": registry}
