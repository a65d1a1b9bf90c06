"""The catalog has every counter once, no label that anybody outside chooses, and is what the page shows."""

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from fastapi_websocket_stabilizer import CloseCause
from fastapi_websocket_stabilizer.observe.catalog import METRICS, OF_SCRAPE, Metric, as_markdown
from fastapi_websocket_stabilizer.registry.ends import RECEIVED, SENT
from fastapi_websocket_stabilizer.runtime.metrics import Counters, Histograms

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
EVERY = [*METRICS, *OF_SCRAPE]


def test_every_counter_is_in_exactly_one_metric() -> None:
    found = Counter(
        source for metric in METRICS if metric.kind == "counter" for source in metric.sources.values()
    )
    by_field = {name: count for name, count in found.items() if ":" not in name}
    # counted by cause, and by event
    labelled = {"connections_closed", "hooks_failed"}
    assert by_field == {each.name: 1 for each in fields(Counters) if each.name not in labelled}


def test_every_histogram_is_in_exactly_one_metric() -> None:
    found = [source for metric in METRICS if metric.kind == "histogram" for source in metric.sources.values()]
    histograms = Histograms().by_name()
    assert sorted(found) == sorted(histograms)
    for metric in METRICS:
        if metric.kind == "histogram":
            assert all(histograms[source].bounds_s == metric.bounds_s for source in metric.sources.values())


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.name)
def test_name_of_a_metric_follows_the_rules_of_prometheus(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_seconds") == (metric.kind == "histogram")
    assert metric.help.endswith(".")
    # Kubernetes sets these on each target, and would rename ours
    assert metric.label not in (
        "namespace",
        "pod",
        "container",
        "service",
        "endpoint",
        "instance",
        "job",
        "node",
    )


def test_names_are_unique() -> None:
    assert len({metric.name for metric in EVERY}) == len(EVERY)


def test_labels_have_the_values_that_the_code_knows() -> None:
    labels = {metric.name: list(metric.sources) for metric in METRICS if metric.label}
    assert labels["connections_closed_total"] == [cause.value for cause in CloseCause]
    assert labels["close_codes_sent_total"] == [*map(str, SENT), "other"]
    assert labels["close_codes_received_total"] == [*map(str, RECEIVED), "other"]


def test_page_has_the_table_of_the_catalog() -> None:
    """``python -m fastapi_websocket_stabilizer.observe`` prints it."""
    assert as_markdown() in PAGE.read_text()
