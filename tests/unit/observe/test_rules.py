"""Each rule finds its own trouble and no other, and its expression has metrics of the catalog."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.observe.catalog import METRICS, OF_SCRAPE, Metric
from fastapi_websocket_stabilizer.observe.look import Look
from fastapi_websocket_stabilizer.observe.rules import RULES, Rule, as_markdown, as_yaml, problems
from fastapi_websocket_stabilizer.registry.telemetry import Sample
from fastapi_websocket_stabilizer.runtime.metrics import BUS_LAG_S, LOOP_LAG_S

PAGE = Path(__file__).parents[3] / "docs" / "operating.md"
SECONDS = 10.0
BUSY: Mapping[str, int] = {
    "connections_opened": 5_000, "closed:peer_closed": 4_000, "closed:slow": 3, "messages_sent": 10**9,
    "redis_commands": 10**7, "redis_failures": 12, "bus_gaps": 1, "leases_refused": 1, "hook:on_connect": 3,
    "connections_rejected": 7,
}  # fmt: skip
GAUGES: Mapping[str, float] = {
    "connections": 1_000, "rooms": 50, "bus_connected": 1, "ready": 1, "draining": 0, "redis_away": 0,
    "fan_out_queued_bytes": 0, "max_connections": 2_000,
}  # fmt: skip


def lags(bounds: tuple[float, ...], *late: int) -> tuple[list[int], float]:
    """Return 100 short durations, and as many long ones in the last buckets."""
    return [100] + [0] * (len(bounds) - len(late)) + list(late), 1.0


def sample(node: str = "a", more: Mapping[str, int] = {}, **changes: Any) -> Sample:
    gauges = GAUGES | changes.pop("gauges", {})
    totals = {name: BUSY.get(name, 0) + more.get(name, 0) for name in BUSY.keys() | more.keys()}
    histograms = {
        "event_loop_lag": lags(LOOP_LAG_S),
        "bus_lag": lags(BUS_LAG_S),
        **changes.pop("histograms", {}),
    }
    return Sample(
        0, NodeId(node), 1, f"web-{node}", changes.get("version", "2.0.0"), 0.0, totals, gauges, histograms
    )


# What a busy and healthy node does in the time between two looks.
HEALTHY = {
    "connections_opened": 10,
    "closed:peer_closed": 9,
    "redis_commands": 5_000,
    "messages_sent": 90_000,
}
LATE_LOOP = {"event_loop_lag": lags(LOOP_LAG_S, 3, 0, 0)}
LATE_BUS = {"bus_lag": lags(BUS_LAG_S, 20, 0)}
TROUBLE: dict[str, dict[str, Any]] = {
    "NodeDeaf": {"gauges": {"bus_connected": 0}},
    "RedisFailing": {"gauges": {"redis_away": 1, "bus_connected": 0}},
    "EnvelopesForged": {"more": {"bus_forged": 1}},
    "LeaseLost": {"more": {"leases_refused": 1}},
    "NodeLost": {"more": {"nodes_swept": 1}},
    "BusLost": {"more": {"bus_lost": 3}},
    "ReconnectStorm": {"more": {"connections_opened": 900}},
    "ClosedByTrouble": {"more": {"closed:handler_error": 8}},
    "SlowConsumers": {"more": {"closed:slow": 20}},
    "LoopLag": {"histograms": LATE_LOOP},
    "BusLag": {"histograms": LATE_BUS},
    "NearLimit": {"gauges": {"connections": 1_900}},
    "FanOutBacklog": {"gauges": {"fan_out_queued_bytes": 40_000_000}},
    "Imbalance": {"gauges": {"connections": 1_500}},
    "HandshakesRefused": {"more": {"connections_rejected": 3}},
    "HookFailing": {"more": {"hook:on_connect": 1}},
    "DrainStuck": {"gauges": {"draining": 1, "connections": 0}},
    "ScrapeIncomplete": {"missing": 1},
    "VersionSkew": {"version": "2.1.0"},
}


def found(now: list[Sample], missing: int = 0) -> set[str]:
    before = [sample("a"), sample("b"), sample("c")]
    return {problem.rule.name for problem in problems(Look(before, now, SECONDS, missing))}


def healthy(node: str, connections: int = 1_000) -> Sample:
    return sample(node, HEALTHY, gauges={"connections": connections})


def test_healthy_registry_has_no_problem() -> None:
    assert found([healthy("a"), healthy("b"), healthy("c")]) == set()


def test_every_rule_is_tried() -> None:
    assert list(TROUBLE) == [rule.name for rule in RULES]


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_found_by_its_own_rule_and_by_no_other(name: str) -> None:
    trouble = dict(TROUBLE[name])
    more, missing = _sum(HEALTHY, trouble.pop("more", {})), trouble.pop("missing", 0)
    connections = {"NearLimit": 1_700, "Imbalance": 400, "DrainStuck": 100}.get(name, 1_000)
    others = [healthy(node, connections) for node in ("b", "c")]
    assert found([sample("a", more, **trouble), *others], missing) == {name}


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one.keys() | other.keys()}


def test_problem_names_its_node_and_the_values() -> None:
    (problem,) = problems(Look([sample("a")], [sample("a", _sum(HEALTHY, {"bus_lost": 3}))], SECONDS))
    assert problem.finding.node is not None
    assert (problem.finding.node.name, problem.finding.what) == (
        "web-a",
        "3 envelopes missing, 0 gaps of the bus",
    )


def test_node_that_has_just_come_counts_from_zero() -> None:
    newcomer = Sample(0, NodeId("n"), 1, "web-n", "2.0.0", 0.0, {"hook:on_connect": 2}, GAUGES, {})
    assert [problem.rule.name for problem in problems(Look([], [newcomer], SECONDS))] == ["HookFailing"]


def test_successor_of_a_dead_worker_counts_from_the_totals_that_it_goes_on_from() -> None:
    """Otherwise all that the dead one has ever counted would look like a trouble of now."""
    dead = sample("a")
    successor = replace(sample("a", _sum(HEALTHY, {"hook:on_connect": 1})), node=NodeId("z"))
    (problem,) = problems(Look([dead, sample("b")], [successor, healthy("b")], SECONDS))
    assert problem.finding.what == "hooks of the application raised 1 exception"
    # but not from those of a node that is still there
    both = Look([dead], [dead, replace(successor, totals={"hook:on_connect": 2})], SECONDS)
    assert [found.finding.what for found in problems(both)] == [
        "hooks of the application raised 2 exceptions"
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_expression_has_metrics_and_labels_of_the_catalog(rule: Rule) -> None:
    known = {metric.full_name: metric for metric in (*METRICS, *OF_SCRAPE)}
    for name, selector in re.findall(r"(stabilizer_\w+)(?:\{([^}]*)\})?", rule.expression):
        metric = known.get(name) or known[re.sub("_(bucket|sum|count)$", "", name)]
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', selector):
            _check_label(metric, label, values.split("|"))


def _check_label(metric: Metric, label: str, values: list[str]) -> None:
    assert label == metric.label
    assert not metric.sources or set(values) <= set(metric.sources)


def test_rules_are_a_file_of_prometheus() -> None:
    (group,) = yaml.safe_load(as_yaml())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [f"Stabilizer{rule.name}" for rule in RULES]
    assert [rule["expr"] for rule in group["rules"]] == [rule.expression for rule in RULES]
    assert {rule["labels"]["severity"] for rule in group["rules"]} == {"page", "warn"}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not on PATH (apt-get install prometheus)"
)
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(as_yaml())
    checked = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_run_book_has_every_rule() -> None:
    """``python -m fastapi_websocket_stabilizer.observe rules`` prints these sections."""
    assert as_markdown() in PAGE.read_text()


def test_node_of_a_release_with_other_values_is_looked_at() -> None:
    bare = Sample(0, NodeId("a1b2"), 1, "web-1", "9.9.9", 0.0, {}, {}, {"event_loop_lag": ([1, 2], 0.1)})
    look = Look([bare], [bare], 3.0)
    assert [problem.rule.name for problem in problems(look)] == []
    assert look.quantile(bare, "event_loop_lag_seconds", 0.99) is None
