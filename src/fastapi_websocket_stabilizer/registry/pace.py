"""The pace of a drain. Pure: time and random numbers are passed in."""

import random
from collections.abc import Callable

SLOWEST_PER_S = 10.0
"""Minimum closes per second, so that ten clients do not take half a minute."""
RETURN_WITHIN_S = 1.0
"""Seconds over which a client's reconnect is spread, so that drains of several nodes do not align."""
RETURNS_PER_S = 500.0
"""Reconnects per second if the window is too short for a lower rate."""
LATEST_CATCH_UP_S = 0.1
"""Maximum seconds of delay to catch up. After a blocked event loop the rest is spread again, without a burst."""


class Pace:
    """Decides when the next connection is closed, and when its client reconnects.

    The remaining closes are spread over the remaining time. Each gap is random, up to twice its share.

    Attributes:
        ends_at_s: Time of the last close.
    """

    __slots__ = ("_chance", "_last_s", "_return_within_s", "ends_at_s")

    def __init__(
        self, now_s: float, ends_at_s: float, count: int, chance: Callable[[], float] = random.random
    ) -> None:
        self.ends_at_s: float = ends_at_s
        self._last_s, self._chance = now_s, chance
        self._return_within_s = _return_within_s(count, ends_at_s - now_s)

    def hurry(self, now_s: float, ends_at_s: float, left: int) -> None:
        """End at ``ends_at_s``, if that is sooner. The remaining clients reconnect over a longer time then."""
        if ends_at_s < self.ends_at_s:
            self.ends_at_s = ends_at_s
            self._return_within_s = _return_within_s(left, ends_at_s - now_s)

    def next_at_s(self, now_s: float, left: int) -> float:
        """Return the time of the next close, with ``left`` connections left. It is never after ``ends_at_s``."""
        last_s = max(self._last_s, now_s - LATEST_CATCH_UP_S)
        gap_s = min(max(self.ends_at_s - last_s, 0.0) / left, 1 / SLOWEST_PER_S)
        self._last_s = min(last_s + 2 * gap_s * self._chance(), self.ends_at_s)
        return self._last_s

    def reconnect_in_ms(self) -> int:
        """Return the milliseconds after which the next client reconnects."""
        return int(1000 * self._return_within_s * self._chance())


def _return_within_s(count: int, window_s: float) -> float:
    return max(RETURN_WITHIN_S, count / RETURNS_PER_S - max(window_s, 0.0))
