"""The Grafana dashboard: rows of panels with expressions over the metrics of the catalog."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

P = "stabilizer_"
HERE = 'registry=~"$registry"'
WIDTH, HEIGHT = 24, 8
"""Columns of a row of Grafana, and the height of a panel in its units."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        unit: Unit of Grafana, such as ``s``, ``bytes`` or ``ops``.
        queries: Pairs of legend and expression.
        kind: Type of the panel.
        is_stacked: Whether the series are added up.
    """

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: Literal["timeseries", "stat"] = "timeseries"
    is_stacked: bool = False


def _rate(name: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({P}{name}{{{HERE}{more}}}[$__rate_interval]))"


def _quantile(quantile: float, name: str, by: str = "le, instance, worker") -> str:
    buckets = f"rate({P}{name}_bucket{{{HERE}}}[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by ({by}) ({buckets}))"


def _sum(name: str) -> str:
    return f"sum ({P}{name}{{{HERE}}})"


def _each(name: str) -> str:
    return f"{P}{name}{{{HERE}}}"


WORKER = "{{instance}} {{worker}}"
FIRING = 'count(ALERTS{alertname=~"Stabilizer.+", alertstate="firing"}) or vector(0)'
ROWS: dict[str, tuple[Panel, ...]] = {
    "Health": (
        Panel("Alerts", "none", [("alerts", FIRING)], "stat"),
        Panel("Nodes", "none", [("nodes", f"count ({P}connections{{{HERE}}})")], "stat"),
        Panel("Connections", "none", [("connections", _sum("connections"))], "stat"),
        Panel("Deaf, draining, without Redis", "none", [
            ("deaf", f"sum ({P}bus_connected{{{HERE}}} == bool 0)"),
            ("draining", _sum("draining")),
            ("without Redis", _sum("redis_away")),
        ], "stat"),
    ),
    "Connections": (
        Panel("Connections", "none", [(WORKER, _each("connections"))]),
        Panel("Opened and closed", "ops", [
            ("opened", _rate("connections_opened_total", "registry")),
            ("closed", _rate("connections_closed_total", "registry")),
            ("refused", _rate("connections_rejected_total", "registry")),
        ]),
        Panel("Closed by cause", "ops", [("{{cause}}", _rate("connections_closed_total", "cause"))], is_stacked=True),
        Panel("Close codes of clients", "ops", [("{{code}}", _rate("close_codes_received_total", "code"))]),
        Panel("Close codes of this side", "ops", [("{{code}}", _rate("close_codes_sent_total", "code"))]),
        Panel("How long connections last", "s", [
            ("median", _quantile(0.5, "connection_duration_seconds", "le")),
        ]),
    ),
    "Delivery": (
        Panel("Messages sent", "ops", [(WORKER, _rate("messages_sent_total", "instance, worker"))]),
        Panel("Failed and dropped", "ops", [
            ("failed", _rate("messages_failed_total", "registry")),
            ("dropped", _rate("messages_dropped_total", "registry")),
        ]),
        Panel("Outboxes", "bytes", [
            ("all", _sum("outbox_bytes")),
            ("largest", f"max ({P}outbox_largest_bytes{{{HERE}}})"),
        ]),
        Panel("Slow clients", "ops", [
            (WORKER, _rate("connections_closed_total", "instance, worker", ', cause="slow"')),
        ]),
        Panel("Fan-out, 99 %", "s", [(WORKER, _quantile(0.99, "fan_out_seconds"))]),
        Panel("Fan-out queue", "bytes", [(WORKER, _each("fan_out_queued_bytes"))]),
    ),
    "Bus and Redis": (
        Panel("Bus lag, 90 %", "s", [(WORKER, _quantile(0.9, "bus_lag_seconds"))]),
        Panel("Events of the bus", "ops", [("{{event}}", _rate("bus_events_total", "event"))]),
        Panel("Commands", "ops", [(WORKER, _rate("redis_commands_total", "instance, worker"))]),
        Panel("Commands without an answer", "ops", [("{{event}}", _rate("redis_command_events_total", "event"))]),
    ),
    "Process": (
        Panel("Event loop lag, 99 %", "s", [(WORKER, _quantile(0.99, "event_loop_lag_seconds"))]),
        Panel("Exceptions of hooks", "ops", [(WORKER, _rate("hooks_failed_total", "instance, worker"))]),
    ),
    "Clients that continue": (
        Panel("Returns", "ops", [("{{outcome}}", _rate("resumes_total", "outcome"))]),
        Panel("Losses told", "ops", [("{{reason}}", _rate("history_lost_total", "reason"))]),
    ),
}  # fmt: skip
"""All rows. The first three are open."""


def as_json() -> str:
    """Return the dashboard for the import of Grafana 10 or newer."""
    panels: list[dict[str, Any]] = []
    y = 0
    for number, (title, row) in enumerate(ROWS.items()):
        is_closed = number >= 3
        head = _located(
            {"type": "row", "title": title, "collapsed": is_closed, "panels": []}, len(panels), 0, y, WIDTH, 1
        )
        y += 1
        inside: list[dict[str, Any]] = []
        for place, panel in enumerate(row):
            width = WIDTH // len(row) if panel.kind == "stat" else WIDTH // 2
            per_line = WIDTH // width
            at = (place % per_line) * width, y + place // per_line * HEIGHT
            inside.append(_located(_shown(panel), 100 * (number + 1) + place, *at, width, HEIGHT))
        y += HEIGHT * -(-len(row) // (len(row) if row[0].kind == "stat" else 2))
        panels += [{**head, "panels": inside}] if is_closed else [head, *inside]
    return json.dumps(
        {
            "title": "fastapi-websocket-stabilizer",
            "uid": "stabilizer",
            "schemaVersion": 39,
            "tags": ["websocket"],
            "time": {"from": "now-3h", "to": "now"},
            "refresh": "30s",
            "templating": {"list": [_variable("datasource"), _variable("registry")]},
            "panels": panels,
        },
        indent=1,
    )


def _located(panel: dict[str, Any], id_: int, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": id_ + 1, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **panel}


def _shown(panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    stacking = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.is_stacked else {}
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": stacking}, "overrides": []},
        "targets": [
            {"refId": chr(65 + number), "datasource": source, "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(panel.queries)
        ],
    }


def _variable(name: str) -> dict[str, Any]:
    if name == "datasource":
        return {"name": name, "type": "datasource", "query": "prometheus"}
    query = f"label_values({P}connections, registry)"
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "name": name, "type": "query", "datasource": source, "query": query, "refresh": 2, "multi": True,
        "includeAll": True,
    }  # fmt: skip
