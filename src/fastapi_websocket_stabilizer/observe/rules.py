"""The rules that say whether something is wrong. One table makes the alerts, ``stabilizer check`` and the run book.

Each rule is written twice: as an expression for Prometheus, and as a function of two looks at a registry. A rule is
the same in both, except that Prometheus also waits (``for_``) until it has held for some time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..local.fanout import QUEUE_LIMIT_BYTES
from ..registry.telemetry import Sample
from .look import Look
from .text import counted

Severity = Literal["page", "warn"]
BY_TROUBLE = ("timed_out", "evicted", "handler_error", "write_failed")
"""Causes of ends that are a trouble. Slow clients have a rule of their own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        node: The node that has it, or None for the whole registry.
        what: A sentence with the values.
    """

    node: Sample | None
    what: str


Check = Callable[[Look], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: The name of the alert.
        severity: "page" cannot wait, "warn" can until the morning.
        for_: How long Prometheus waits before it alerts, as ``2m``.
        expression: The rule for Prometheus.
        meaning: What it means for clients.
        advice: What to look at, and what to do.
        check: The rule for two looks.
    """

    name: str
    severity: Severity
    for_: str
    expression: str
    meaning: str
    advice: str
    check: Check


def _each(find: Callable[[Look, Sample], str]) -> Check:
    """Return the check of a rule that holds for single nodes. ``find`` returns "" if nothing is wrong."""

    def check(look: Look) -> Iterator[Finding]:
        for node in look.nodes:
            if what := find(look, node):
                yield Finding(node, what)

    return check


def _all(find: Callable[[Look], str]) -> Check:
    """Return the check of a rule that holds for the registry."""

    def check(look: Look) -> Iterator[Finding]:
        if what := find(look):
            yield Finding(None, what)

    return check


def _deaf(look: Look, node: Sample) -> str:
    missed = look.increase(node, "bus_events_total", "canary_missed")
    if node.gauges.get("redis_away"):
        return ""  # which has a rule of its own
    if not node.gauges.get("bus_connected", 1):
        return "it is not subscribed to the bus"
    return f"{counted(missed, 'probe')} of the bus did not come back" if missed > 1 else ""


def _redis(look: Look, node: Sample) -> str:
    if node.gauges.get("redis_away"):
        return "Redis did not answer its last beat"
    failures, commands = (
        look.increase(node, "redis_command_events_total", "failure"),
        look.increase(node, "redis_commands_total"),
    )
    return f"{failures} of {counted(commands, 'command')} got no answer" if failures > 0.01 * commands else ""


def _forged(look: Look, node: Sample) -> str:
    count = look.increase(node, "bus_events_total", "forged", "replayed", "unsigned")
    return f"{counted(count, 'envelope')} dropped: forged, repeated or not signed" if count else ""


def _lease(look: Look, node: Sample) -> str:
    count = look.increase(node, "leases_refused_total")
    return f"its lease was gone ({counted(count, 'time')})" if count else ""


def _swept(look: Look, node: Sample) -> str:
    count = look.increase(node, "nodes_swept_total")
    return f"it removed the clients of {counted(count, 'dead node')}" if count else ""


def _lost(look: Look, node: Sample) -> str:
    lost, gaps = (
        look.increase(node, "bus_events_total", "lost"),
        look.increase(node, "bus_events_total", "gap"),
    )
    return f"{counted(lost, 'envelope')} missing, {counted(gaps, 'gap')} of the bus" if lost or gaps else ""


def _storm(look: Look) -> str:
    rate, connections = look.all_rate("connections_opened_total"), sum(look.gauges("connections"))
    is_storm = rate > 20 and rate > 0.02 * connections
    return f"{rate:.0f} connections are opened a second, {connections:.0f} are open" if is_storm else ""


def _trouble(look: Look) -> str:
    trouble, every = (
        look.all_rate("connections_closed_total", *BY_TROUBLE),
        look.all_rate("connections_closed_total"),
    )
    share = trouble / every if every else 0.0
    return f"{share:.0%} of the ends are a trouble of this side" if share > 0.2 else ""


def _slow(look: Look, node: Sample) -> str:
    rate = look.rate(node, "connections_closed_total", "slow")
    return (
        f"{rate:.1f} slow clients a second are closed"
        if rate > 0.001 * node.gauges.get("connections", 0)
        else ""
    )


def _loop(look: Look, node: Sample) -> str:
    late, looks = look.slower(node, "event_loop_lag_seconds", 0.1)
    return (
        f"its event loop was late by 0.1 s or more {late} of {looks} times"
        if late > max(1, 0.01 * looks)
        else ""
    )


def _bus_lag(look: Look, node: Sample) -> str:
    late, canaries = look.slower(node, "bus_lag_seconds", 0.5)
    is_late = late > 0.1 * canaries
    return f"{late} of {canaries} canaries took 0.5 s or more through Redis" if is_late else ""


def _full(look: Look, node: Sample) -> str:
    limit, connections = node.gauges.get("max_connections"), node.gauges.get("connections", 0)
    is_near = limit is not None and connections > 0.85 * limit
    return f"{connections:.0f} of max_connections={limit:.0f} are open" if is_near else ""


