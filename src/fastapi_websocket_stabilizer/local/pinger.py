"""Pings silent sockets of this node and ends those that do not answer."""

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from .. import close_codes
from ..models import CloseCause
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters, Histogram
from ..wire.messages import Encoded, encode
from .connection import Connection
from .heartbeat import Liveness
from .lifecycle import Limits
from .shards import Shard, Shards

LONGEST_ROUND_S = 2.0
"""Largest number of seconds between two checks of a connection, and so the largest delay of a ping or an end."""


class Pinger:
    """Checks every connection several times per interval, shard by shard. Does not wait for any socket.

    Attributes:
        outboxes: Bytes in all outboxes, and in the largest one, as of the last round.
    """

    def __init__(
        self,
        shards: Shards,
        limits: Callable[[], Limits],
        counters: Counters,
        pings: Histogram,
        expire: Callable[[Connection, CloseCause, int, str], None],
    ) -> None:
        self._shards, self._limits, self._counters, self._expire = shards, limits, counters, expire
        self._pings = pings
        self.outboxes: tuple[int, int] = 0, 0

    async def run(self) -> None:
        """Check all connections in rounds until cancelled."""
        while True:
            # All shards in one round: answers that arrive together cause fewer wake-ups of the loop.
            await asyncio.sleep(self._round_s())
            total_bytes = largest_bytes = 0
            for shard in self._shards.shards:
                self._end_expired(shard)
                waiting = [connection.writer.queued_bytes for connection in shard.connections.values()]
                total_bytes, largest_bytes = total_bytes + sum(waiting), max([largest_bytes, *waiting])
                self._look_at(shard)
                await asyncio.sleep(0)
            self.outboxes = total_bytes, largest_bytes

    def _round_s(self) -> float:
        limits = self._limits()
        return min(LONGEST_ROUND_S, limits.heartbeat_interval / 4, limits.heartbeat_timeout / 4)

    def _ask(self, connection: Connection) -> None:
        if connection.native is not None and (
            connection.session is not None or self._limits().heartbeat_type == "ping"
        ):
            connection.native.ping()
        elif connection.session is not None:
            connection.session.ask()
        else:
            connection.ask(self._ping())

    def _ping(self) -> Encoded:
        limits = self._limits()
        if limits.heartbeat_type == "custom" and limits.heartbeat_message is not None:
            return encode(limits.heartbeat_message, sys.maxsize)
        return encode({"type": "ping", "timestamp": datetime.now(UTC).timestamp()}, sys.maxsize)

    def _end_expired(self, shard: Shard) -> None:
        """End the connections whose credentials have expired."""
        now_s = running_loop().time()
        for connection in [each for each in shard.connections.values() if each.expires_at_s <= now_s]:
            self._counters.credentials_expired += 1
            reason = "the credentials have expired"
            self._expire(connection, CloseCause.EXPIRED, close_codes.UNAUTHENTICATED, reason)

    def _look_at(self, shard: Shard) -> None:
        limits = self._limits()
        interval_s, timeout_s = limits.heartbeat_interval, limits.heartbeat_timeout
        now_s, round_s = running_loop().time(), self._round_s()
        for connection in tuple(shard.connections.values()):
            if connection.session is not None:
                connection.session.look(now_s, round_s)
            if (ping_s := connection.heartbeat.take_ping()) is not None:
                self._pings.add(ping_s)
            if connection.heartbeat.may_rest(now_s, interval_s):
                continue
            self._act(connection, connection.heartbeat.poll(now_s, interval_s, timeout_s), now_s)

    def _act(self, connection: Connection, verdict: Liveness, now_s: float) -> None:
        if verdict is Liveness.WAIT:
            return
        if connection.is_deaf:  # nothing is read from it, so its answer may be waiting unread
            connection.heartbeat.rest(now_s)
            self._ask(connection)  # a lost peer makes this write fail
        elif verdict is Liveness.PING:
            self._counters.heartbeat_pings += 1
            self._ask(connection)
        else:
            self._counters.heartbeat_timeouts += 1
            code = close_codes.HEARTBEAT_TIMEOUT
            self._expire(connection, CloseCause.TIMED_OUT, code, "heartbeat timeout")
