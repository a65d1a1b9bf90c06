"""An event loop with a virtual clock that jumps to the next timer. Nodes on it can be frozen."""

import asyncio
import contextvars
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVarTuple

Args = TypeVarTuple("Args")
NODE: contextvars.ContextVar[str] = contextvars.ContextVar("node", default="")
"""The node that a callback belongs to, or "" for the world. Tasks and timers inherit it."""


START_S = 1_000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs callbacks in the order of their time, without waiting and without I/O.

    The checks and the debug mode of asyncio are left out, which are a third of the time of a simulation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        # Callbacks of frozen nodes, in order.
        self._held: dict[str, list[asyncio.Handle]] = {}
        # A number for each timer, because the ones of the same moment run in the order of their creation.
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        # A private attribute of asyncio, which its stubs omit.
        self._ready: Any

    def time(self) -> float:
        return self.now_s

    def reset(self) -> None:
        """Reset the clock, and drop the timers and held callbacks of the last simulation."""
        self.now_s = START_S
        self._timers.clear()
        self._held.clear()

    def freeze(self, node: str) -> None:
        """Hold all callbacks of a node until ``thaw``."""
        self._held.setdefault(node, [])

    def thaw(self, node: str) -> None:
        """Run the held callbacks. Those of the network come first, as with a selector."""
        held = self._held.pop(node, [])
        held.sort(key=lambda handle: not isinstance(handle, IoHandle))
        self._ready.extend(held)

    def call_soon(
        self,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = Soon(callback, args, self, _here(context))
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # there is one thread

    def call_at(
        self,
        when: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = Timer(when, callback, args, self, _here(context))
        heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def arrive_at(self, when_s: float, context: contextvars.Context, callback: Any, *args: Any) -> None:
        """Schedule a callback of the network."""
        handle = IoHandle(when_s, callback, args, self, context)
        heappush(self._timers, (when_s, next(self._numbers), handle))

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            self._advance()
        while timers and timers[0][0] <= self.now_s:
            handle = heappop(timers)[2]
            if not handle.is_cancelled:
                ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            held = self._held.get(handle.context.get(NODE, "")) if self._held else None
            if held is not None:
                held.append(handle)
            elif not handle.is_cancelled:
                handle.context.run(handle.callback, *handle.args)

    def _advance(self) -> None:
        """Let the clock jump to the next timer."""
        timers = self._timers
        while timers and timers[0][2].is_cancelled:
            heappop(timers)
        if not timers:
            raise RuntimeError("deadlock: no callback is ready and no timer is scheduled")
        self.now_s = max(self.now_s, timers[0][0])

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: a cancelled timer is dropped when its time has come."""


def _here(context: contextvars.Context | None) -> contextvars.Context:
    return contextvars.copy_context() if context is None else context  # an empty context is false


class Soon(asyncio.Handle):
    """A callback of the next turn. An exception of it ends the simulation."""

    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(self, callback: Any, args: Any, loop: VirtualLoop, context: contextvars.Context) -> None:
        self.callback, self.args, self.context, self.is_cancelled = callback, args, context, False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class Timer(asyncio.TimerHandle):
    """A callback of a later time."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "when_s")

    def __init__(
        self, when_s: float, callback: Any, args: Any, loop: VirtualLoop, context: contextvars.Context
    ) -> None:
        self.callback, self.args, self.context, self.is_cancelled = callback, args, context, False
        self.when_s = when_s

    def when(self) -> float:
        return self.when_s

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class IoHandle(Timer):
    """A callback of the network."""

    __slots__ = ()
