"""Which event loop runs in this thread."""

import asyncio
import os
import sys
import threading


class _Last(threading.local):
    """The loop that was running in this thread when it was last asked for."""

    loop: asyncio.AbstractEventLoop | None = None


_last = _Last()
_threads: dict[int, int] = {}  # id of a loop -> the last thread that ran it


def _forget() -> None:
    _last.loop = None


def _cached_running_loop() -> asyncio.AbstractEventLoop:
    """Return what ``asyncio.get_running_loop()`` returns.

    Before Python 3.12 that asks the system for the process id each time: a fifth of a direct send. A thread runs
    one loop at a time; the one that was last seen here is the one if it runs, and was not seen elsewhere since.

    Raises:
        RuntimeError: No loop runs in this thread.
    """
    loop = _last.loop
    if loop is None or not loop.is_running() or _threads.get(id(loop)) != threading.get_ident():
        loop = _last.loop = asyncio.get_running_loop()
        _threads[id(loop)] = threading.get_ident()
    return loop


if sys.version_info >= (3, 12):
    running_loop = asyncio.get_running_loop
else:
    running_loop = _cached_running_loop
    os.register_at_fork(after_in_child=_forget)  # a forked child runs no loop yet
