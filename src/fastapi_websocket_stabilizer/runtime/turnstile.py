"""A queue of callers: each goes on when nothing is in its way and every earlier caller has gone on."""

import asyncio
from collections.abc import Callable

from .loops import running_loop

Obstacle = Callable[[], "asyncio.Future[None] | None"]
"""Returns what is in the way of the first caller; None if nothing is."""


class Turnstile:
    """Keeps the order of callers that wait for the same condition."""

    def __init__(self, obstacle: Obstacle) -> None:
        self._obstacle = obstacle
        self._last: asyncio.Future[None] | None = None

    @property
    def is_free(self) -> bool:
        """Whether no caller is waiting."""
        return self._last is None

    async def passed(self) -> None:
        """Wait for the obstacle and for every earlier caller.

        The caller must act before it awaits anything else, otherwise a later caller overtakes it.
        """
        before, mine = self._last, running_loop().create_future()
        self._last = mine
        try:
            if before is not None:
                await asyncio.wait([before])
            while (obstacle := self._obstacle()) is not None:
                await asyncio.wait([obstacle])
        finally:
            if before is not None and not before.done():  # cancelled: later callers stay behind earlier ones
                before.add_done_callback(lambda _: self._has_gone_on(mine))
            else:
                self._has_gone_on(mine)

    def _has_gone_on(self, caller: "asyncio.Future[None]") -> None:
        caller.set_result(None)
        if self._last is caller:
            self._last = None
