"""The application's callbacks. One that raises is logged and counted, and harms nothing else."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from .exceptions import ConnectionNotFoundError, ConnectionTimeoutError, SlowConsumerError
from .local.connection import Connection
from .metrics import Counters
from .models import BusGap, PresenceEvent

OnConnect = Callable[[Connection], Awaitable[None] | None]
OnDisconnect = Callable[[Connection, int, str], Awaitable[None] | None]
OnPresence = Callable[[PresenceEvent], Awaitable[None] | None]
OnBusGap = Callable[[BusGap], Awaitable[None] | None]
OnMessage = Callable[[Connection, str | bytes], Awaitable[None] | None]


class Hooks:
    """What the application registered, in order of registration."""

    def __init__(self, counters: Counters, log: logging.Logger) -> None:
        self._counters, self._log = counters, log
        self.on_connect: list[OnConnect] = []
        self.on_disconnect: list[OnDisconnect] = []
        self.on_presence: list[OnPresence] = []
        self.on_bus_gap: list[OnBusGap] = []
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
            self._log.exception("hook failed", extra=_named(hook, arguments))


class HookDecorators:
    """The decorators that add hooks: ``@manager.on_connect`` and its kin. Each returns its function unchanged."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks: Hooks = hooks

    def on_connect(self, hook: OnConnect) -> OnConnect:
        """Have ``hook(connection)`` called when a socket was registered here."""
        self._hooks.on_connect.append(hook)
        return hook

    def on_disconnect(self, hook: OnDisconnect) -> OnDisconnect:
        """Have ``hook(connection, code, reason)`` called when a socket of this replica has ended."""
        self._hooks.on_disconnect.append(hook)
        return hook

    def on_presence(self, hook: OnPresence) -> OnPresence:
        """Have ``hook(event)`` called for what this replica's sockets did, and for what it swept."""
        self._hooks.on_presence.append(hook)
        return hook

    def on_bus_gap(self, hook: OnBusGap) -> OnBusGap:
        """Have ``hook(gap)`` called when this replica hears the others again: it may have missed messages."""
        self._hooks.on_bus_gap.append(hook)
        return hook

    def on_message(self, hook: OnMessage) -> OnMessage:
        """Have ``hook(connection, message)`` called for sockets that are served without a handler of their own."""
        self._hooks.on_message = hook
        return hook


def _is_end_of(subject: object, error: BaseException) -> bool:
    """Whether a hook only found that its connection is over."""
    is_about_an_end = isinstance(error, ConnectionNotFoundError | ConnectionTimeoutError | SlowConsumerError)
    return is_about_an_end and isinstance(subject, Connection) and subject.ended is not None


def _named(hook: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, str]:
    """Return what a line of the log carries about a hook: its name, and the client that it was called for."""
    named = {"hook": getattr(hook, "__qualname__", repr(hook))}
    if arguments and isinstance(arguments[0], Connection | PresenceEvent):
        named["client_id"] = arguments[0].client_id
    return named
