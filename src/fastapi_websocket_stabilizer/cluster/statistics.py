"""A snapshot of one node's counters and bounds."""

from dataclasses import fields

from ..config import WebSocketConfig
from ..local.fanout import QUEUE_LIMIT_BYTES
from ..runtime.metrics import Statistics, totals
from .context import Context
from .direct import BYTES_PER_CALL, CLIENTS_PER_CALL
from .pending import UNHEARD_LIMIT_BYTES


def snapshot(context: Context) -> Statistics:
    """Return what ``manager.statistics()`` returns."""
    context.counters.sends_deferred = context.gate.deferred
    return Statistics(
        node_id=context.node_id,
        connections=len(context.shards),
        rooms=len(context.shards.rooms),
        outbox_bytes=sum(connection.queued_bytes for connection in context.shards),
        fan_out_queued_bytes=context.fan_out.queued_bytes,
        redis_queued_bytes=context.backend.queued_bytes,
        unheard_bytes=context.unheard.bytes,
        bus_connected=context.backend.is_connected,
        counters=totals(context.counters),
        limits=_limits(context.config),
        fan_out_seconds=context.stopwatch.snapshot(),
        bus_lag_seconds=context.bus_lag.snapshot(),
        garbage_collection_seconds=context.gc_pauses.snapshot(),
    )


def _limits(config: WebSocketConfig) -> dict[str, int | float | None]:
    names = [setting.name for setting in fields(config)]
    limits = {n: getattr(config, n) for n in names if n.startswith("max_") or n.endswith(("_s", "_size"))}
    return limits | {
        "fan_out_queue_bytes": QUEUE_LIMIT_BYTES,
        "unheard_bytes": UNHEARD_LIMIT_BYTES,
        "direct_call_clients": CLIENTS_PER_CALL,
        "direct_call_bytes": BYTES_PER_CALL,
    }
