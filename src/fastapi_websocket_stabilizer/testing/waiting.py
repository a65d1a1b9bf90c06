"""Waiting for a condition instead of a duration."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar, overload

T = TypeVar("T")

MIN_PAUSE_S, MAX_PAUSE_S = 0.01, 0.05
PART_OF_WAIT = 0.05
"""A pause between two attempts, relative to the wait so far. Polls would slow down the servers that they wait for."""


class _Attempts:
    """The last result of a condition, for the failure message."""

    def __init__(self, timeout_s: float, what: str) -> None:
        self._timeout_s = timeout_s
        self._what = what
        self._began_s = time.monotonic()
        self.value: object = "no answer"
        self.error: Exception | None = None

    @property
    def are_over(self) -> bool:
        return self._waited_s >= self._timeout_s

    @property
    def pause_s(self) -> float:
        """The time to the next attempt."""
        return min(max(MIN_PAUSE_S, PART_OF_WAIT * self._waited_s), MAX_PAUSE_S)

    @property
    def _waited_s(self) -> float:
        return time.monotonic() - self._began_s

    def note(self, *, value: object = None, error: Exception | None = None) -> None:
        self.value, self.error = value, error

    def fail(self) -> NoReturn:
        last = f"last value: {self.value!r}" if self.error is None else f"last error: {self.error!r}"
        message = f"not within {self._timeout_s:g} s: {self._what or 'the condition'} ({last})"
        raise AssertionError(message) from self.error


@overload
async def eventually(condition: Callable[[], Awaitable[T]], timeout_s: float = ..., what: str = ...) -> T: ...
@overload
async def eventually(condition: Callable[[], T], timeout_s: float = ..., what: str = ...) -> T: ...
async def eventually(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> object:
    """Poll ``condition``, sync or async, until its value is truthy, and return that value.

    It is polled each 10 ms at first, and each 50 ms after a second.

    An exception in the condition counts as "not yet", so a condition may use ``assert``. A call that hangs is
    cancelled after ``timeout_s`` seconds.

    Raises:
        AssertionError: The value was not truthy within ``timeout_s``. The message has the last value or error.
    """
    attempts = _Attempts(timeout_s, what)
    try:
        async with asyncio.timeout(timeout_s):
            while not await _holds(condition, attempts):  # noqa: ASYNC110 - any condition, so no event to await
                await asyncio.sleep(attempts.pause_s)
    except TimeoutError:
        attempts.fail()
    return attempts.value


async def _holds(condition: Callable[[], object], attempts: _Attempts) -> bool:
    try:
        value = condition()
        attempts.note(value=await value if inspect.isawaitable(value) else value)
    except Exception as error:  # noqa: BLE001 - reported by _Attempts.fail when it stays
        attempts.note(error=error)
    return attempts.error is None and bool(attempts.value)


def eventually_sync(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "") -> T:
    """Poll as :func:`eventually`, in code without an event loop. A call of ``condition`` that hangs is not ended."""
    attempts = _Attempts(timeout_s, what)
    while True:
        try:
            value = condition()
            attempts.note(value=value)
            if value:
                return value
        except Exception as error:  # noqa: BLE001 - reported by _Attempts.fail when it stays
            attempts.note(error=error)
        if attempts.are_over:
            attempts.fail()
        time.sleep(attempts.pause_s)
