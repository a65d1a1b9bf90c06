"""Delays between attempts, with full jitter."""

from collections.abc import Callable

from .closes import Do, Reaction

FIRST_S = 0.5
LONGEST_S = 20.0
AFTER_LIVE_S = 1.0
"""Longest delay after the drop of a connection that was live for some time."""
SETTLED_S = 5.0
"""Seconds in ``live`` after which a connection counts as a success."""


class Retry:
    """Counts failures. ``failures`` is the number of failed attempts in a row.

    Args:
        chance: Returns random numbers from 0 up to 1.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self.failures: int = 0
        self._before_hi = 0
        self._unauthorized = 0

    @property
    def is_later(self) -> bool:
        """Whether to send the cursor in the first frame: a proxy may have refused the long header."""
        return self._before_hi > 0

    def greeted(self) -> None:
        """Note that ``hi`` has come."""
        self._before_hi = self._unauthorized = 0

    def refused(self, reaction: Reaction) -> float:
        """Return the delay in seconds after an attempt that ended before ``hi``."""
        self._before_hi += reaction.after_s is None
        return self._delay_s(reaction)

    def dropped(self, reaction: Reaction, live_s: float, *, is_fault: bool = False) -> float:
        """Return the delay in seconds after the end of a connection that was live for ``live_s``.

        After a fault, such as a frame that is no JSON, the next connection may fail in the same way.
        """
        if live_s >= SETTLED_S:
            self.failures = 0
        if live_s < SETTLED_S or is_fault or reaction.after_s is not None:
            return self._delay_s(reaction)
        return self.pause()

    def pause(self) -> float:
        """Return the delay in seconds after an attempt that does not count as failed."""
        return self._chance() * AFTER_LIVE_S

    def is_hopeless(self, reaction: Reaction, *, can_renew: bool) -> bool:
        """Return whether no attempt may follow. A second refusal of credentials in a row is final."""
        if reaction.do is not Do.RENEW:
            return reaction.do is Do.STOP
        self._unauthorized += 1
        return not can_renew or self._unauthorized > 1

    def reset(self) -> None:
        """Begin anew, because the application asks for an attempt."""
        self.failures = self._before_hi = self._unauthorized = 0

    def _delay_s(self, reaction: Reaction) -> float:
        if reaction.after_s is not None:
            return reaction.after_s
        longest_s = min(LONGEST_S, FIRST_S * 2.0 ** min(self.failures, 10))
        self.failures += 1
        return self._chance() * longest_s
