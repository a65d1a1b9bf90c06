"""Why connections of this node ended: counts by cause and code, and the last ends in full."""

from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime

from ..close_codes import ABNORMAL, INTERNAL_ERROR, NO_STATUS, CloseCode
from ..local.connection import Connection
from ..models import CloseCause, ClosedConnection
from ..names import ConnectionId, node_of
from ..runtime.metrics import Counters, Histograms, Timing

OTHER = "other"
"""Label of close codes outside the table. Clients choose codes, so each must not have a count of its own."""
SENT = tuple(sorted({*map(int, CloseCode), INTERNAL_ERROR} - {NO_STATUS, ABNORMAL}))
RECEIVED = (1000, 1001, 1002, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013)
"""Close codes that have a count of their own."""


class Ends:
    """The ends of this node's connections.

    Attributes:
        causes: Number of ends by cause. Their sum is ``connections_closed``.
        sent: Number of close codes that this node chose, by code or ``other``.
        received: The same for codes of clients; 1006 is a client that vanished.
    """

    def __init__(self, counters: Counters, histograms: Histograms, kept: Callable[[], int]) -> None:
        self._counters, self._histograms, self._kept = counters, histograms, kept
        self._last: deque[ClosedConnection] = deque()
        self.causes: dict[str, int] = {cause.value: 0 for cause in CloseCause}
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def note(
        self,
        connection: Connection,
        connection_id: ConnectionId,
        code: int,
        reason: str,
        queued_bytes: int,
    ) -> ClosedConnection:
        """Count an end whose cause is settled, and keep it as one of the last ``closed_log_size``."""
        cause, now_s = connection.cause or CloseCause.RELEASED, connection.loop.time()
        self._counters.connections_closed += 1
        self.causes[cause.value] += 1
        codes, known = (self.received, RECEIVED) if cause.is_by_client else (self.sent, SENT)
        codes[str(code) if code in known else OTHER] += 1
        histograms, lasted_s = self._histograms, now_s - connection.opened_at_s
        by = histograms.connections_by_client if cause.is_by_client else histograms.connections_by_server
        by.add(lasted_s)
        closed = ClosedConnection(
            client_id=connection.client_id,
            connection_id=connection_id,
            node=node_of(connection_id),
            at=datetime.now(UTC),
            cause=cause,
            code=code,
            reason=reason,
            error=connection.writer.error,
            lasted_s=round(lasted_s, 3),
            silent_s=round(min(lasted_s, now_s - connection.heartbeat.heard_at_s), 3),
            queued_bytes=queued_bytes,
        )
        self._last.append(closed)
        while len(self._last) > self._kept():
            self._last.popleft()
        return closed

    def durations(self) -> Timing:
        """Return how long all connections were open that have ended."""
        client, server = (
            each.snapshot()
            for each in (self._histograms.connections_by_client, self._histograms.connections_by_server)
        )
        total_s, max_s = client.total_s + server.total_s, max(client.max_s, server.max_s)
        return Timing(client.count + server.count, total_s, max_s)

    def last(self) -> list[ClosedConnection]:
        """Return the last ends, the newest first."""
        return list(reversed(self._last))
