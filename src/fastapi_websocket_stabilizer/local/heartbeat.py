"""Liveness of the peer of one connection. Pure: time is a parameter, in seconds of the event loop's clock."""

from enum import Enum


class Liveness(Enum):
    """Result of a check."""

    WAIT = "wait"
    PING = "ping"
    DEAD = "dead"


class Heartbeat:
    """Pings a silent peer every interval. The peer is dead if nothing arrived for ``timeout_s`` after a ping.

    Attributes:
        active_at_s: Time of the last inbound frame or ping.
        heard_at_s: Time of the last inbound frame, at first of the beginning.
        ping_s: Seconds from the last ping to the next inbound frame; None before the first.
    """

    __slots__ = ("_asked_at_s", "_is_measured", "active_at_s", "heard_at_s", "ping_s")

    def __init__(self, now_s: float) -> None:
        self.active_at_s: float = now_s
        self.heard_at_s: float = now_s
        self.ping_s: float | None = None
        self._is_measured = True
        self._asked_at_s: float | None = None  # time of the first ping after the last inbound frame

    def heard(self, now_s: float) -> None:
        """Note an inbound frame."""
        self.active_at_s = self.heard_at_s = now_s
        if self._asked_at_s is not None:
            self.ping_s, self._is_measured = now_s - self._asked_at_s, False
            self._asked_at_s = None

    def rest(self, now_s: float) -> None:
        """Take the peer for alive, although nothing is read from it."""
        self.active_at_s = self.heard_at_s = now_s
        self._asked_at_s = None

    def take_ping(self) -> float | None:
        """Return ``ping_s`` once after each ping; None if it was returned before."""
        if self._is_measured:
            return None
        self._is_measured = True
        return self.ping_s

    def asked(self, now_s: float) -> None:
        """Note a ping that is sent for another reason than the silence of the peer."""
        if self._asked_at_s is None:
            self._asked_at_s = now_s

    @property
    def is_answered(self) -> bool:
        """Whether a frame has arrived since the last ping."""
        return self._asked_at_s is None

    def may_rest(self, now_s: float, interval_s: float) -> bool:
        """Whether ``poll`` would return WAIT for a reason that is cheap to check. It is the usual case."""
        return self._asked_at_s is None and now_s - self.active_at_s < interval_s

    def poll(self, now_s: float, interval_s: float, timeout_s: float) -> Liveness:
        """Check the peer. The caller sends a ping if the result is PING."""
        if self._asked_at_s is not None and now_s - self._asked_at_s >= timeout_s:
            return Liveness.DEAD
        if now_s - self.active_at_s < interval_s:
            return Liveness.WAIT
        self.active_at_s = now_s
        if self._asked_at_s is None:
            self._asked_at_s = now_s
        return Liveness.PING
