"""Probes of each beat: they detect a dead bus connection, measure its lag, and detect an emptied cluster primary.

A dead subscription cannot be told from an idle one. So a canary is published through the command connection and
must return on the bus, where the repeated SUBSCRIBE must be confirmed. This tests both directions of both
connections. A peer that drops all bytes is detected within two beats.

The primary of ``{nodes}`` returns its epoch with each renewal. The epochs of other primaries are keys without expiry.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial

from ...runtime.metrics import Counters
from . import scripts
from .keys import Keys
from .ports import CommandConnection
from .subscriber import Subscriber

OUTSTANDING = 16
"""Maximum number of outstanding canaries; the lag of an older one is not measured."""

ATTEMPTS = 256
"""Names tried for one canary, in about a millisecond. Enough for a primary with a hundredth of the slots."""

Publish = Callable[[str, bytes], "asyncio.Future[object]"]
HeardAfter = Callable[[float], None]


class Canaries:
    """The canaries of all bus connections of a node: one, or one for each subscribed primary of a cluster."""

    def __init__(
        self,
        keys: Keys,
        commands: CommandConnection,
        publish: Callable[[], str],
        counters: Counters,
        heard_after: HeardAfter,
    ) -> None:
        self._keys, self._commands, self._publish_command, self._counters = keys, commands, publish, counters
        self._heard_after = heard_after
        self._canaries: dict[Subscriber, Canary] = {}
        # ``heard_to_s`` of the connections that were left since the last beat, and before it.
        self._left_at_s = self._left_before_s = math.inf

    def watch(self, subscriber: Subscriber, may_be: Callable[[str], bool] = lambda _: True) -> str | None:
        """Begin to send canaries through a connection, on a channel that ``may_be`` accepts; return the channel.

        Return None if no channel was found, because the primary owns few slots or none.
        """
        names = (self._keys.canary(secrets.token_hex(8)) for _ in range(ATTEMPTS))
        channel = next(filter(may_be, names), None)
        if channel is None:
            return None
        canary = Canary(subscriber, self._publish, channel, self._counters, self._heard_after)
        self._canaries[subscriber] = canary
        return channel

    def forget(self, subscriber: Subscriber) -> None:
        """Stop the canaries of a connection that is closed, or whose canary channel has moved."""
        if (canary := self._canaries.pop(subscriber, None)) is not None:
            # Its channels move to other connections. The node compares them with the next beat at the latest.
            self._left_at_s = min(self._left_at_s, canary.heard_to_s)
            canary.release()

    def restart(self) -> None:
        """Discard outstanding canaries, which do not return after a reconnect."""
        for canary in self._canaries.values():
            canary.restart()

    def beat(self) -> None:
        """Check the last canaries and send the next. Called when commands are known to work."""
        self._left_at_s, self._left_before_s = math.inf, self._left_at_s
        for canary in tuple(self._canaries.values()):
            canary.beat()

    def unheard_for_s(self) -> float:
        """Seconds since the oldest canary that Redis accepted and that has not returned; 0 if all have."""
        return max((canary.unheard_for_s() for canary in self._canaries.values()), default=0.0)

    @property
    def heard_to_s(self) -> float:
        """Monotonic time at which the last canary was sent that came back: the earliest of all connections.

        A new connection begins with the time at which it was opened: its channels are read after that.
        """
        heard = [canary.heard_to_s for canary in self._canaries.values()]
        return min(*heard, self._left_at_s, self._left_before_s) if heard else 0.0

    def _publish(self, channel: str, data: bytes) -> "asyncio.Future[object]":
        return self._commands.send(self._publish_command(), channel, data, idempotent=False)


class Canary:
    """Watches one bus connection, and reconnects it when it is stuck."""

    def __init__(
        self,
        subscriber: Subscriber,
        publish: Publish,
        channel: str,
        counters: Counters,
        heard_after: HeardAfter,
    ) -> None:
        self._subscriber, self._publish, self._channel = subscriber, publish, channel
        self._counters, self._heard_after = counters, heard_after
        self.heard_to_s: float = time.monotonic()
        subscriber.listen(channel, self._on_message)
        self.restart()

    def release(self) -> None:
        """Stop watching the connection."""
        self._subscriber.listen_no_more(self._channel)
        self._subscriber.unsubscribe(self._channel)

    def restart(self) -> None:
        """Discard outstanding canaries, and subscribe to the channel."""
        self._subscriber.want(self._channel)
        self._outstanding: dict[bytes, float] = {}  # payload -> when it was sent
        self._unheard_since_s: float | None = None
        self._bytes_read = -1

    def _on_message(self, _: bytes, data: bytes) -> None:
        sent_at_s = self._outstanding.get(data)
        if sent_at_s is not None:  # else another node's, or too old
            self._heard_after(time.monotonic() - sent_at_s)
            self.heard_to_s = sent_at_s
            self._outstanding = {d: at_s for d, at_s in self._outstanding.items() if at_s > sent_at_s}
            self._unheard_since_s = None

    def beat(self) -> None:
        """Check the last canary and send the next. Called when commands are known to work."""
        if self._is_stuck():
            self._counters.canaries_missed += 1
            self._subscriber.reconnect()
        self._bytes_read = self._subscriber.bytes_read
        self._subscriber.subscribe_again(self._channel)
        data, sent_at_s = secrets.token_bytes(8), time.monotonic()
        self._outstanding[data] = sent_at_s
        if len(self._outstanding) > OUTSTANDING:
            del self._outstanding[next(iter(self._outstanding))]
        self._publish(self._channel, data).add_done_callback(partial(self._published, data, sent_at_s))

    def _is_stuck(self) -> bool:
        """Whether SUBSCRIBE is unconfirmed, or a canary is missing and no byte was read since the last beat."""
        if self._bytes_read < 0 or self._subscriber.is_paused:  # a paused reader is not stuck
            return False
        if self._unheard_since_s is None:  # it returned; was our SUBSCRIBE confirmed?
            return not self._subscriber.is_confirmed(self._channel)
        return self._subscriber.bytes_read == self._bytes_read

    def _published(self, data: bytes, sent_at_s: float, reply: "asyncio.Future[object]") -> None:
        if reply.cancelled() or reply.exception() is not None:
            self._outstanding.pop(data, None)  # commands failed, so it proves nothing about the bus
        elif data in self._outstanding and self._unheard_since_s is None:
            self._unheard_since_s = sent_at_s

    def unheard_for_s(self) -> float:
        """Seconds since the oldest canary that Redis accepted and that has not returned; 0 if it has.

        Collectors of metrics ask in threads of their own.
        """
        return 0.0 if self._unheard_since_s is None else time.monotonic() - self._unheard_since_s


class Epochs:
    """Watches the content of servers: one key of each, which any node sets again if it is missing."""

    def __init__(self, keys: Keys, commands: CommandConnection, tags: Callable[[], Iterable[str]]) -> None:
        self._keys, self._commands, self._tags = keys, commands, tags
        self._seen: dict[str, bytes] = {}  # at most one for each partition
        self.changes: int = 0
        """Number of changed epochs of any server."""

    def look(self) -> None:
        """Request the epoch of each server, at the start and at each beat; ``changes`` has it by the next beat."""
        for tag in self._tags():
            key = self._keys.epoch_of(tag)
            reply = self._commands.call(scripts.AGREE, [key], secrets.token_hex(8), idempotent=True)
            reply.add_done_callback(partial(self._found, tag))

    def _found(self, tag: str, reply: "asyncio.Future[bytes]") -> None:
        if reply.cancelled() or reply.exception() is not None:
            return  # the next beat tries again
        epoch = reply.result()
        self.changes += self._seen.setdefault(tag, epoch) != epoch
        self._seen[tag] = epoch
