"""Drain of the clients on SIGTERM, before uvicorn starts its own shutdown.

Uvicorn closes every socket at once, and only then ends the lifespan. To close clients gradually, this handler must
run before uvicorn's. In lifespan startup, the handler of SIGTERM is the bound ``Server.handle_exit``.
"""

import asyncio
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..registry.registry import Registry
from ..runtime.loops import running_loop
from .shared_port import SharedPort

DEFAULT_SHUTDOWN_S = 30.0
"""Default shutdown timeout of a lifespan in seconds."""


class Sigterm:
    """The handler of SIGTERM while managers run. Calls the previous handler when all have drained.

    Attributes:
        server: The uvicorn ``Server`` of this process.
        registries: The registries that the signal drains.
    """

    def __init__(self, server: Any) -> None:
        self.server = server
        self.registries: list[Registry] = []
        self._found: Any = signal.getsignal(signal.SIGTERM)
        self._loop = running_loop()
        self._task: asyncio.Task[None] | None = None
        self._port: SharedPort | None = None
        self._has_come = False
        self._ends_at_s: float | None = None  # deadline of the server's shutdown

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Drain on the first signal, and end at once on the second.

        As a signal handler it runs between any two instructions, so it leaves the work to the event loop.
        """
        if self._has_come:
            self._loop.call_soon_threadsafe(self._pass_on, 0.0)
            return
        self._has_come = True
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if not self.registries:  # the lifespan has already ended
            self._pass_on(0.0)
            return
        if self.server.config.workers > 1:
            self._port = SharedPort(self.server)
        self._task = self._loop.create_task(self._drain(), name="sigterm")

    async def _drain(self) -> None:
        over_s = max(registry.state.config.drain_over_s for registry in self.registries)
        ends_at_s = self._loop.time() + over_s
        drains = [r.state.tasks.spawn(r.drain.before_exit(), "drain-on-sigterm") for r in self.registries]
        await asyncio.wait(drains, timeout=over_s)
        self._pass_on(ends_at_s - self._loop.time())

    def _pass_on(self, left_s: float) -> None:
        """Start the server's shutdown, limited to the time left in the drain window."""
        config = self.server.config
        if config.timeout_graceful_shutdown is None:
            close_timeout_s = max((r.state.config.close_timeout_s for r in self.registries), default=0.0)
            config.timeout_graceful_shutdown = math.ceil(max(left_s, close_timeout_s))
        self._ends_at_s = self._loop.time() + config.timeout_graceful_shutdown
        self.end()
        self._found(signal.SIGTERM, None)

    def time_left_s(self) -> float:
        """Return the seconds the lifespan has left to finish, the same as uvicorn gives running requests."""
        if self._ends_at_s is None:
            return DEFAULT_SHUTDOWN_S
        return max(0.0, self._ends_at_s - self._loop.time())

    def end(self) -> None:
        """Restore the previous SIGTERM handler and stop waiting for drains."""
        if self._port is not None:
            self._port.close()
        if signal.getsignal(signal.SIGTERM) == self.handle:
            signal.signal(signal.SIGTERM, self._found)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()


def _owner() -> Any:
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


def find_server() -> Any:
    """Return the uvicorn ``Server`` of this process, or another object (such as None) if there is none."""
    owner = _owner()
    if isinstance(owner, Sigterm):
        return owner.server
    return owner if _is_server(owner) else _serving_here()


def _is_server(thing: object) -> bool:
    uvicorn_server = sys.modules.get("uvicorn.server")
    return uvicorn_server is not None and isinstance(thing, uvicorn_server.Server)


def _serving_here() -> Any:
    """Return the ``Server`` whose ``serve()`` runs on this loop, or None.

    Needed if the application has replaced the server's handler of SIGTERM.
    """
    try:
        tasks = asyncio.all_tasks() if threading.current_thread() is threading.main_thread() else ()
    except RuntimeError:  # no event loop is running
        return None
    for task in tasks:
        awaited: Any = task.get_coro()
        while (frame := getattr(awaited, "cr_frame", None)) is not None:
            if _is_server(server := frame.f_locals.get("self")):
                return server
            awaited = awaited.cr_await
    return None


@contextmanager
def draining_on_sigterm(registry: Registry) -> Iterator[Sigterm | None]:
    """Drain on SIGTERM during the block, if the server is uvicorn and ``drain_on_sigterm`` is set.

    Yields the handler, or None if it is not installed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    is_wanted = registry.state.config.drain_on_sigterm and callable(signal.getsignal(signal.SIGTERM))
    if not is_main or not is_wanted or not _is_server(server := find_server()):
        yield None
        return
    owner = _owner()
    if not isinstance(owner, Sigterm):
        owner = Sigterm(server)
        signal.signal(signal.SIGTERM, owner.handle)
    owner.registries.append(registry)
    try:
        yield owner
    finally:
        owner.registries.remove(registry)
        if not owner.registries:
            owner.end()
