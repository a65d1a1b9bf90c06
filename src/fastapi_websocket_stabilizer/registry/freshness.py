"""Holds callers back after a freeze that was longer than the lease, until a beat has ended."""

import asyncio
import math
from collections.abc import Callable

from ..runtime.loops import running_loop
from ..runtime.turnstile import Turnstile

Clock = Callable[[], float]
"""Function that returns monotonic seconds."""


class FreshnessGate:
    """Open while the last beat is younger than the lease. Callers that wait continue in the order of arrival.

    After a longer freeze, other nodes may have swept this node and taken over its clients. The next beat shows
    that. A beat that gets no answer opens the gate as well: local sends continue while Redis is unavailable.

    Args:
        lasts_s: Seconds for which a beat is fresh. Infinity makes a gate that is always open.
        request_beat: Called when a caller waits for a beat. Must not block.
    """

    def __init__(self, lasts_s: float, request_beat: Callable[[], None] = lambda: None) -> None:
        self._lasts_s, self._request_beat = lasts_s, request_beat
        self._now_s: Clock = lambda: 0.0
        self._beat_at_s = 0.0
        self._outcome: asyncio.Future[None] | None = None
        self._hold: asyncio.Future[None] | None = None
        self._turnstile = Turnstile(self.obstacle)

    def begin(self, now_s: Clock) -> None:
        """Use this clock, and count as fresh from now on."""
        self._now_s, self._beat_at_s = now_s, now_s()

    def is_fresh(self, now_s: float) -> bool:
        """Whether the last beat is younger than the lease at ``now_s``."""
        return now_s - self._beat_at_s < self._lasts_s

    def note_beat(self, sent_at_s: float) -> None:
        """Open the gate: a beat that was sent at ``sent_at_s`` has ended, with whatever outcome."""
        self._beat_at_s = sent_at_s
        if self._outcome is not None:
            self._outcome.set_result(None)
            self._outcome = None

    def stay_open(self) -> None:
        """Open the gate permanently, because no further beat follows."""
        self.note_beat(math.inf)

    def hold(self, until: "asyncio.Future[None] | None") -> None:
        """Keep the gate closed until ``until`` is done, however fresh the last beat is."""
        self._hold = until

    def obstacle(self) -> "asyncio.Future[None] | None":
        """Return the future to wait for before anything is delivered; usually None. Requests a beat if necessary."""
        if self._hold is not None and not self._hold.done():
            return self._hold
        if self.is_fresh(self._now_s()):
            return None
        if self._outcome is None:
            self._request_beat()
        return self._next_outcome()

    @property
    def must_wait(self) -> bool:
        """Whether there is an obstacle, or an earlier caller still waits."""
        if self._turnstile.is_free and self._now_s() - self._beat_at_s < self._lasts_s:
            # Checked for each message, so is_fresh is written out here.
            return self._hold is not None and not self._hold.done()
        return not self._turnstile.is_free or self.obstacle() is not None

    async def wait(self) -> None:
        """Wait until there is no obstacle and all earlier callers have continued.

        The caller must act before its next ``await``, otherwise a later caller overtakes it.
        """
        await self._turnstile.passed()

    async def next_beat(self) -> None:
        """Wait for the end of a beat that begins after this call."""
        asked_at_s = self._now_s()
        while self._beat_at_s < asked_at_s:
            self._request_beat()
            await asyncio.wait([self._next_outcome()])

    def _next_outcome(self) -> "asyncio.Future[None]":
        if self._outcome is None:
            self._outcome = running_loop().create_future()
        return self._outcome
