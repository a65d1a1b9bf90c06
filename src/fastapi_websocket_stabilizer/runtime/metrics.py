"""Counters of everything that happens and of every bound that is hit; always on, plain integers."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Counters:
    """Totals since the manager was made. One process, one loop: no locks."""

    connections_opened: int = 0
    connections_closed: int = 0
    connections_rejected: int = 0
    """Refused: node full, client full, or shutting down."""
    connections_displaced: int = 0
    """Closed because a newer socket of the same client took over."""
    connections_drained: int = 0
    """Closed by a drain, and told when to come back."""
    connections_evicted_for_memory: int = 0
    heartbeat_pings: int = 0
    heartbeat_timeouts: int = 0
    slow_consumers: int = 0
    """Closed because the outbox was full or one send took longer than ``write_timeout_s``."""
    close_timeouts: int = 0
    """Sockets forgotten because closing them took longer than ``close_timeout_s``."""
    messages_sent: int = 0
    """Messages written to a socket, or taken by its outbox."""
    messages_failed: int = 0
    messages_dropped: int = 0
    """Dropped by ``drop_oldest`` or ``drop_newest``."""
    messages_too_large: int = 0
    """Inbound messages over ``max_message_size``; the connection was closed with 1009."""
    messages_too_fragmented: int = 0
    """Inbound messages in too many fragments; the connection was closed with 1008."""
    messages_invalid: int = 0
    """Violations of the WebSocket protocol, or text that is not UTF-8; closed with 1002 or 1007."""
    sockets_paused: int = 0
    """Times that a socket's write buffer was full and its messages waited in its outbox."""
    reads_deferred: int = 0
    """Times that a socket was not read on, since more had come in than ``inbound_frames_per_turn``."""
    sends_deferred: int = 0
    """Sends that waited because ``max_concurrent_broadcast`` others were under way."""
    sends_unreachable: int = 0
    """Direct sends for which Redis found no node listening."""
    direct_batches: int = 0
    """Script calls that carried direct sends: those of one tick share one."""
    broadcasts: int = 0
    broadcasts_unheard: int = 0
    """Own broadcasts that did not come back before the deadline."""
    confirmations_missing: int = 0
    """Nodes that did not confirm in time."""
    degraded: int = 0
    """Messages and joins that stayed on this node, since Redis was away (``on_backend_loss="degrade"``)."""
    hooks_failed: int = 0
    bus_messages: int = 0
    bus_malformed: int = 0
    """Envelopes dropped: malformed, too large or of a newer version."""
    bus_unsigned: int = 0
    """Envelopes dropped because ``envelope_keys`` is set here, and not where they came from."""
    bus_forged: int = 0
    """Envelopes dropped because their signature is not one of ``envelope_keys``, or is that of something else."""
    bus_replayed: int = 0
    """Signed envelopes dropped, or clients left out of one: heard before, too old, or from before we listened."""
    redis_malformed: int = 0
    """Values in Redis that are not as we write them: skipped."""
    bus_duplicates: int = 0
    bus_late: int = 0
    """Envelopes dropped because a newer one of the same sender had come before."""
    bus_lost: int = 0
    """Envelopes that a sequence says were lost (a lower bound)."""
    bus_reconnects: int = 0
    bus_gaps: int = 0
    """Times that the bus was away and is subscribed again: what was said meanwhile is lost."""
    canaries_missed: int = 0
    """Times that a bus connection was silent for a beat in which our own message should have come back."""
    bus_moves: int = 0
    """Channels that were subscribed again elsewhere in the cluster, since their slot had moved."""
    bus_paused: int = 0
    """Times that the fan-out queue was full and reading the bus waited."""
    redis_batches: int = 0
    redis_commands: int = 0
    redis_failures: int = 0
    """Commands that got no answer."""
    redis_rejected: int = 0
    """Commands refused because the pipeline was full."""
    redis_redirected: int = 0
    """Commands that a server of the cluster did not execute, and that were sent again."""
    releases_dropped: int = 0
    """Releases forgotten because too many waited for Redis to come back."""
    entries_repaired: int = 0
    """Connections that were claimed again since Redis had lost something of them alone."""
    leases_shortened: int = 0
    """Leases of other nodes that ended later than they can: Redis' clock was stepped back."""
    leases_refused: int = 0
    """Times this node found its lease gone and registered again under a new node_id."""
    nodes_swept: int = 0
    entries_swept: int = 0
    tokens_issued: int = 0
    tokens_redeemed: int = 0
    redemptions_forgotten: int = 0
    """Redeemed tokens that a Redis with older content may let in again: 100,000 newer ones were redeemed here."""
    tokens_dropped: int = 0
    """In memory mode: oldest tokens forgotten because too many were outstanding."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Count, sum and maximum of a duration in seconds."""

    count: int = 0
    total_s: float = 0.0
    max_s: float = 0.0


class Stopwatch:
    """Adds up durations."""

    __slots__ = ("_count", "_max", "_total")

    def __init__(self) -> None:
        self._count, self._total, self._max = 0, 0.0, 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._count += 1
        self._total += seconds
        self._max = max(self._max, seconds)

    def snapshot(self) -> Timing:
        """Return what was added up so far."""
        return Timing(self._count, self._total, self._max)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of one manager.

    Attributes:
        node_id: This node; a restart or a lapsed lease changes it.
        connections: Sockets held now.
        rooms: Rooms with a member on this node.
        outbox_bytes: Bytes waiting in all outboxes.
        fan_out_queued_bytes: Bytes read from the bus and not yet fanned out.
        redis_queued_bytes: Bytes of commands not yet sent.
        unheard_bytes: Bytes of own broadcasts that have not come back yet, and of messages behind them.
        bus_connected: Whether the bus is subscribed; True in one process.
        counters: Every total, by name.
        limits: Every bound in force, by name.
        fan_out_seconds: Duration of fan-outs, when ``enable_metrics`` is set.
        bus_lag_seconds: From handing a message to Redis until it comes back on the bus; measured once a beat.
        garbage_collection_seconds: Full collections of this process since ``start``; none falls into a fan-out.
    """

    node_id: str
    connections: int
    rooms: int
    outbox_bytes: int
    fan_out_queued_bytes: int
    redis_queued_bytes: int
    unheard_bytes: int
    bus_connected: bool
    counters: dict[str, int]
    limits: dict[str, int | float | None]
    fan_out_seconds: Timing
    bus_lag_seconds: Timing
    garbage_collection_seconds: Timing


def totals(counters: Counters) -> dict[str, int]:
    """Return the counters by name."""
    return {counter.name: getattr(counters, counter.name) for counter in fields(counters)}
