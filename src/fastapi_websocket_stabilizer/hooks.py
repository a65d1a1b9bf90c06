"""The application's callbacks. One that raises is logged and counted, and harms nothing else."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from .exceptions import ConnectionNotFoundError, ConnectionTimeoutError, SlowConsumerError
from .local.connection import Connection
from .metrics import Counters
from .models import PresenceEvent

OnConnect = Callable[[Connection], Awaitable[None] | None]
OnDisconnect = Callable[[Connection, int, str], Awaitable[None] | None]
OnPresence = Callable[[PresenceEvent], Awaitable[None] | None]
OnMessage = Callable[[Connection, str | bytes], Awaitable[None] | None]


class Hooks:
    """What the application registered, in order of registration."""

    def __init__(self, counters: Counters, log: logging.Logger) -> None:
        self._counters, self._log = counters, log
        self.on_connect: list[OnConnect] = []
        self.on_disconnect: list[OnDisconnect] = []
        self.on_presence: list[OnPresence] = []
        self.on_message: OnMessage | None = None

    async def run(self, hooks: "list[Any]", *arguments: Any) -> None:
        """Call each hook; wait for those that are coroutines."""
        for hook in hooks:
            await self.call(hook, *arguments)

    async def call(self, hook: Callable[..., Any], *arguments: Any) -> None:
        """Call one hook; wait for it if it is a coroutine. That its connection has ended meanwhile is no failure."""
        try:
            result = hook(*arguments)
            if inspect.isawaitable(result):
                await result
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # ours, not that of something it waited for
            if arguments and _is_end_of(arguments[0], error):
                return
            self._counters.hooks_failed += 1
            name = getattr(hook, "__qualname__", repr(hook))
            self._log.exception("hook failed", extra={"hook": name})


def _is_end_of(subject: object, error: BaseException) -> bool:
    """Whether a hook only found that its connection is over."""
    is_about_an_end = isinstance(error, ConnectionNotFoundError | ConnectionTimeoutError | SlowConsumerError)
    return is_about_an_end and isinstance(subject, Connection) and subject.ended is not None
