"""Revocations in one process."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ..runtime.metrics import Counters
from .revocations import REVOCATIONS_PER_CLIENT, Revocation, Revoked


class MemoryRevocations:
    """``revocations.RevocationStore``, on those of a hub: client_id -> revocation -> µs at which it was noted."""

    def __init__(
        self,
        content: dict[str, dict[Revocation, int]],
        lock: AbstractContextManager[Any],
        now_us: Callable[[], int],
        counters: Counters,
    ) -> None:
        self._content, self._lock, self._now_us, self._counters = content, lock, now_us, counters

    async def note(self, client_id: str, revocation: Revocation, ttl_ms: int) -> None:
        with self._lock:
            now_us, found = self._now_us(), self._content.pop(client_id, {})
            found.pop(revocation, None)
            kept = {each: at_us for each, at_us in found.items() if at_us > now_us - 1000 * ttl_ms}
            if len(kept) >= REVOCATIONS_PER_CLIENT:
                del kept[min(kept, key=lambda each: kept[each])]
                self._counters.revocations_dropped += 1
            self._content[client_id] = {**kept, revocation: now_us}

    async def read(self, client_id: str) -> Revoked:
        with self._lock:
            now_us, found = self._now_us(), self._content.get(client_id, {})
            return Revoked(now_us, [(each, (now_us - at_us) / 1e6) for each, at_us in found.items()])
