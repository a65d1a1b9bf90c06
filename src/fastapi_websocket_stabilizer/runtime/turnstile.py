"""A queue of callers: each continues when there is no obstacle and all earlier callers have continued."""

import asyncio
from collections.abc import Callable

from .loops import running_loop

Obstacle = Callable[[], "asyncio.Future[None] | None"]
"""Function that returns a future to wait for, or None if the first caller may continue."""


class Turnstile:
    """First-come, first-served order of callers that wait for one condition."""

    def __init__(self, obstacle: Obstacle) -> None:
        self._obstacle = obstacle
        self._last: asyncio.Future[None] | None = None

    @property
    def is_free(self) -> bool:
        """Whether no caller is waiting."""
        return self._last is None

    async def passed(self) -> None:
        """Wait until there is no obstacle and every earlier caller has continued.

        The caller must act before its next ``await``, otherwise a later caller overtakes it.
        """
        before, mine = self._last, running_loop().create_future()
        self._last = mine
        try:
            if before is not None:
                await asyncio.wait([before])
            while (obstacle := self._obstacle()) is not None:
                await asyncio.wait([obstacle])
        finally:
            if before is not None and not before.done():  # cancelled: later callers wait for earlier ones
                before.add_done_callback(lambda _: self._has_gone_on(mine))
            else:
                self._has_gone_on(mine)

    def _has_gone_on(self, caller: "asyncio.Future[None]") -> None:
        caller.set_result(None)
        if self._last is caller:
            self._last = None
