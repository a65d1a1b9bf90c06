"""Counters of everything that happens and of every bound that is hit; always on, plain integers."""

from dataclasses import dataclass, field, fields


def counter(text: str) -> int:
    """Return a field that begins at zero, with the help text that exporters show."""
    return field(default=0, metadata={"help": text})


@dataclass(slots=True)
class Counters:
    """Totals since the manager was made. One process, one loop: no locks."""

    connections_opened: int = counter("Sockets registered.")
    connections_closed: int = counter("Connections that ended, for any reason.")
    connections_rejected: int = counter("Sockets refused: node full, client full, draining or shut down.")
    connections_displaced: int = counter(
        "Connections closed because a newer socket of the same client took over."
    )
    connections_drained: int = counter("Connections closed by a drain, with the time to come back.")
    connections_evicted_for_memory: int = counter("Connections closed because max_total_memory was reached.")
    heartbeat_pings: int = counter("Pings sent to sockets that were silent.")
    heartbeat_timeouts: int = counter("Connections closed because nothing came within heartbeat_timeout.")
    slow_consumers: int = counter(
        "Connections closed for a full outbox, or a send longer than write_timeout_s."
    )
    close_timeouts: int = counter("Sockets dropped because closing them took longer than close_timeout_s.")
    messages_sent: int = counter("Messages written to a socket, or taken by its outbox.")
    messages_failed: int = counter("Messages that a socket did not take because it failed.")
    messages_dropped: int = counter("Messages dropped by outbox_policy drop_oldest or drop_newest.")
    messages_too_large: int = counter(
        "Inbound messages over max_message_size; the connection was closed with 1009."
    )
    messages_too_fragmented: int = counter(
        "Inbound messages in too many fragments; the connection was closed with 1008."
    )
    messages_invalid: int = counter(
        "Violations of the WebSocket protocol, or text that is not UTF-8; closed with 1002 or 1007."
    )
    sockets_paused: int = counter(
        "Times that a socket's write buffer was full and its messages waited in its outbox."
    )
    reads_deferred: int = counter(
        "Times that more than inbound_frames_per_turn came in and the rest of it waited."
    )
    sends_deferred: int = counter("Sends that waited because max_concurrent_broadcast others were under way.")
    sends_unreachable: int = counter("Direct sends for which Redis found no listening node.")
    direct_batches: int = counter("Script calls that carried direct sends; those of one tick share a call.")
    broadcasts: int = counter("Broadcasts published by this node.")
    broadcasts_unheard: int = counter("Own broadcasts that did not come back before the deadline.")
    confirmations_missing: int = counter("Nodes that did not confirm in time.")
    degraded: int = counter(
        'Messages and joins that stayed on this node because Redis was away (on_backend_loss="degrade").'
    )
    hooks_failed: int = counter("Exceptions raised by hooks of the application.")
    bus_messages: int = counter("Envelopes received from the bus.")
    bus_malformed: int = counter("Envelopes dropped: malformed, too large or of a newer version.")
    bus_unsigned: int = counter("Envelopes dropped because envelope_keys is set here, and not at the sender.")
    bus_forged: int = counter(
        "Envelopes dropped because no key of envelope_keys made their signature for this content."
    )
    bus_replayed: int = counter(
        "Signed envelopes dropped, or clients removed from one: repeated, too old, or from before we subscribed."
    )
    redis_malformed: int = counter("Values in Redis that this release did not write in this form; skipped.")
    bus_duplicates: int = counter("Envelopes dropped because they had come before.")
    bus_late: int = counter("Envelopes dropped because a newer one of the same sender had come before.")
    bus_lost: int = counter("Envelopes missing in a sequence; a lower bound.")
    bus_reconnects: int = counter("Times that a connection of the bus was lost and opened again.")
    bus_gaps: int = counter(
        "Times that the bus was away and is subscribed again; messages of that time are lost."
    )
    canaries_missed: int = counter(
        "Bus connections replaced because our own message did not come back within a beat."
    )
    bus_moves: int = counter(
        "Channels subscribed on another server of the cluster because their slot had moved."
    )
    bus_paused: int = counter("Times that the fan-out queue was full and reading the bus waited.")
    redis_batches: int = counter("Batches of commands written to Redis.")
    redis_commands: int = counter("Commands sent to Redis.")
    redis_failures: int = counter("Commands that got no answer.")
    redis_rejected: int = counter("Commands refused because the pipeline was full.")
    redis_redirected: int = counter(
        "Commands that a server of the cluster did not execute, and that were sent again."
    )
    releases_dropped: int = counter("Releases dropped because too many waited for Redis to come back.")
    entries_repaired: int = counter("Connections claimed again because Redis had lost their entries alone.")
    leases_shortened: int = counter(
        "Leases of other nodes that ended early because Redis' clock was stepped back."
    )
    leases_refused: int = counter(
        "Times that this node found its lease gone and registered again under a new node_id."
    )
    nodes_swept: int = counter("Dead nodes whose entries this node removed.")
    entries_swept: int = counter("Entries of dead nodes that this node removed.")
    tokens_issued: int = counter("Reconnect tokens issued.")
    tokens_redeemed: int = counter("Reconnect tokens redeemed.")
    redemptions_forgotten: int = counter(
        "Redemptions dropped after 100,000 newer ones; a Redis with older content may redeem those tokens again."
    )
    tokens_dropped: int = counter("Oldest tokens dropped in memory mode because too many were outstanding.")


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
    return {each.name: getattr(counters, each.name) for each in fields(counters)}
