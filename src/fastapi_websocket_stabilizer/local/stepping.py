"""A coroutine whose first step was run by hand, without a task, and whose rest is not."""

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any


@coroutine
def resume(send: Coroutine[Any, Any, None], waiting_for: Any) -> Generator[Any, Any, None]:
    """Finish a coroutine that was stepped once by hand and then waited for something."""
    while True:
        try:
            value = yield waiting_for
        except BaseException as thrown:  # noqa: BLE001 - a cancellation belongs to the coroutine, too
            error: BaseException | None = thrown
        else:
            error = None
        try:
            waiting_for = send.send(value) if error is None else send.throw(error)
        except StopIteration:
            return
