"""An event loop whose clock jumps to the next timer, and on which a node can be frozen."""

import asyncio
import contextvars
import heapq
from typing import Any

NODE: contextvars.ContextVar[str] = contextvars.ContextVar("node", default="")
"""The node that a callback belongs to; tasks and timers inherit it. "" is the world."""


START_S = 1_000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs callbacks in the order of their time, and never waits. No I/O."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        # What a frozen node would have done meanwhile, in order.
        self._held: dict[str, list[asyncio.Handle]] = {}
        # asyncio's own, which its stubs do not show.
        self._ready: Any
        self._scheduled: list[Any]

    def time(self) -> float:
        return self.now_s

    def reset(self) -> None:
        """Begin again; nothing of the last simulation comes any more."""
        self.now_s = START_S
        self._scheduled.clear()
        self._held.clear()

    def freeze(self, node: str) -> None:
        """Run nothing of a node until it is thawed."""
        self._held.setdefault(node, [])

    def thaw(self, node: str) -> None:
        """Run what was held: what came in from the network first, as a selector would say it."""
        held = self._held.pop(node, [])
        held.sort(key=lambda handle: not getattr(handle, "_is_io", False))
        self._ready.extend(held)

    def arrive_at(self, when_s: float, context: contextvars.Context, callback: Any, *args: Any) -> None:
        """Have something come in from the network."""
        handle: Any = IoHandle(when_s, callback, args, self, context)
        heapq.heappush(self._scheduled, handle)
        handle._scheduled = True

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        if not ready:
            while scheduled and scheduled[0]._cancelled:
                heapq.heappop(scheduled)._scheduled = False
            if not scheduled:
                raise RuntimeError("everybody waits for something that will never happen")
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
