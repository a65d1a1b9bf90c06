"""Is the peer of one connection alive? Pure: time is a parameter, in seconds of the event loop's clock."""

from enum import Enum


class Liveness(Enum):
    """What to do now."""

    WAIT = "wait"
    PING = "ping"
    DEAD = "dead"


class Heartbeat:
    """Pings a silent peer every interval; it is dead when nothing came for ``timeout_s`` after a ping.

    Args:
        earliness: From 0 to 1: this peer's interval is up to a quarter shorter, so that thousands that
            connected at once are not pinged at once.
    """

    __slots__ = ("_active_at_s", "_asked_at_s", "_share")

    def __init__(self, now_s: float, earliness: float = 0.0) -> None:
        self._share = 1 - earliness / 4
        self._active_at_s = now_s  # when the peer was last heard or pinged
        self._asked_at_s: float | None = None  # the first ping since it was last heard

    def heard(self, now_s: float) -> None:
        """Any inbound frame is life."""
        self._active_at_s = now_s
        self._asked_at_s = None

    def poll(self, now_s: float, interval_s: float, timeout_s: float) -> Liveness:
        if self._asked_at_s is not None and now_s - self._asked_at_s >= timeout_s:
            return Liveness.DEAD
        if now_s - self._active_at_s < interval_s * self._share:
            return Liveness.WAIT
        self._active_at_s = now_s
        if self._asked_at_s is None:
            self._asked_at_s = now_s
        return Liveness.PING
