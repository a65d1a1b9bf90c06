"""Tasks that run from the start of a node to its stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from .loops import running_loop

AGAIN_AFTER_S = 1.0
"""Seconds until a service that has failed is started again."""

Service = Callable[[], Awaitable[None]]


class Services:
    """The services of a node. One that fails is started again, otherwise the lease would lapse."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._tasks: list[asyncio.Task[None]] = []
        self.is_stopping: bool = False

    def start(self, services: Mapping[str, Service]) -> None:
        """Start services, by name."""
        self.is_stopping = False
        self._tasks = [
            asyncio.create_task(self._for_ever(name, run), name=name) for name, run in services.items()
        ]

    async def _for_ever(self, name: str, run: Service) -> None:
        while True:
            try:
                await run()
            except asyncio.CancelledError:
                # All services at once: the program ends without a stop.
                if self.is_stopping or all(task.cancelling() for task in self._tasks):
                    raise
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()
                # A timeout in the application's `send`, whose first step ran in this task.
                self._log.error("service was cancelled by a send, starting it again: %s", name)
            except Exception:  # noqa: BLE001 - whatever a service raises, it is logged, and the service goes on
                self._log.exception("service failed, starting it again: %s", name)
                await asyncio.sleep(AGAIN_AFTER_S)

    async def stop(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Stop all services. Return False if ``loop``, on which they were started, is another one or is closed."""
        self.is_stopping = True
        tasks, self._tasks = self._tasks, []
        if loop is not running_loop():
            if loop is not None and not loop.is_closed():
                for task in tasks:
                    loop.call_soon_threadsafe(task.cancel)
            return False
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        return True
