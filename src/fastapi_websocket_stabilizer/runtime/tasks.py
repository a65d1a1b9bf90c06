"""Background tasks, each with an owner that keeps it alive and ends it."""

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import Any

from ..exceptions import LOSSES
from .logs import Occasionally
from .loops import running_loop

LAST_WORDS_S = 1.0
"""Seconds that a cancelled task may take to end: it may be the application's, and catch what it should not."""


class Tasks:
    """Owns background tasks: keeps them alive, logs what kills them, ends them."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._trouble = log, Occasionally(log)
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(
        self, coroutine: Coroutine[Any, Any, Any], name: str, context: contextvars.Context | None = None
    ) -> "asyncio.Task[Any]":
        """Start a task, in a copy of the caller's context variables unless it is given one."""
        task = running_loop().create_task(coroutine, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, LOSSES):  # expected while Redis is away, of thousands: no traceback
                self._trouble.log(f"{task.get_name()}: {error}")
            else:
                self._log.error("task failed: %s", task.get_name(), exc_info=error)

    async def idle(self) -> None:
        """Wait until none is left."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def settle(self, timeout_s: float) -> None:
        """Wait for this loop's tasks, then cancel those that are left; who does not obey is left behind."""
        mine = [task for task in self._tasks if task.get_loop() is running_loop()]
        mine = [task for task in mine if task is not asyncio.current_task()]
        if mine:
            _, late = await asyncio.wait(mine, timeout=timeout_s)
            for task in late:
                task.cancel()
            _, deaf = await asyncio.wait(late, timeout=LAST_WORDS_S) if late else ((), ())
            for task in deaf:
                self._log.error("task does not end, though it was cancelled: %s", task.get_name())
