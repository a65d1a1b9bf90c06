"""How fast a node lets go of its clients. Pure: time and chance are passed in."""

import random
from collections.abc import Callable

SLOWEST_PER_S = 10.0
"""Closes a second, at least: ten clients need no window of half a minute."""
RETURN_WITHIN_S = 1.0
"""Seconds over which a closed client's return is spread, so that no two nodes' paces beat together."""
RETURNS_PER_S = 500.0
"""Returns a second that the other nodes are asked to take when the window is too short for fewer."""
LATEST_CATCH_UP_S = 0.1
"""Seconds of delay that are made up for: after a blocked event loop the rest is spread anew, without a burst."""


class Pace:
    """Says when the next connection is closed and when its client is to come back.

    What is left is spread over the time that is left, each gap by chance between nothing and twice its share.

    Attributes:
        ends_at_s: When the last one is to be closed.
    """

    __slots__ = ("_chance", "_last_s", "_return_within_s", "ends_at_s")

    def __init__(
        self, now_s: float, ends_at_s: float, count: int, chance: Callable[[], float] = random.random
    ) -> None:
        self.ends_at_s: float = ends_at_s
        self._last_s, self._chance = now_s, chance
        self._return_within_s = _return_within_s(count, ends_at_s - now_s)

    def hurry(self, now_s: float, ends_at_s: float, left: int) -> None:
        """Be done by ``ends_at_s``, if that is sooner; those who are left come back over a longer time for it."""
        if ends_at_s < self.ends_at_s:
            self.ends_at_s = ends_at_s
            self._return_within_s = _return_within_s(left, ends_at_s - now_s)

    def next_at_s(self, now_s: float, left: int) -> float:
        """Return when the next of ``left`` connections is due; never later than ``ends_at_s``."""
        last_s = max(self._last_s, now_s - LATEST_CATCH_UP_S)
        gap_s = min(max(self.ends_at_s - last_s, 0.0) / left, 1 / SLOWEST_PER_S)
        self._last_s = min(last_s + 2 * gap_s * self._chance(), self.ends_at_s)
        return self._last_s

    def reconnect_in_ms(self) -> int:
        """Return what the next client is told to wait."""
        return int(1000 * self._return_within_s * self._chance())


def _return_within_s(count: int, window_s: float) -> float:
    return max(RETURN_WITHIN_S, count / RETURNS_PER_S - max(window_s, 0.0))
