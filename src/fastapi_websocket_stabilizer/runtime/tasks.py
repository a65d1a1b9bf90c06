"""Background tasks. Each has an owner that keeps a reference to it and ends it."""

import asyncio
import contextvars
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from ..exceptions import LOSSES
from .logs import Occasionally
from .loops import running_loop

LAST_WORDS_S = 1.0
"""Seconds to wait for a cancelled task; application code may swallow the cancellation."""
T = TypeVar("T")


async def together(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently. A single one, the usual case, costs no task."""
    if len(coroutines) <= 1:
        return [await each for each in coroutines]
    return await asyncio.gather(*coroutines)


class Tasks:
    """The owner of background tasks: it keeps them alive, logs their exceptions and ends them."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._trouble = log, Occasionally(log)
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(
        self, coroutine: Coroutine[Any, Any, Any], name: str, context: contextvars.Context | None = None
    ) -> "asyncio.Task[Any]":
        """Start a task in ``context``, or in a copy of the caller's context."""
        task = running_loop().create_task(coroutine, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, LOSSES):  # expected in thousands while Redis is away, so without a traceback
                self._trouble.log(f"{task.get_name()}: {error}")
            else:
                self._log.error("task failed: %s", task.get_name(), exc_info=error)

    async def idle(self) -> None:
        """Wait until no task is left."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def settle(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` for this loop's tasks, then cancel the rest.

        Tasks that ignore the cancellation are logged and abandoned.
        """
        mine = [task for task in self._tasks if task.get_loop() is running_loop()]
        mine = [task for task in mine if task is not asyncio.current_task()]
        if mine:
            _, late = await asyncio.wait(mine, timeout=timeout_s)
            for task in late:
                task.cancel()
            _, deaf = await asyncio.wait(late, timeout=LAST_WORDS_S) if late else ((), ())
            for task in deaf:
                self._log.error("task ignores its cancellation: %s", task.get_name())
