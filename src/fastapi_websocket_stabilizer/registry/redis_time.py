"""A lower bound of Redis' time, from its last answer and the monotonic clock. Pure."""

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
