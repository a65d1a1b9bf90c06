"""Is the peer of one connection alive? Pure: time is a parameter, in seconds of the event loop's clock."""

from enum import Enum


class Liveness(Enum):
    """What to do now."""

    WAIT = "wait"
    PING = "ping"
    DEAD = "dead"


class Heartbeat:
    """Pings a silent peer every interval; it is dead when nothing came for ``timeout_s`` after a ping."""

    __slots__ = ("_active_at_s", "_asked_at_s")

    def __init__(self, now_s: float) -> None:
        self._active_at_s = now_s  # when the peer was last heard or pinged
        self._asked_at_s: float | None = None  # the first ping since it was last heard

    def heard(self, now_s: float) -> None:
        """Any inbound frame is life."""
        self._active_at_s = now_s
        self._asked_at_s = None

    def may_rest(self, now_s: float, interval_s: float) -> bool:
        """Whether ``poll`` would say "wait" without a look at the timeout: most do, most of the time."""
        return self._asked_at_s is None and now_s - self._active_at_s < interval_s

    def poll(self, now_s: float, interval_s: float, timeout_s: float) -> Liveness:
        if self._asked_at_s is not None and now_s - self._asked_at_s >= timeout_s:
            return Liveness.DEAD
        if now_s - self._active_at_s < interval_s:
            return Liveness.WAIT
        self._active_at_s = now_s
        if self._asked_at_s is None:
            self._asked_at_s = now_s
        return Liveness.PING
