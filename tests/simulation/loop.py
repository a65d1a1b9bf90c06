"""An event loop with a virtual clock that jumps to the next timer. Nodes on it can be frozen."""

import asyncio
import contextvars
import heapq
from typing import Any

NODE: contextvars.ContextVar[str] = contextvars.ContextVar("node", default="")
"""The node that a callback belongs to, or "" for the world. Tasks and timers inherit it."""


START_S = 1_000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs callbacks in the order of their time, without waiting and without I/O."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        # Callbacks of frozen nodes, in order.
        self._held: dict[str, list[asyncio.Handle]] = {}
        # Private attributes of asyncio, which its stubs omit.
        self._ready: Any
        self._scheduled: list[Any]

    def time(self) -> float:
        return self.now_s

    def reset(self) -> None:
        """Reset the clock, and drop the timers and held callbacks of the last simulation."""
        self.now_s = START_S
        self._scheduled.clear()
        self._held.clear()

    def freeze(self, node: str) -> None:
        """Hold all callbacks of a node until ``thaw``."""
        self._held.setdefault(node, [])

    def thaw(self, node: str) -> None:
        """Run the held callbacks. Those of the network come first, as with a selector."""
        held = self._held.pop(node, [])
        held.sort(key=lambda handle: not getattr(handle, "_is_io", False))
        self._ready.extend(held)

    def arrive_at(self, when_s: float, context: contextvars.Context, callback: Any, *args: Any) -> None:
        """Schedule a callback of the network."""
        handle: Any = IoHandle(when_s, callback, args, self, context)
        heapq.heappush(self._scheduled, handle)
        handle._scheduled = True

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        if not ready:
            while scheduled and scheduled[0]._cancelled:
                heapq.heappop(scheduled)._scheduled = False
            if not scheduled:
                raise RuntimeError("deadlock: no callback is ready and no timer is scheduled")
            self.now_s = max(self.now_s, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self.now_s:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        for _ in range(len(ready)):
            self._run_or_hold(ready.popleft())

    def _run_or_hold(self, handle: Any) -> None:
        held = self._held.get(handle._context.get(NODE, "")) if self._held else None
        if held is not None:
            held.append(handle)
        elif not handle._cancelled:
            handle._run()


class IoHandle(asyncio.TimerHandle):
    """A callback of the network."""

    _is_io = True
