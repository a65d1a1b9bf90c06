"""Which event loop runs in this thread."""

import asyncio
import os
import sys
import threading


class _Last(threading.local):
    """The loop that was running in this thread when it was last asked for."""

    loop: asyncio.AbstractEventLoop | None = None


_last = _Last()


def _forget() -> None:
    _last.loop = None


def _cached_running_loop() -> asyncio.AbstractEventLoop:
    """Return what ``asyncio.get_running_loop()`` returns.

    Before Python 3.12 that asks the system for the process id each time: a fifth of a direct send. A thread runs
    one loop at a time, so the one that still runs is the one.

    Raises:
        RuntimeError: No loop runs in this thread.
    """
    loop = _last.loop
    if loop is None or not loop.is_running():
        loop = _last.loop = asyncio.get_running_loop()
    return loop


if sys.version_info >= (3, 12):
    running_loop = asyncio.get_running_loop
else:
    running_loop = _cached_running_loop
    os.register_at_fork(after_in_child=_forget)  # a forked child runs no loop yet
