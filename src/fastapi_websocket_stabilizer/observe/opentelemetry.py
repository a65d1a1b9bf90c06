"""The catalog of metrics as instruments of OpenTelemetry, by its API alone.

An exporter for Prometheus makes the names of the catalog of these names. So the dashboard and the rules fit both.
"""

import time
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import __about__
from ..exceptions import ConfigurationError
from ..registry.telemetry import Sample, Telemetry
from ..runtime.metrics import Histograms
from ..runtime.tracing import SCOPE
from .catalog import METRICS, Metric

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

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


def export(telemetry: Telemetry, histograms: Histograms, registry: str) -> None:
    """Make the instruments of one node, with the meter provider of the application.

    Instruments cannot be removed. Those of a node that is gone show nothing.

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
    meter, found = metrics.get_meter(SCOPE, __about__.__version__), _Values(telemetry, registry)
    for metric in METRICS:
        name, unit = name_of(metric)
        if metric.kind == "histogram":
            measured = meter.create_histogram(
                name, unit, metric.help, explicit_bucket_boundaries_advisory=metric.bounds_s
            )
            for value, source in metric.sources.items():
                attributes = _attributes(registry, metric, value)
                histograms.by_name()[source].listen(partial(measured.record, attributes=attributes))
        elif metric.kind == "counter":
            meter.create_observable_counter(name, [partial(found.of, metric)], unit, metric.help)
        else:
            meter.create_observable_gauge(name, [partial(found.of, metric)], unit, metric.help)


class _Values:
    """The present values of a node, for callbacks that run in any thread."""

    def __init__(self, telemetry: Telemetry, registry: str) -> None:
        # A meter provider keeps its callbacks until the process ends, and they must not keep a node.
        self._telemetry, self._registry = weakref.ref(telemetry), registry
        self._last: tuple[float, Sample] | None = None

    def of(self, metric: Metric, options: "CallbackOptions") -> "Iterable[Observation]":
        """Return the observations of a counter or gauge."""
        telemetry = self._telemetry()
        if telemetry is None:
            return ()
        now_s, last = time.monotonic(), self._last
        if last is None or now_s - last[0] >= LASTS_S:
            last = self._last = now_s, telemetry.own(goes_on=False)
        return self._observed(metric, last[1])

    def _observed(self, metric: Metric, sample: Sample) -> "Iterator[Observation]":
        from opentelemetry.metrics import Observation

        for value, number in metric.values(sample):
            yield Observation(number, _attributes(self._registry, metric, value))


def _attributes(registry: str, metric: Metric, value: str) -> dict[str, Any]:
    return {"registry": registry, metric.label: value} if metric.label else {"registry": registry}
