"""Values of nodes in the form of ``prometheus_client``, which is an extra of this library."""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Any, cast

from ..exceptions import ConfigurationError
from ..registry.telemetry import Sample, Scrape
from .catalog import INFO, LIMIT, METRICS, MISSING, Metric

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

WITHOUT = "metrics need prometheus-client: pip install 'fastapi-websocket-stabilizer[prometheus]'"


def check_installed() -> None:
    """Check that ``prometheus_client`` can be imported.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import prometheus_client  # noqa: F401 - only to see whether it is there
    except ImportError as error:
        raise ConfigurationError(WITHOUT) from error


class Exposition:
    """Makes families of metrics from what a scrape has found.

    Args:
        registry: The namespace, which is the label ``registry`` of each series.
        limits: The bounds in force.
        by_node: Whether the label ``worker`` is the node_id, and not the number of the worker.
    """

    def __init__(
        self, registry: str, limits: Mapping[str, int | float | None], *, by_node: bool = False
    ) -> None:
        self._registry, self._limits, self._by_node = registry, limits, by_node

    def families(self, scrape: Scrape) -> Iterator["Family"]:
        """Yield all metrics of all samples."""
        from prometheus_client.core import GaugeMetricFamily

        for metric in METRICS:
            yield self._family(metric, scrape)
        limits = GaugeMetricFamily(LIMIT.full_name, LIMIT.help, labels=["registry", "worker", LIMIT.label])
        info = GaugeMetricFamily(
            INFO.full_name, INFO.help, labels=["registry", "worker", "version", "node_id", "node_name"]
        )
        for sample in scrape.samples:
            for name, limit in self._limits.items():
                if limit is not None:
                    limits.add_metric([*self._labels(sample), name], limit)
            info.add_metric([*self._labels(sample), sample.version, sample.node, sample.name], 1)
        missing = GaugeMetricFamily(MISSING.full_name, MISSING.help, labels=["registry"])
        missing.add_metric([self._registry], scrape.missing)
        yield from (limits, info, missing)

    def _labels(self, sample: Sample) -> list[str]:
        return [self._registry, sample.node if self._by_node else str(max(0, sample.worker))]

    def _family(self, metric: Metric, scrape: Scrape) -> "Family":
        from prometheus_client import core

        types = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        own = [metric.label] if metric.label else []
        family: Any = types[metric.kind](metric.full_name, metric.help, labels=["registry", "worker", *own])
        for sample in scrape.samples:
            labels = self._labels(sample)
            if metric.kind == "histogram":
                for value, source in metric.sources.items():
                    family.add_metric(
                        [*labels, value][: len(labels) + len(own)], *_buckets(metric, sample, source)
                    )
            else:
                for value, number in metric.values(sample):
                    family.add_metric([*labels, value][: len(labels) + len(own)], number)
        return cast("Family", family)


def _buckets(metric: Metric, sample: Sample, source: str) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets of a histogram, and the sum; zeros if the node has measured nothing."""
    from prometheus_client.utils import floatToGoString

    empty = [0] * (len(metric.bounds_s) + 1)
    counts, total_s = sample.histograms.get(source, (empty, 0.0))
    if len(counts) != len(empty):  # of another release
        counts, total_s = empty, 0.0
    bounds = map(floatToGoString, (*metric.bounds_s, inf))
    return list(zip(bounds, map(float, accumulate(counts)), strict=True)), total_s


class Collector:
    """A collector for a ``CollectorRegistry`` of the application.

    Args:
        read: Returns what is shown, from any thread.
        exposition: Makes the families.
    """

    def __init__(self, read: Callable[[], Scrape], exposition: Callable[[], Exposition]) -> None:
        self._read, self._exposition = read, exposition

    def describe(self) -> list["Family"]:
        """Return nothing, so that a registration reads nothing."""
        return []

    def collect(self) -> Iterator["Family"]:
        """Yield all families."""
        return self._exposition().families(self._read())


class Page:
    """The text of scrapes. It is rendered again only when a node has published, because that takes 5 ms a worker."""

    def __init__(self) -> None:
        self._kept: dict[bool, tuple[object, bytes]] = {}

    def render(self, scrape: Scrape, exposition: Exposition, accept: str) -> tuple[bytes, str]:
        """Return the text of a scrape, and its content type: OpenMetrics if the scraper accepts it."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
        from prometheus_client import exposition as text_format
        from prometheus_client.openmetrics import exposition as open_metrics

        is_open = "application/openmetrics-text" in accept
        shown = scrape.missing, [(sample.node, sample.worker, sample.at_s) for sample in scrape.samples]
        kept, text = self._kept.get(is_open, (None, b""))
        if kept != shown:
            registry = CollectorRegistry(auto_describe=False)
            registry.register(Collector(lambda: scrape, lambda: exposition))
            text = (open_metrics if is_open else text_format).generate_latest(registry)
            self._kept[is_open] = shown, text
        return text, open_metrics.CONTENT_TYPE_LATEST if is_open else CONTENT_TYPE_LATEST
