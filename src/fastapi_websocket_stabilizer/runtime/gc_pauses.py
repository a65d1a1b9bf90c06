"""Pauses of the event loop for Python's cyclic garbage collector: measuring and postponing them."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .metrics import COLLECTION_S, Histogram, Timing

OLDEST_GENERATION = 2
"""Generation of full collections. They take hundreds of milliseconds with thousands of connections."""


@contextmanager
def gc_paused() -> Iterator[None]:
    """Postpone collections to the end of the block. They stay off if the application has switched them off."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class GcPauses:
    """Duration of the full collections of this process between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self._pauses = Histogram(COLLECTION_S)
        self._began_s = 0.0

    def start(self) -> None:
        """Begin to measure. Idempotent."""
        if self._observe not in gc.callbacks:
            gc.callbacks.append(self._observe)

    def stop(self) -> None:
        """Stop measuring. Idempotent."""
        if self._observe in gc.callbacks:
            gc.callbacks.remove(self._observe)

    def snapshot(self) -> Timing:
        """Return the measured durations so far."""
        return self._pauses.snapshot()

    def _observe(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] < OLDEST_GENERATION:
            return
        if phase == "start":
            self._began_s = time.perf_counter()
        else:
            self._pauses.add(time.perf_counter() - self._began_s)
