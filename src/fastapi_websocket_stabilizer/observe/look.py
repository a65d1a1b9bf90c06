"""Two looks at all nodes of a registry: what has grown between them. Pure."""

from collections.abc import Mapping, Sequence

from ..names import NodeId
from ..registry.telemetry import Sample
from .catalog import METRICS, Metric

_METRICS: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


class Look:
    """Two looks at all nodes of a registry, ``seconds`` apart, and the number of live nodes that show nothing.

    A node that has come in between counts from zero. If it has taken the number of one that is gone, it counts from
    the totals that it goes on from.
    """

    def __init__(
        self, before: Sequence[Sample], now: Sequence[Sample], seconds: float, missing: int = 0
    ) -> None:
        known, living = {each.node: each for each in before}, {each.node for each in now}
        gone = {(each.name, each.worker): each for each in before if each.node not in living}
        found = ((each.node, known.get(each.node) or gone.get((each.name, each.worker))) for each in now)
        self._before: dict[NodeId, Sample] = {node: former for node, former in found if former is not None}
        self.nodes: Sequence[Sample] = now
        self.seconds: float = max(seconds, 1e-3)
        self.missing: int = missing

    def increase(self, node: Sample, name: str, *labels: str) -> int:
        """Return the growth of a counter, summed over values of its label; over all of them if none is given."""
        metric, before = _METRICS[name], self._before.get(node.node)
        sources = [metric.sources[label] for label in labels] or list(metric.sources.values())
        then = {} if before is None else before.totals
        return sum(max(0, node.totals.get(source, 0) - then.get(source, 0)) for source in sources)

    def rate(self, node: Sample, name: str, *labels: str) -> float:
        """Return the growth of a counter per second."""
        return self.increase(node, name, *labels) / self.seconds

    def all_rate(self, name: str, *labels: str) -> float:
        """Return the growth per second of a counter of all nodes."""
        return sum(self.rate(node, name, *labels) for node in self.nodes)

    def slower(self, node: Sample, name: str, bound_s: float) -> tuple[int, int]:
        """Return how many of the new durations were longer than a bound of the histogram, and how many there were."""
        counts = self._new(node, name)
        return sum(counts[_METRICS[name].bounds_s.index(bound_s) + 1 :]), sum(counts)

    def quantile(self, node: Sample, name: str, share: float) -> float | None:
        """Return the bound in seconds that a share of the new durations did not exceed; None if there are none.

        It is the last bound if they were longer than that.
        """
        counts, seen, bounds_s = self._new(node, name), 0, _METRICS[name].bounds_s
        for count, bound_s in zip(counts, (*bounds_s, bounds_s[-1]), strict=True):
            seen += count
            if count and seen >= share * sum(counts):
                return bound_s
        return None

    def _new(self, node: Sample, name: str) -> list[int]:
        """Return the number of new durations in each bucket of a histogram."""
        metric = _METRICS[name]
        (source,) = metric.sources.values()
        empty = [0] * (len(metric.bounds_s) + 1)
        before = self._before.get(node.node)
        then = empty if before is None else before.histograms.get(source, (empty, 0.0))[0]
        now = node.histograms.get(source, (empty, 0.0))[0]
        if not len(now) == len(then) == len(empty):  # of another release
            return empty
        return [max(0, a - b) for a, b in zip(now, then, strict=True)]

    def gauges(self, name: str) -> list[float]:
        """Return a gauge of all nodes."""
        return [node.gauges.get(name, 0) for node in self.nodes]
