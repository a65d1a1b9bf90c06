"""The clock of a registry in one process.

It is wall time at the start of the process, and monotonic from then on. So ids are later than those of the process
before, also if that ran on a machine that had been up for longer.
"""

import time
from datetime import UTC, datetime


def ahead_us() -> int:
    """Return the µs by which wall time is ahead of the monotonic clock.

    The process may pause between the two clocks, which makes the difference larger. So the smallest of three counts.
    """

    def difference() -> int:
        monotonic_us = time.monotonic_ns() // 1000
        return int(datetime.now(UTC).timestamp() * 1_000_000) - monotonic_us

    return min(difference() for _ in range(3))


AHEAD_US: int = ahead_us()
"""As it was when the process started. Steps of wall time since then do not matter."""


def now_us() -> int:
    """Return the time in µs."""
    return AHEAD_US + time.monotonic_ns() // 1000
