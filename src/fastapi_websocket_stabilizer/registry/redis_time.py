"""A lower bound of Redis' time, from its last answer and the monotonic clock. Pure."""

DRIFT = 1_000
"""Largest drift of two clocks, in µs per second."""


class RedisTime:
    """Redis' time, at least."""

    __slots__ = ("_ahead_us", "_learned_at_s")

    def __init__(self) -> None:
        self._ahead_us: int | None = None  # of the monotonic clock
        self._learned_at_s = 0.0

    @property
    def is_known(self) -> bool:
        """Whether Redis has told its time."""
        return self._ahead_us is not None

    def learn(self, redis_us: int, now_s: float) -> None:
        """Take Redis' time of a moment ago, in µs, and the monotonic time."""
        self._ahead_us, self._learned_at_s = redis_us - int(now_s * 1_000_000), now_s

    def at(self, time_s: float, now_s: float) -> int:
        """Return Redis' time in µs at a monotonic time, at least; 0 if it is not known."""
        if self._ahead_us is None:
            return 0
        return int(self._ahead_us - DRIFT * (now_s - self._learned_at_s) + time_s * 1_000_000)
