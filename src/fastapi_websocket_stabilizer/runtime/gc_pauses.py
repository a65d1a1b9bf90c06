"""Python's cyclic garbage collector stops the event loop; here is how long, and how to keep it out of the way."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .metrics import Stopwatch, Timing

OLDEST_GENERATION = 2
"""Its collections walk every object: hundreds of milliseconds at thousands of connections."""


@contextmanager
def gc_paused() -> Iterator[None]:
    """Put collections off to the end of the block; a no-op where somebody else switched them off."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class GcPauses:
    """Measures full collections of this process, between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self._pauses = Stopwatch()
        self._began_s = 0.0

    def start(self) -> None:
        """Begin to measure."""
        if self._observe not in gc.callbacks:
            gc.callbacks.append(self._observe)

    def stop(self) -> None:
        """Measure no more."""
        if self._observe in gc.callbacks:
            gc.callbacks.remove(self._observe)

    def snapshot(self) -> Timing:
        """Return what was measured so far."""
        return self._pauses.snapshot()

    def _observe(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] < OLDEST_GENERATION:
            return
        if phase == "start":
            self._began_s = time.perf_counter()
        else:
            self._pauses.add(time.perf_counter() - self._began_s)
