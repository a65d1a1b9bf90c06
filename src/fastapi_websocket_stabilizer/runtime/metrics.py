"""Counters of events and of reached bounds. Always on; plain integers."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields


def counter(text: str) -> int:
    """Return a field that begins at zero, with the help text that exporters show."""
    return field(default=0, metadata={"help": text})


@dataclass(slots=True)
class Counters:
    """Totals since the manager was made. All counting happens on one event loop, so there are no locks."""

    connections_opened: int = counter("Sockets registered.")
    connections_closed: int = counter("Connections that ended, for any reason.")
    connections_rejected: int = counter(
        "Sockets refused because the node or client is full, or because of a drain or shutdown."
    )
    connections_displaced: int = counter(
        "Connections closed because a newer connection of the client replaced them."
    )
    connections_drained: int = counter("Connections closed by a drain, with a hint when to reconnect.")
    connections_evicted_for_memory: int = counter("Connections closed because max_total_memory was reached.")
    heartbeat_pings: int = counter("Pings sent to sockets that were silent.")
    heartbeat_timeouts: int = counter(
        "Connections closed because nothing was received within heartbeat_timeout."
    )
    credentials_expired: int = counter(
        "Connections closed because the credentials of their client had expired."
    )
    slow_consumers: int = counter(
        "Connections closed for a full outbox, or a send longer than write_timeout_s."
    )
    close_timeouts: int = counter("Sockets aborted because closing them took longer than close_timeout_s.")
    messages_received_text: int = counter("Text messages of clients, frames of stabilizer.v1 among them.")
    messages_received_binary: int = counter("Binary messages of clients.")
    bytes_received: int = counter("Bytes of the messages of clients, inflated.")
    messages_sent: int = counter("Messages written to a socket or put into its outbox.")
    bytes_sent: int = counter("Bytes of these messages, before compression.")
    messages_failed: int = counter("Messages that could not be written to their socket.")
    messages_dropped: int = counter(
        "Messages dropped by an outbox_policy, and volatile ones to slow clients of rooms with a history."
    )
    messages_too_large: int = counter(
        "Inbound messages over max_message_size; the connection was closed with 1009."
    )
    messages_too_fragmented: int = counter(
        "Inbound messages in too many fragments; the connection was closed with 1008."
    )
    messages_invalid: int = counter(
        "Violations of the WebSocket protocol, or text that is not UTF-8; closed with 1002 or 1007."
    )
    messages_unfit: int = counter(
        "Inbound messages that did not fit the annotation of their handler and were not handled."
    )
    client_frames_invalid: int = counter(
        "Handshakes and frames that broke stabilizer.v1; the connection was closed with 4502."
    )
    client_frames_ignored: int = counter("Frames of stabilizer.v1 clients of a kind that has no effect here.")
    cursors_shortened: int = counter(
        "Cursors of which the positions of more than 1,000 rooms that the client was not in were dropped."
    )
    client_keys_ignored: int = counter(
        "Keys in frames of stabilizer.v1 clients that their kind does not have."
    )
    requests_received: int = counter("Requests of clients, including joins and leaves.")
    requests_refused: int = counter(
        "Requests of clients answered with invalid, not_found, forbidden or limit, and not carried out."
    )
    renewals_deferred: int = counter(
        "Newer credentials answered with limit: others came less than a second ago, or are looked at."
    )
    requests_cancelled: int = counter(
        "Requests of clients that ended without an answer: cancelled, or with their connection."
    )
    requests_sent: int = counter("Requests sent to sockets of this node.")
    answers_ignored: int = counter("Answers and cancellations of clients that no open request waits for.")
    sockets_paused: int = counter(
        "Times that a socket's write buffer was full, so its messages waited in its outbox."
    )
    reads_deferred: int = counter(
        "Times that a socket sent more than inbound_frames_per_turn frames at once and was deferred."
    )
    sends_deferred: int = counter("Sends that waited because max_concurrent_broadcast others were running.")
    sends_unreachable: int = counter("Direct sends that Redis could deliver to no node.")
    direct_batches: int = counter("Script calls for direct sends; the sends of one tick share a call.")
    broadcasts: int = counter("Broadcasts published by this node.")
    broadcasts_unheard: int = counter("Own broadcasts that did not come back from Redis before the deadline.")
    streams_opened: int = counter("Streams of text opened.")
    streams_failed: int = counter(
        "Streams that ended early, by an exception, a cancellation, or a text that could not be sent."
    )
    stream_messages: int = counter("Messages sent of streams; each has the text of 50 ms or of 16 KiB.")
    stream_writes_deferred: int = counter(
        "Writes to streams that waited because 64 KiB of earlier text had not left."
    )
    confirmations_missing: int = counter("Nodes that did not confirm a message in time.")
    degraded: int = counter(
        'Messages and joins that stayed on this node because Redis was away (on_backend_loss="degrade").'
    )
    history_appends: int = counter("Messages that this node stored in logs.")
    history_refused: int = counter(
        "Messages that were to be stored and were not: too large for their log, or Redis was away."
    )
    history_unconfirmed: int = counter(
        "Messages of which it is not known whether they were stored, because Redis did not answer."
    )
    history_trimmed_messages: int = counter(
        "Stored messages that this node's appends dropped for their number."
    )
    history_trimmed_bytes: int = counter(
        "Stored messages that this node's appends dropped for the size of their log."
    )
    history_trimmed_age: int = counter("Stored messages that this node's appends dropped for their age.")
    history_repeats: int = counter("Appends to logs that were sent again because their outcome was unknown.")
    history_reads: int = counter(
        "Reads of logs, after a subscription, for a gap, or for clients that return."
    )
    history_reads_shared: int = counter("Members of logs that were answered by a read made for another one.")
    history_ring_hits: int = counter(
        "Clients that returned to a log and were answered from the memory of this node."
    )
    history_ring_misses: int = counter("Clients that returned to a log that had to be read for them.")
    history_repairs: int = counter("Times that a read brought members of a log what the bus had lost.")
    history_replayed: int = counter("Stored messages given to clients that returned, joined or were slow.")
    history_replayed_bytes: int = counter("Bytes of these messages, as they are stored.")
    history_stops: int = counter("Times that a client read too slowly, and went on later from its log.")
    history_parts: int = counter("Reads of a part of a log, for a client that was slow.")
    history_restored: int = counter("Logs into which this node put messages back that a failover had lost.")
    history_holes: int = counter("Logs in which this node marked messages as lost by a failover.")
    history_lost_trimmed: int = counter(
        "Times that members of a log missed messages that were dropped for age or size."
    )
    history_lost_unknown: int = counter("Times that members of a log missed an unknown number of messages.")
    history_lost_reset: int = counter("Times that members of a log were told that it was deleted or lost.")
    history_lost_hole: int = counter("Times that members of a log were told of messages lost by a failover.")
    history_dropped: int = counter(
        "Messages that waited for a read of their log and were dropped for memory; stored ones are read again."
    )
    history_freed: int = counter(
        "Logs whose recent messages this node freed because all logs exceeded 64 MiB."
    )
    history_unlogged: int = counter("Messages to a room with history that their sender did not store.")
    mailbox_marks_refused: int = counter(
        "Acknowledgements of clients of messages that their mailbox has never had."
    )
    admin_refused: int = counter(
        "Requests to the admin routes that were refused: a wrong secret, from elsewhere, or too many of these."
    )
    views_refused: int = counter(
        "Questions of operators that were refused, because four others were answered."
    )
    hooks_failed: int = counter("Exceptions raised by hooks of the application.")
    bus_messages: int = counter("Envelopes received from the bus.")
    bus_malformed: int = counter(
        "Envelopes dropped because they are malformed, too large or need a newer release."
    )
    bus_unsigned: int = counter(
        "Envelopes dropped because they are not signed and envelope_keys is set here."
    )
    bus_forged: int = counter(
        "Envelopes dropped because their signature is wrong, or made with an unknown key."
    )
    bus_replayed: int = counter(
        "Signed envelopes, or clients of one, dropped as repeated, too old, or older than the subscription."
    )
    redis_malformed: int = counter(
        "Values in Redis skipped because they do not have the form of this release."
    )
    bus_duplicates: int = counter("Envelopes dropped because they had arrived before.")
    bus_late: int = counter("Envelopes dropped because a newer one of the same sender had arrived before.")
    bus_lost: int = counter("Envelopes missing in a sequence; a lower bound.")
    bus_reconnects: int = counter("Times that a connection of the bus was lost and opened again.")
    bus_gaps: int = counter(
        "Times that the bus was subscribed again after a gap; messages of the gap are lost."
    )
    canaries_missed: int = counter("Bus connections replaced because no canary came back within a beat.")
    bus_moves: int = counter(
        "Channels subscribed on another server of the cluster because their slot had moved."
    )
    bus_paused: int = counter("Times that reading from the bus waited because the fan-out queue was full.")
    redis_batches: int = counter("Batches of commands written to Redis.")
    redis_commands: int = counter("Commands sent to Redis.")
    redis_failures: int = counter("Commands without an answer.")
    redis_rejected: int = counter("Commands refused because the pipeline was full.")
    redis_redirected: int = counter(
        "Commands that a server of the cluster did not execute, and that were sent again."
    )
    releases_dropped: int = counter(
        "Releases left to the sweep because too many waited for the return of Redis."
    )
    entries_repaired: int = counter(
        "Connections claimed again because Redis had lost single keys or entries."
    )
    leases_shortened: int = counter("Leases of other nodes shortened because Redis' clock was stepped back.")
    leases_refused: int = counter(
        "Times that this node registered under a new node_id because its lease was gone."
    )
    nodes_swept: int = counter("Dead nodes whose entries this node removed.")
    entries_swept: int = counter("Entries of dead nodes that this node removed.")
    presence_snapshots: int = counter("Times that a client that watches a room was sent all its members.")
    presence_gaps: int = counter(
        "Changes of presence that did not follow the one before, so the room was read."
    )
    resumes_whole: int = counter("Clients of stabilizer.v1 that returned with a cursor, and missed nothing.")
    resumes_lost: int = counter(
        "Clients that returned with a cursor, and were told that a log does not continue."
    )
    resumes_later: int = counter(
        "Clients that returned with a cursor and were told later, because a log did not answer in time."
    )
    cursors_unreadable: int = counter(
        "Cursors that could not be read; all logs of the client were told as lost."
    )
    sessions_kept: int = counter("Sessions of which this node began to keep rooms or marks in the store.")
    sessions_taken: int = counter("Sessions that a connection of this node took over from an earlier one.")
    sessions_parted: int = counter(
        "Connections that went on although another one came with their session, as of a duplicated tab."
    )
    sessions_gone: int = counter(
        "Sessions named by a cursor that were not there: nothing was kept, expired, revoked or taken before."
    )
    revocations_missed: int = counter(
        "Removals from rooms, and closes, that this node carried out late, because it had been cut off."
    )
    revocations_dropped: int = counter("Removals and closes that are not kept for a node that is cut off.")
    sessions_dropped: int = counter(
        "Sessions of clients that had more than 32, and names of sessions beyond those that may wait for Redis."
    )
    session_rooms_dropped: int = counter(
        "Rooms not kept in a session of 64 KiB, or not joined again because the Identity has filled the limit."
    )
    tokens_issued: int = counter("Reconnect tokens issued.")
    tokens_redeemed: int = counter("Reconnect tokens redeemed.")
    redemptions_forgotten: int = counter(
        "Redemptions evicted after 100,000 newer ones; a Redis with older content may accept their tokens."
    )
    tokens_dropped: int = counter("Oldest tokens evicted in memory mode because too many were outstanding.")

    def received(self, size: int, *, is_text: bool) -> None:
        """Count a message of a client, of ``size`` bytes."""
        if is_text:
            self.messages_received_text += 1
        else:
            self.messages_received_binary += 1
        self.bytes_received += size

    def sent(self, messages: int, size: int) -> None:
        """Count messages of ``size`` bytes in all that were written to sockets, or put into their outboxes."""
        self.messages_sent += messages
        self.bytes_sent += size


@dataclass(frozen=True, slots=True)
class Timing:
    """Count, sum and maximum of a duration in seconds."""

    count: int = 0
    total_s: float = 0.0
    max_s: float = 0.0


class Histogram:
    """Running count, sum and maximum of durations, and how many were at most as long as each bound.

    Adding one takes 0.3 µs, so it is for batches, closes and beats, and never for single sends.

    Attributes:
        counts: Number of durations in each bucket: up to the first bound, up to the second, …, and longer ones.
        total_s: Their sum in seconds.
    """

    __slots__ = ("_listeners", "_max_s", "bounds_s", "counts", "total_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self.bounds_s: tuple[float, ...] = tuple(bounds_s)
        self.counts: list[int] = [0] * (len(self.bounds_s) + 1)
        self.total_s: float = 0.0
        self._max_s = 0.0
        self._listeners: tuple[Callable[[float], None], ...] = ()

    def listen(self, listener: Callable[[float], None]) -> None:
        """Call ``listener`` with each duration that is added from now on. It must not raise."""
        self._listeners += (listener,)

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.total_s += seconds
        if seconds > self._max_s:
            self._max_s = seconds
        for listener in self._listeners:
            listener(seconds)

    def snapshot(self) -> Timing:
        """Return the count, sum and maximum so far."""
        return Timing(sum(self.counts), self.total_s, self._max_s)


class Histograms:
    """The durations that one node measures. The bounds are part of the names that dashboards rely on."""

    def __init__(self) -> None:
        self.fan_out: Histogram = Histogram(FAN_OUT_S)
        self.bus_lag: Histogram = Histogram(BUS_LAG_S)
        self.event_loop_lag: Histogram = Histogram(LOOP_LAG_S)
        self.handshake: Histogram = Histogram(HANDSHAKE_S)
        self.claim: Histogram = Histogram(HANDSHAKE_S)
        self.ping: Histogram = Histogram(PING_S)
        self.message_handler: Histogram = Histogram(HANDLER_S)
        self.redis_command: Histogram = Histogram(REDIS_S)
        self.connections_by_client: Histogram = Histogram(CONNECTION_S)
        self.connections_by_server: Histogram = Histogram(CONNECTION_S)

    def by_name(self) -> dict[str, Histogram]:
        """Return all of them by name."""
        return dict(vars(self))


FAN_OUT_S = (50e-6, 100e-6, 250e-6, 500e-6, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
BUS_LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
LOOP_LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
HANDSHAKE_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
REDIS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 3)
PING_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
HANDLER_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)
CONNECTION_S = (1, 10, 60, 300, 1800, 3600, 14_400, 43_200, 86_400)
COLLECTION_S = (0.001, 0.01, 0.1, 1)
"""Bounds of buckets in seconds."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of one manager.

    Attributes:
        node_id: This node; a restart or a lapsed lease changes it.
        connections: Current number of sockets.
        rooms: Rooms with a member on this node.
        outbox_bytes: Bytes waiting in all outboxes.
        fan_out_queued_bytes: Bytes read from the bus and not yet fanned out.
        redis_queued_bytes: Bytes of commands not yet sent.
        unheard_bytes: Bytes of own broadcasts that have not come back yet, and of messages behind them.
        bus_connected: Whether the bus is subscribed. Always True in memory mode.
        counters: All totals by name.
        limits: All configured bounds by name.
        fan_out_seconds: Duration of fan-outs, if ``enable_metrics`` is set.
        event_loop_lag_seconds: How much later than asked for the event loop has continued, looked at twice a second.
        connection_seconds: How long the connections were open that have ended.
        bus_lag_seconds: Time from publishing a canary until it comes back on the bus, measured once a beat.
        garbage_collection_seconds: Full collections of this process since ``start``; none falls into a fan-out.
        history_logs: Logs with members on this node: of rooms, and of everybody.
        history_bytes: Bytes of recent messages of all logs, and of those that wait for a read.
        history_waiting_bytes: Bytes of those messages that wait for a read.
        history_members_waiting: Members that wait for the answer of a log, each once for each log.
        sessions: Current number of sockets of ``stabilizer.v1``.
        sessions_unwritten: Sessions with changes that Redis did not accept. Each beat writes them again.
        closed: Ended connections by ``CloseCause``. Their sum is ``counters["connections_closed"]``.
        close_codes_sent: The close codes that this node chose, by code, or "other" for those of the application.
        close_codes_received: The close codes of clients, by code or "other"; 1006 for clients that vanished.
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
    event_loop_lag_seconds: Timing
    connection_seconds: Timing
    bus_lag_seconds: Timing
    garbage_collection_seconds: Timing
    history_logs: int
    history_bytes: int
    history_waiting_bytes: int
    history_members_waiting: int
    sessions: int
    sessions_unwritten: int
    closed: dict[str, int]
    close_codes_sent: dict[str, int]
    close_codes_received: dict[str, int]


def totals(counters: Counters) -> dict[str, int]:
    """Return the counters by name."""
    return {each.name: getattr(counters, each.name) for each in fields(counters)}
