"""A lower bound of Redis' time, and the time up to which this node has missed nothing. Pure.

Both follow from Redis' last answer and the monotonic clock.
"""

from collections.abc import Hashable

DRIFT = 1_000
"""Largest drift of two clocks, in µs per second."""


class RedisTime:
    """Redis' time, at least."""

    __slots__ = ("_learned_at_s", "_learned_us")

    def __init__(self) -> None:
        self._learned_us: int | None = None
        self._learned_at_s = 0.0

    @property
    def is_known(self) -> bool:
        """Whether Redis has told its time."""
        return self._learned_us is not None

    def learn(self, redis_us: int, now_s: float) -> None:
        """Take Redis' time of a moment ago, in µs, and the monotonic time."""
        self._learned_us, self._learned_at_s = redis_us, now_s

    def at(self, time_s: float) -> int:
        """Return Redis' time in µs at a monotonic time, at least; 0 if it is not known."""
        if self._learned_us is None:
            return 0
        later_s = time_s - self._learned_at_s
        return int(self._learned_us + later_s * 1_000_000 - DRIFT * abs(later_s))


class WholeTime(RedisTime):
    """The time up to which a node has missed nothing, by Redis' clock."""

    __slots__ = ("_began_s", "_began_us", "_held_since_s")

    def __init__(self) -> None:
        super().__init__()
        # Before this moment, no message was for clients of this node.
        self._began_s, self._began_us = 0.0, 0
        # Logs of which something may be missing, the first one first. Until this time nothing was.
        self._held_since_s: dict[Hashable, float] = {}

    def begin(self, redis_us: int, now_s: float) -> None:
        """Begin without members, when Redis tells its time."""
        self.learn(redis_us, now_s)
        self._began_s, self._began_us = now_s, redis_us

    def end(self) -> None:
        """Forget all logs."""
        self._held_since_s.clear()

    def hold(self, log: Hashable, heard_to_s: float) -> None:
        """Note that a log may miss something. ``heard_to_s`` is that of the backend."""
        self._held_since_s.setdefault(log, max(heard_to_s, self._began_s))

    def release(self, log: Hashable) -> None:
        """Note that a log misses nothing, or has no members here."""
        self._held_since_s.pop(log, None)

    def whole_us(self, heard_to_s: float) -> int:
        """Return the time in µs, at least; 0 if it is not known."""
        if heard_to_s <= self._began_s:
            return self._began_us
        return self.at(min(heard_to_s, next(iter(self._held_since_s.values()), heard_to_s)))
