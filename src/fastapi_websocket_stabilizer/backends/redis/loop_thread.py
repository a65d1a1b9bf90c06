"""A ``Publisher`` on an event loop in a thread of its own, for code that has no loop."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Closing(Protocol):
    """An object that runs on the loop, and is closed before it."""

    async def close(self) -> None: ...


P = TypeVar("P", bound=Closing)


class LoopThread(Generic[P]):
    """Starts its thread at the first call, and again in a forked process, because threads do not survive a fork."""

    def __init__(self, make: Callable[[], P]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._made: P | None = None

    def run(self, call: Callable[[P], Coroutine[Any, Any, T]]) -> T:
        """Return the result of ``call``. Calls of several threads begin in the order in which they are made."""
        self._look_for_a_fork()
        with self._lock:
            if self._loop is None:
                self._start()
            assert self._loop is not None
            assert self._made is not None
            outcome = asyncio.run_coroutine_threadsafe(call(self._made), self._loop)
        return outcome.result()

    def _look_for_a_fork(self) -> None:
        if os.getpid() != self._process:  # the old lock may be held by a thread of the parent
            self._process, self._lock, self._loop = os.getpid(), threading.Lock(), None

    def _start(self) -> None:
        self._made = self._make()  # before the thread, because it may raise
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="publisher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send queued messages, then stop the loop and the thread; a later call starts them again."""
        self._look_for_a_fork()
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is None or self._made is None or self._thread is None:
                return
            asyncio.run_coroutine_threadsafe(self._made.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()
