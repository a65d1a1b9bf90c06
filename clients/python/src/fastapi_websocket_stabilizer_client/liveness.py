"""Notices that a connection is broken although it looks open."""

from enum import Enum

GRACE_S = 10.0
"""Seconds of silence beyond the interval of the server's signs of life."""
PATIENCE_S = 5.0
"""Seconds for the answer to a ping."""
PATIENCE_AFTER_SLEEP_S = 2.0


class Verdict(Enum):
    """Result of a check."""

    FINE = "fine"
    PROBE = "probe"
    """Send a ping."""
    DEAD = "dead"
    """Nothing came after the ping: abandon the socket."""


class Liveness:
    """The times of one connection. Only the timestamps count, because timers may be late."""

    def __init__(self, ping_s: float, now_s: float) -> None:
        self._silence_s = ping_s + GRACE_S
        self._heard_s = now_s
        self._probe_ends_s: float | None = None

    def heard(self, now_s: float) -> None:
        """Note that a frame came."""
        self._heard_s, self._probe_ends_s = now_s, None

    def check(self, now_s: float, *, slept: bool = False) -> Verdict:
        """Return what to do. With ``slept``, an answer is expected sooner."""
        if self._probe_ends_s is not None:
            return Verdict.DEAD if now_s >= self._probe_ends_s else Verdict.FINE
        if now_s < self._heard_s + self._silence_s:
            return Verdict.FINE
        self._probe_ends_s = now_s + (PATIENCE_AFTER_SLEEP_S if slept else PATIENCE_S)
        return Verdict.PROBE

    @property
    def deadline_s(self) -> float:
        """The time of the next check."""
        return self._heard_s + self._silence_s if self._probe_ends_s is None else self._probe_ends_s
