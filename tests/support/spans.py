"""Spans and metrics of OpenTelemetry that a test can read, without a global provider: other tests stay untraced."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import SpanContext


class Spans:
    """The spans of all nodes in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._exporter = InMemorySpanExporter()
        self.sampled, self.unsampled = self._provider(ALWAYS_ON), self._provider(ALWAYS_OFF)
        monkeypatch.setattr(trace, "get_tracer", self.sampled.get_tracer)

    def _provider(self, sampler: Sampler) -> TracerProvider:
        provider = TracerProvider(sampler=sampler)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        return provider

    @contextmanager
    def caller(self, *, sampled: bool = True) -> Iterator[SpanContext]:
        """Run a block in a span of the application."""
        tracer = (self.sampled if sampled else self.unsampled).get_tracer("application")
        with tracer.start_as_current_span("caller") as span:
            yield span.get_span_context()

    def named(self, beginning: str) -> list[ReadableSpan]:
        """Return the ended spans whose name begins so."""
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(beginning)]


def id_of(span: ReadableSpan) -> tuple[int, int]:
    """Return the ids of the trace and of a span."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    """Return the ids of the spans that a span has links to."""
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


class Collected:
    """The instruments that are made while this is in use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])
        monkeypatch.setattr(metrics, "get_meter_provider", lambda: self.provider)

    def points(self) -> dict[str, list[Any]]:
        """Return all data points by the name of the instrument."""
        data = self._reader.get_metrics_data()
        scopes = (
            [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        )
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}