def _backlog(look: Look, node: Sample) -> str:
    queued, paused = (
        node.gauges.get("fan_out_queued_bytes", 0),
        look.increase(node, "bus_events_total", "paused"),
    )
    if queued > 0.5 * QUEUE_LIMIT_BYTES:
        return f"{queued / 1e6:.0f} MB wait for their fan-out"
    return f"reading from the bus was paused ({counted(paused, 'time')})" if paused else ""


def _imbalance(look: Look) -> str:
    counts = [*look.gauges("connections"), 0.0]
    mean = sum(counts) / max(1, len(look.nodes))
    is_uneven = mean > 100 and max(counts) > 1.5 * mean
    return f"the fullest node has {max(counts):.0f} connections, the mean is {mean:.0f}" if is_uneven else ""


def _refused(look: Look, node: Sample) -> str:
    refused, opened = (
        look.increase(node, "connections_rejected_total"),
        look.increase(node, "connections_opened_total"),
    )
    is_many = refused > 0.05 * (refused + opened)
    return f"{refused} of {refused + opened} handshakes were refused" if is_many else ""


def _hooks(look: Look, node: Sample) -> str:
    count = look.increase(node, "hooks_failed_total")
    return f"hooks of the application raised {counted(count, 'exception')}" if count else ""


def _drained(look: Look, node: Sample) -> str:
    is_drained = node.gauges.get("draining") and not node.gauges.get("connections")
    return "it is drained and still runs" if is_drained else ""


def _incomplete(look: Look) -> str:
    return f"{counted(look.missing, 'live node')} without values" if look.missing else ""


def _skew(look: Look) -> str:
    versions = sorted({node.version for node in look.nodes})
    return f"releases {' and '.join(versions)} run together" if len(versions) > 1 else ""


