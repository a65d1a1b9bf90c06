"""Pings this node's silent sockets and ends those that do not answer."""

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from .. import close_codes
from ..local.connection import Connection
from ..local.heartbeat import Liveness
from ..local.owner import Ended
from ..local.shards import Shard
from ..wire import Encoded, encode
from .context import Context

LONGEST_TICK_S = 1.0


class Heartbeats:
    """Looks at every connection a few times per interval, shard by shard; nothing waits for a socket."""

    def __init__(self, context: Context, expire: Callable[[Connection, Ended, int, str], None]) -> None:
        self._context, self._expire = context, expire

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            config = self._context.config
            await asyncio.sleep(
                min(LONGEST_TICK_S, config.heartbeat_interval / 4, config.heartbeat_timeout / 4)
            )
            ping = self._ping()
            for shard in self._context.shards.shards:
                self._look_at(shard, ping)
                await asyncio.sleep(0)

    def _ping(self) -> Encoded:
        config = self._context.config
        if config.heartbeat_type == "custom" and config.heartbeat_message is not None:
            return encode(config.heartbeat_message, sys.maxsize)
        return encode({"type": "ping", "timestamp": datetime.now(UTC).timestamp()}, sys.maxsize)

    def _look_at(self, shard: Shard, ping: Encoded) -> None:
        config = self._context.config
        loop = asyncio.get_running_loop()
        for connection in tuple(shard.connections.values()):
            verdict = connection.heartbeat.poll(
                connection.loop.time(), config.heartbeat_interval, config.heartbeat_timeout
            )
            if verdict is Liveness.PING:
                self._context.counters.heartbeat_pings += 1
                if connection.loop is loop:
                    connection.push(ping)
                else:
                    connection.hand_over(ping)
            elif verdict is Liveness.DEAD:
                self._context.counters.heartbeat_timeouts += 1
                self._expire(connection, Ended.TIMED_OUT, close_codes.HEARTBEAT_TIMEOUT, "heartbeat timeout")
