"""One send: its result, its steps until the socket has accepted it, and the bound on suspended sends of a node."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future as ThreadFuture
from types import coroutine
from typing import Any, TypeAlias

from .lifecycle import Limits

Confirmation: TypeAlias = ThreadFuture[str | None]
DROPPED = "dropped: outbox is full"


class Sent:
    """Result of one push: an error, or success that may still be pending."""

    __slots__ = ("error", "pending")

    def __init__(self, error: str | None = None, pending: Confirmation | None = None) -> None:
        self.error: str | None = error
        self.pending: Confirmation | None = pending


TAKEN = Sent()


class SendLimiter:
    """Bounds the number of suspended sends of this node (``max_concurrent_broadcast``).

    Attributes:
        deferred: Number of sends that had to wait for the limiter.
    """

    __slots__ = ("_busy", "_limit", "_lock", "_waiting", "deferred")

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._busy = 0
        self._lock = threading.Lock()  # sockets of one manager may run on several loops (TestClient)
        self._waiting: deque[Callable[[], None]] = deque()  # at most one per connection
        self.deferred: int = 0

    def is_open(self) -> bool:
        """Whether another send may be suspended."""
        return self._busy < self._limit()

    def wait(self, call: Callable[[], None]) -> None:
        """Call ``call`` when a suspended send has ended and the limiter is open. Calls keep their order."""
        self.deferred += 1
        self._waiting.append(call)

    def enter(self) -> None:
        """Count a suspended send."""
        with self._lock:
            self._busy += 1

    def leave(self) -> None:
        """End a suspended send, and call those that wait while the limiter is open."""
        with self._lock:
            self._busy -= 1
        while self._waiting and self.is_open():
            self._waiting.popleft()()


async def settled(confirmation: Confirmation, limits: Limits) -> str | None:
    """Wait for a pending confirmation and return its error, if any. A missed deadline is an error as well."""
    try:
        async with asyncio.timeout(limits.write_timeout_s + limits.close_timeout_s):
            return await asyncio.shield(asyncio.wrap_future(confirmation))
    except TimeoutError:
        return f"no confirmation within {limits.write_timeout_s:g} s"


def hand_over(loop: asyncio.AbstractEventLoop, push: Callable[[], Sent], lost: Callable[[str], None]) -> Sent:
    """Call ``push`` in the thread of ``loop``; its result is pending. Call ``lost`` if that loop is closed.

    In memory mode one manager may serve sockets of several event loops.
    """
    answer: Confirmation = ThreadFuture()

    def push_there() -> None:
        try:
            sent = push()
        except Exception as error:  # noqa: BLE001 - the caller in the other thread needs a result in any case
            sent = Sent(str(error) or type(error).__name__)
        if sent.pending is None:
            answer.set_result(sent.error)
        else:
            sent.pending.add_done_callback(lambda pending: answer.set_result(pending.result()))

    try:
        loop.call_soon_threadsafe(push_there)
    except RuntimeError:  # the loop is closed, and its sockets with it
        lost("its event loop is closed")
        return Sent("its event loop is closed")
    return Sent(pending=answer)


def first_step(send: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
    """Run a coroutine up to its first wait. Return the rest of it, or None if it has ended.

    So an error is known at once, and a send that does not wait needs no task.
    """
    try:
        waiting_for = send.send(None)
    except StopIteration:
        return None
    return _resume(send, waiting_for)


@coroutine
def _resume(send: Coroutine[Any, Any, None], waiting_for: Any) -> Generator[Any, Any, None]:
    """Continue a coroutine that waits for ``waiting_for``."""
    while True:
        try:
            value = yield waiting_for
        except BaseException as thrown:  # noqa: BLE001 - a cancellation is thrown into the coroutine as well
            error: BaseException | None = thrown
        else:
            error = None
        try:
            waiting_for = send.send(value) if error is None else send.throw(error)
        except StopIteration:
            return
