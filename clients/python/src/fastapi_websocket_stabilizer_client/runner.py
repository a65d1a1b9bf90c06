"""Carries out the actions of the machine with sockets, timers and the clock."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeVarTuple

from . import actions as do
from .dispatch import Dispatcher, logger
from .exchange import RENEWED_AGAIN_S
from .machine import Machine
from .sockets import Endpoint, Socket

Auth = str | Callable[[], str | Awaitable[str]]
Arguments = TypeVarTuple("Arguments")

LONGEST_SLEEP_S = 10.0
"""Longest time between two looks at the clock, which show that the system was asleep."""


def now() -> float:
    """Return seconds of a clock that goes on while the system sleeps, if there is one."""
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class Runner:
    """Runs a machine on an event loop.

    Args:
        machine: What decides.
        endpoint: Where to connect.
        auth: The token, or the function that returns one.
        tell: Takes the actions that are not about sockets.
        dispatcher: Knows when the application can take another message.
    """

    def __init__(
        self,
        machine: Machine,
        endpoint: Endpoint,
        auth: Auth | None,
        *,
        tell: Callable[[do.Action], None],
        dispatcher: Dispatcher,
    ) -> None:
        self._machine, self._endpoint, self._auth = machine, endpoint, auth
        self._tell, self._dispatcher = tell, dispatcher
        self._sockets: dict[int, Socket] = {}
        self._authorizing: dict[int, asyncio.Task[None]] = {}
        self._queue: deque[do.Action] = deque()
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def run(self, event: Callable[[*Arguments, float], list[do.Action]], *arguments: *Arguments) -> None:
        """Pass an event to the machine with the time, and carry out the actions.

        What the machine raises, such as LimitError, is raised here.
        """
        self._queue.extend(event(*arguments, now()))
        if self._is_busy:
            return  # a handler called: its actions follow behind those under way
        self._is_busy = True
        try:
            while self._queue:
                self._carry_out(self._queue.popleft())
        finally:
            self._is_busy = False
        self._schedule()

    async def drain(self) -> None:
        """Wait until the sockets have written nearly all frames."""
        for socket in tuple(self._sockets.values()):
            await socket.drain()

    async def end(self) -> None:
        """Wait until the sockets have ended, after the machine was closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = [*self._authorizing.values(), *(socket.task for socket in self._sockets.values())]
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()

    # Events of sockets.

    def opened(self, generation: int, subprotocol: str | None) -> None:
        """Note that a socket is open."""
        self.run(self._machine.opened, generation, subprotocol)

    def received(self, generation: int, data: str | bytes) -> None:
        """Take a frame."""
        self.run(self._machine.frame, generation, data)

    def ended(self, generation: int, code: int, reason: str) -> None:
        """Note that a socket was closed, or could not be opened."""
        self._sockets.pop(generation, None)
        self.run(self._machine.closed, generation, code, reason)

    # Actions.

    def _carry_out(self, action: do.Action) -> None:
        match action:
            case do.Send(generation, frame):
                if (socket := self._sockets.get(generation)) is not None:
                    socket.send(frame)
            case do.Dial(generation, items):
                self._sockets[generation] = Socket(
                    self._endpoint, generation, items, listener=self, may_read=self._dispatcher.may_read
                )
            case do.Close(generation):
                if (socket := self._sockets.get(generation)) is not None:
                    socket.close()
            case do.Abandon(generation):
                self._abandon(generation)
            case do.Authorize(generation, is_renewal):
                self._authorize(generation, is_renewal=is_renewal)
            case _:
                self._tell(action)

    def _abandon(self, generation: int) -> None:
        socket, task = self._sockets.pop(generation, None), self._authorizing.pop(generation, None)
        if socket is not None:
            socket.abandon()
        if task is not None:
            task.cancel()

    def _authorize(self, generation: int, *, is_renewal: bool) -> None:
        if generation in self._authorizing:
            return  # still asking for the same
        task = asyncio.create_task(self._get_token(generation, is_renewal=is_renewal), name="stabilizer auth")
        self._authorizing[generation] = task
        task.add_done_callback(lambda _: self._authorizing.pop(generation, None))

    async def _get_token(self, generation: int, *, is_renewal: bool) -> None:
        assert self._auth is not None
        try:
            async with asyncio.timeout(RENEWED_AGAIN_S if is_renewal else None):
                token = self._auth if isinstance(self._auth, str) else self._auth()
                if isawaitable(token):
                    token = await token
            if not isinstance(token, str):
                raise TypeError(f"auth returned {token!r}, not a string")
        except Exception as error:  # noqa: BLE001 - a function of the application may raise anything
            logger.warning("auth raised an exception, so there are no credentials", exc_info=True)
            if not is_renewal:
                self.run(self._machine.unauthorized, generation, f"auth raised {error!r}")
            return
        self.run(self._machine.renew if is_renewal else self._machine.authorized, generation, token)

    # Time.

    def _schedule(self) -> None:
        at_s = self._machine.timer_at
        if at_s is None:
            return
        at_s = min(at_s, now() + LONGEST_SLEEP_S)
        if self._timer is None or at_s < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at_s
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at_s - now()), self._wake)

    def _wake(self) -> None:
        self._timer = None
        if self._dispatcher.is_stalled:
            self.run(self._machine.stalled)
        self.run(self._machine.timer)