P = "stabilizer_"
RULES: tuple[Rule, ...] = (
    Rule(
        "NodeDeaf", "page", "1m",
        f'({P}bus_connected == 0 or increase({P}bus_events_total{{event="canary_missed"}}[2m]) > 1) '
        f"unless on (registry, worker, instance, job) {P}redis_away == 1",
        "Clients of this node get nothing that other nodes send.",
        "Look at Redis and at the network of the node. /readyz returns 503, so new clients go elsewhere. "
        "If Redis is well, drain the node and restart it.",
        _each(_deaf),
    ),
    Rule(
        "RedisFailing", "page", "2m",
        f'{P}redis_away == 1 or rate({P}redis_command_events_total{{event="failure"}}[2m]) '
        f"> 0.01 * rate({P}redis_commands_total[2m])",
        "Nodes serve only their own clients, or refuse new ones (on_backend_loss).",
        "Run stabilizer doctor with the URL of Redis. Everything is registered again when Redis is back.",
        _each(_redis),
    ),
    Rule(
        "EnvelopesForged", "page", "0m",
        f'increase({P}bus_events_total{{event=~"forged|replayed|unsigned"}}[10m]) > 0',
        "A stranger writes into the channels of the registry, or nodes have different envelope_keys.",
        "Compare envelope_keys of all nodes and publishers. If they are equal, change the password of Redis.",
        _each(_forged),
    ),
    Rule(
        "LeaseLost", "warn", "0m",
        f"increase({P}leases_refused_total[10m]) > 0",
        "Others took this node for dead. Its clients were shown as gone for a moment.",
        "Look for long pauses of the process: CPU limits, swapping, a frozen machine. "
        "See event_loop_lag_seconds, and lease_ttl_s.",
        _each(_lease),
    ),
    Rule(
        "NodeLost", "warn", "0m",
        f"increase({P}nodes_swept_total[10m]) > 0",
        "A node ended without leaving the registry, or stood still for longer than its lease.",
        "The log of the node that has this alert names the dead one (swept a dead node). "
        "Was it killed for its memory, has its host failed, or does the process stand still?",
        _each(_swept),
    ),
    Rule(
        "BusLost", "warn", "0m",
        f'increase({P}bus_events_total{{event=~"lost|gap"}}[10m]) > 0',
        "Messages that are not stored did not reach clients of this node.",
        "Look at client-output-buffer-limit pubsub of Redis, and at the network. "
        "Store messages that must arrive (history).",
        _each(_lost),
    ),
    Rule(
        "ReconnectStorm", "page", "2m",
        f"sum by (registry) (rate({P}connections_opened_total[1m])) > 20 and "
        f"sum by (registry) (rate({P}connections_opened_total[1m])) > 0.02 * sum by (registry) ({P}connections)",
        "Many clients connect again at once.",
        "See connections_closed_total by cause for the reason. Drain with a longer drain_over_s.",
        _all(_storm),
    ),
    Rule(
        "ClosedByTrouble", "warn", "5m",
        f'sum by (registry) (rate({P}connections_closed_total{{cause=~"{"|".join(BY_TROUBLE)}"}}[5m])) '
        f"> 0.2 * sum by (registry) (rate({P}connections_closed_total[5m]))",
        "Clients are closed because they do not keep up, or because of errors.",
        "See connections_closed_total by cause, and manager.recently_closed() for single clients.",
        _all(_trouble),
    ),
    Rule(
        "SlowConsumers", "warn", "5m",
        f'rate({P}connections_closed_total{{cause="slow"}}[5m]) '
        f"> on (registry, worker, instance, job) (0.001 * {P}connections)",
        "Clients do not read as fast as messages are sent to them.",
        "Send less or smaller messages, store them in a history, or raise outbox_size.",
        _each(_slow),
    ),
    Rule(
        "LoopLag", "warn", "5m",
        f"histogram_quantile(0.99, rate({P}event_loop_lag_seconds_bucket[5m])) > 0.1",
        "Everything on this process is late.",
        "Look for code that blocks the event loop, and for CPU limits. Add workers.",
        _each(_loop),
    ),
    Rule(
        "BusLag", "warn", "5m",
        f"histogram_quantile(0.9, rate({P}bus_lag_seconds_bucket[5m])) > 0.5",
        "Messages between nodes are late.",
        "Look at the CPU of Redis, at its slow commands (SLOWLOG), and at the event loop of the node.",
        _each(_bus_lag),
    ),
    Rule(
        "NearLimit", "warn", "10m",
        f"{P}connections > on (registry, worker, instance, job) "
        f'(0.85 * {P}limit{{name="max_connections"}})',
        "This node will soon refuse clients.",
        "Add nodes, or raise max_connections.",
        _each(_full),
    ),
    Rule(
        "FanOutBacklog", "warn", "2m",
        f"{P}fan_out_queued_bytes > {QUEUE_LIMIT_BYTES // 2} or "
        f'rate({P}bus_events_total{{event="paused"}}[2m]) > 0',
        "Messages arrive faster than this process can write them to its clients.",
        "Add workers or nodes. See event_loop_lag_seconds.",
        _each(_backlog),
    ),
    Rule(
        "Imbalance", "warn", "15m",
        f"max by (registry) ({P}connections) > 1.5 * avg by (registry) ({P}connections) and "
        f"avg by (registry) ({P}connections) > 100",
        "Some nodes have many more clients than others, as after a deploy.",
        "Drain the fullest node, so that its clients connect again elsewhere.",
        _all(_imbalance),
    ),
    Rule(
        "HandshakesRefused", "warn", "5m",
        f"rate({P}connections_rejected_total[5m]) > 0.05 * "
        f"(rate({P}connections_rejected_total[5m]) + rate({P}connections_opened_total[5m]))",
        "Clients are refused: the node or the client is full, or the node drains.",
        "See max_connections, max_connections_per_client, and whether a drain is in progress.",
        _each(_refused),
    ),
    Rule(
        "HookFailing", "warn", "5m",
        f"rate({P}hooks_failed_total[5m]) > 0",
        "Functions of the application raise.",
        "The log of the node names the hook, the client and the error, once a minute.",
        _each(_hooks),
    ),
    Rule(
        "DrainStuck", "warn", "10m",
        f"{P}draining == 1 and {P}connections == 0",
        "A node is drained, and takes no clients until it is restarted. The others have its share.",
        "Restart or stop it. A drain by stabilizer drain or POST /drain does not end the process.",
        _each(_drained),
    ),
    Rule(
        "ScrapeIncomplete", "warn", "5m",
        f"{P}scrape_missing_workers > 0",
        "Some workers or nodes show no values, so sums are too small and their problems are not seen.",
        "Look for workers without manager.lifespan, for another scrape_group, and for redis_malformed.",
        _all(_incomplete),
    ),
    Rule(
        "VersionSkew", "warn", "1h",
        f"count by (registry) (count by (registry, version) ({P}node_info)) > 1",
        "Nodes of several releases run together for longer than a deploy takes.",
        "Finish the deploy.",
        _all(_skew),
    ),
)  # fmt: skip
"""All rules, the gravest first."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that holds, and what was found."""

    rule: Rule
    finding: Finding


def problems(look: Look, rules: Sequence[Rule] = RULES) -> list[Problem]:
    """Return everything that is wrong, the gravest first."""
    return [Problem(rule, finding) for rule in rules for finding in rule.check(look)]


def as_yaml() -> str:
    """Return the rules as a file for Prometheus. It has no value that would need quotes but those that have them."""
    lines = ["groups:", "  - name: stabilizer", "    rules:"]
    for rule in RULES:
        lines += [
            f"      - alert: Stabilizer{rule.name}",
            f"        expr: >-\n          {rule.expression}",
            f"        for: {rule.for_}",
            "        labels:",
            f"          severity: {rule.severity}",
            "        annotations:",
            f'          summary: "{rule.meaning}"',
            f'          description: "{rule.advice}"',
        ]
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """Return the sections of ``docs/operating.md``."""
    parts = [
        f"### {rule.name}\n\n{rule.meaning} Severity: {rule.severity}"
        + (f", after {rule.for_}" if rule.for_ != "0m" else "")
        + f".\n\n{rule.advice}\n\n```promql\n{rule.expression}\n```\n"
        for rule in RULES
    ]
    return "\n".join(parts)
