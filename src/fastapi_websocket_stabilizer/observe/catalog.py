"""The metrics of this library. Exporters and ``docs/metrics.md`` are made from this table.

No label has a value that a client or the application chooses: no client, room, address, event or reason. So the
number of series is bounded by the code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal

from ..models import CloseCause
from ..registry.arrivals import Arrival
from ..registry.ends import OTHER, RECEIVED, SENT
from ..registry.hooks import EVENTS
from ..registry.telemetry import Sample
from ..runtime.metrics import (
    BUS_LAG_S,
    CONNECTION_S,
    FAN_OUT_S,
    HANDLER_S,
    HANDSHAKE_S,
    LOOP_LAG_S,
    PING_S,
    REDIS_S,
    Counters,
)

PREFIX = "stabilizer_"
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: Its name without the prefix. That of a counter ends in ``_total``, that of durations in ``_seconds``.
        kind: Its type.
        help: What it counts or measures.
        label: The name of its own label; "" for none.
        sources: Where its values are in a ``Sample``, by value of the label, which is "" without a label.
        bounds_s: Bounds of the buckets of a histogram, in seconds.
    """

    name: str
    kind: Kind
    help: str
    sources: Mapping[str, str]
    label: str = ""
    bounds_s: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name under which it is exported."""
        return PREFIX + self.name

    def values(self, sample: Sample) -> Iterator[tuple[str, float]]:
        """Yield the value for each value of the label. Counters begin at 0, so that the first increase is seen."""
        found: Mapping[str, float] = sample.totals if self.kind == "counter" else sample.gauges
        for value, source in self.sources.items():
            if self.kind == "counter" or source in found:
                yield value, found.get(source, 0)


def _help(counter: str) -> str:
    text: str = Counters.__dataclass_fields__[counter].metadata["help"]
    return text


def _grouped(name: str, label: str, text: str, /, **counters: str) -> Metric:
    """Return one metric for several counters: a sum over its label must mean something."""
    return Metric(name, "counter", text, counters, label)


BY_EVENT = (
    _grouped(
        "bus_events_total", "event", "Events of the bus that are not a message in order.",
        lost="bus_lost", gap="bus_gaps", late="bus_late", duplicate="bus_duplicates", malformed="bus_malformed",
        unsigned="bus_unsigned", forged="bus_forged", replayed="bus_replayed", reconnect="bus_reconnects",
        move="bus_moves", paused="bus_paused", canary_missed="canaries_missed",
    ),
    _grouped(
        "messages_received_total", "kind", "Messages of clients, frames of stabilizer.v1 among them.",
        text="messages_received_text", binary="messages_received_binary",
    ),
    _grouped(
        "redis_command_events_total", "event", "Commands to Redis that did not get an answer at once.",
        failure="redis_failures", rejected="redis_rejected", redirected="redis_redirected",
    ),
    _grouped(
        "tokens_total", "event", "Reconnect tokens.",
        issued="tokens_issued", redeemed="tokens_redeemed", dropped="tokens_dropped",
    ),
    _grouped(
        "resumes_total", "outcome", "Clients of stabilizer.v1 that returned with a cursor.",
        whole="resumes_whole", lost="resumes_lost", later="resumes_later",
    ),
    _grouped(
        "history_lost_total", "reason", "Times that members of a log were told of messages that they missed.",
        trimmed="history_lost_trimmed", unknown="history_lost_unknown", reset="history_lost_reset",
        hole="history_lost_hole",
    ),
)  # fmt: skip
"""Counters that are one metric, by the value of its label."""
_HANDSHAKES = Metric(
    "handshakes_total",
    "counter",
    "Handshakes, by outcome.",
    {arrival.value: f"handshake:{arrival.value}" for arrival in Arrival},
    "result",
)
_HOOKS = Metric(
    "hooks_failed_total",
    "counter",
    "Exceptions raised by hooks of the application.",
    {event: f"hook:{event}" for event in EVENTS},
    "hook",
)
_BY_CAUSE = Metric(
    "connections_closed_total",
    "counter",
    "Connections that ended, by cause.",
    {cause.value: f"closed:{cause.value}" for cause in CloseCause},
    "cause",
)
_CODES = (
    Metric(
        "close_codes_sent_total", "counter", "Connections that this side closed, by close code.",
        {str(code): f"sent:{code}" for code in (*SENT, OTHER)}, "code",
    ),
    Metric(
        "close_codes_received_total", "counter", "Connections that the client closed, by close code.",
        {str(code): f"received:{code}" for code in (*RECEIVED, OTHER)}, "code",
    ),
)  # fmt: skip
_ELSEWHERE = {"connections_closed", "hooks_failed"}
_ELSEWHERE |= {source for metric in BY_EVENT for source in metric.sources.values()}
_COUNTERS = tuple(
    Metric(f"{each.name}_total", "counter", _help(each.name), {"": each.name})
    for each in fields(Counters)
    if each.name not in _ELSEWHERE
)


def _gauge(name: str, text: str) -> Metric:
    return Metric(name, "gauge", text, {"": name})


_GAUGES = (
    _gauge("connections", "Open connections."),
    _gauge("rooms", "Rooms with a member on this node."),
    _gauge("outbox_bytes", "Bytes that wait in all outboxes, as of the last look at them."),
    _gauge("outbox_largest_bytes", "Bytes that wait in the largest outbox, as of the last look at them."),
    _gauge("fan_out_queued_bytes", "Bytes read from the bus and not yet fanned out."),
    _gauge("redis_queued_bytes", "Bytes of commands not yet sent to Redis."),
    _gauge("unheard_bytes", "Bytes of own broadcasts that have not come back from Redis."),
    _gauge("bus_connected", "1 if this node is subscribed to the bus. With 0 it is deaf."),
    _gauge("ready", "1 if this node takes new clients. With 0, /readyz says why it does not."),
    _gauge("draining", "1 during a drain."),
    _gauge("redis_away", "1 if Redis did not answer the last beat."),
    _gauge(
        "cluster_nodes",
        "Live nodes of the registry, as this node knows them. For max(), not for sum().",
    ),
)


_HISTOGRAMS = (
    Metric("fan_out_seconds", "histogram", "Duration of fan-outs, if enable_metrics is set.",
           {"": "fan_out"}, bounds_s=FAN_OUT_S),
    Metric("bus_lag_seconds", "histogram", "Time of a canary from this node through Redis and back, once a beat.",
           {"": "bus_lag"}, bounds_s=BUS_LAG_S),
    Metric("event_loop_lag_seconds", "histogram", "How much later than asked for the event loop has continued.",
           {"": "event_loop_lag"}, bounds_s=LOOP_LAG_S),
    Metric("handshake_seconds", "histogram", "Registration of a connection: claim, limits and on_connect.",
           {"": "handshake"}, bounds_s=HANDSHAKE_S),
    Metric("claim_seconds", "histogram", "Claim of a client in Redis; in one process, its entry in a table.",
           {"": "claim"}, bounds_s=HANDSHAKE_S),
    Metric("redis_command_seconds", "histogram", "Time from the write of a batch of commands to its last answer.",
           {"": "redis_command"}, bounds_s=REDIS_S),
    Metric("ping_seconds", "histogram", "Time from a ping of this node to the next frame of the client.",
           {"": "ping"}, bounds_s=PING_S),
    Metric("message_handler_seconds", "histogram", "Duration of functions for messages, if enable_metrics is set.",
           {"": "message_handler"}, bounds_s=HANDLER_S),
    Metric("connection_duration_seconds", "histogram", "How long connections were open, by who has ended them.",
           {"client": "connections_by_client", "server": "connections_by_server"}, "cause_class", CONNECTION_S),
)  # fmt: skip
METRICS: tuple[Metric, ...] = (
    *_GAUGES,
    _HANDSHAKES,
    _HOOKS,
    _BY_CAUSE,
    *_CODES,
    *BY_EVENT,
    *_COUNTERS,
    *_HISTOGRAMS,
)
"""All metrics of one node."""
LIMIT = Metric("limit", "gauge", "The bounds in force, by name.", {}, "name")
MISSING = Metric(
    "scrape_missing_workers", "gauge", "Workers of this server, or nodes, that this scrape does not show.", {}
)
INFO = Metric("node_info", "gauge", "1 for each node, with its release, node_id and display name.", {})
OF_SCRAPE = (LIMIT, MISSING, INFO)
"""Metrics that a scrape adds."""


def as_markdown() -> str:
    """Return the table of ``docs/metrics.md``."""
    lines = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for metric in (*METRICS, *OF_SCRAPE):
        values = (
            ", ".join(f"`{value}`" for value in metric.sources) if metric.label and metric.sources else ""
        )
        label = f"`{metric.label}`: {values}" if values else f"`{metric.label}`" if metric.label else ""
        if metric is INFO:
            label = "`version`, `node_id`, `node_name`"
        lines.append(f"| `{metric.full_name}` | {metric.kind} | {label} | {metric.help} |")
    return "\n".join(lines) + "\n"
