"""A snapshot of one node's counters and bounds."""

from dataclasses import fields

from ..config import WebSocketConfig
from ..local.fanout import QUEUE_LIMIT_BYTES
from ..runtime.metrics import Statistics, totals
from .direct import BYTES_PER_CALL, CLIENTS_PER_CALL
from .feed import QUEUE_BYTES, RING_BYTES
from .history import MEMORY_BYTES, READS, History
from .in_flight import IN_FLIGHT_LIMIT_BYTES
from .keeping import Keeping
from .state import NodeState


def snapshot(state: NodeState, history: History, keeping: Keeping) -> Statistics:
    """Return what ``manager.statistics()`` returns."""
    held = history.held()
    state.counters.sends_deferred = state.limiter.deferred
    return Statistics(
        node_id=state.node_id,
        connections=len(state.shards),
        rooms=len(state.shards.rooms),
        outbox_bytes=sum(connection.writer.queued_bytes for connection in state.shards),
        fan_out_queued_bytes=state.fan_out.queued_bytes,
        redis_queued_bytes=state.backend.queued_bytes,
        unheard_bytes=state.in_flight.bytes,
        bus_connected=state.backend.is_connected,
        counters=totals(state.counters),
        limits=limits_of(state.config),
        fan_out_seconds=state.histograms.fan_out.snapshot(),
        event_loop_lag_seconds=state.histograms.event_loop_lag.snapshot(),
        connection_seconds=state.ends.durations(),
        bus_lag_seconds=state.histograms.bus_lag.snapshot(),
        garbage_collection_seconds=state.gc_pauses.snapshot(),
        history_logs=held.logs,
        history_bytes=held.bytes,
        history_waiting_bytes=held.waiting_bytes,
        history_members_waiting=held.waiting,
        sessions=sum(connection.session is not None for connection in state.shards),
        sessions_unwritten=keeping.unwritten,
        closed=dict(state.ends.causes),
        close_codes_sent=dict(state.ends.sent),
        close_codes_received=dict(state.ends.received),
    )


def limits_of(config: WebSocketConfig) -> dict[str, int | float | None]:
    """Return the configured and the fixed bounds by name; None for those that are off."""
    names = [setting.name for setting in fields(config)]
    limits = {n: getattr(config, n) for n in names if n.startswith("max_") or n.endswith(("_s", "_size"))}
    return limits | {
        "fan_out_queue_bytes": QUEUE_LIMIT_BYTES,
        "unheard_bytes": IN_FLIGHT_LIMIT_BYTES,
        "direct_call_clients": CLIENTS_PER_CALL,
        "direct_call_bytes": BYTES_PER_CALL,
        "history_bytes": MEMORY_BYTES,
        "history_log_bytes": RING_BYTES,
        "history_waiting_bytes": QUEUE_BYTES,
        "history_reads": READS,
    }
