"""Handlers of the application, and the events that wait for them."""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .messages import Lost, Message

logger: logging.Logger = logging.getLogger("fastapi_websocket_stabilizer_client")

Handler = Callable[[Any], Any]
Event = Message | Lost


class Dispatcher:
    """Calls handlers one after the other. Events without handlers wait for an iterator.

    Args:
        max_waiting: Events that may wait.
        handled: Called with an event when its handlers have returned.
    """

    def __init__(self, max_waiting: int, handled: Callable[[Event], None]) -> None:
        self._max_waiting, self._handled = max_waiting, handled
        self._pending: deque[tuple[Sequence[Handler], Any]] = deque()
        self._stream: deque[Event] = deque()
        self._handed_out: Event | None = None
        self._changed = asyncio.Event()
        self._calls = 0
        self._is_over = False
        self.is_stalled: bool = False
        """Whether reading has stopped because too many events wait."""

    def put(self, handlers: Sequence[Handler], event: Any) -> None:
        """Add an event for handlers."""
        self._pending.append((handlers, event))
        self._wake()

    def stream(self, event: Event) -> None:
        """Add an event for the iterator."""
        self._stream.append(event)
        self._wake()

    def finish(self, *, is_over: bool) -> None:
        """End the iterator behind the events that wait, or let it go on."""
        self._is_over = is_over
        self._wake()

    async def next(self) -> Event | None:
        """Return the next event of the iterator, or None after the last one. The one before counts as handled."""
        if self._handed_out is not None:
            handed_out, self._handed_out = self._handed_out, None
            self._handled(handed_out)
        while not self._stream:
            if self._is_over:
                return None
            await self._changed.wait()
        event = self._handed_out = self._stream.popleft()
        self._wake()
        return event

    async def run(self) -> None:
        """Call handlers until the task is cancelled."""
        while True:
            while self._pending:
                handlers, event = self._pending.popleft()
                self._wake()
                await self._call(handlers, event)
            await self._changed.wait()

    async def may_read(self) -> None:
        """Wait while too many events wait for the application, and no call of it waits for an answer."""
        while len(self._pending) + len(self._stream) >= self._max_waiting and not self._calls:
            if not self.is_stalled:
                logger.warning(
                    "%d events wait for the application, so nothing is read: iterate over the client, add handlers, "
                    "or raise max_waiting",
                    self._max_waiting,
                )
            self.is_stalled = True
            await self._changed.wait()
        self.is_stalled = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Read on while a call waits for its answer, which is behind the messages."""
        self._calls += 1
        self._wake()
        try:
            yield
        finally:
            self._calls -= 1

    async def _call(self, handlers: Sequence[Handler], event: Any) -> None:
        is_handled = True
        for handler in handlers:
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # a handler of the application may raise anything
                is_handled = False
                logger.exception("a handler raised an exception for %r", event)
        # No change of the state, of a room or of presence is handled.
        if is_handled and isinstance(event, Message | Lost):
            self._handled(event)

    def _wake(self) -> None:
        """Wake all that wait for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
