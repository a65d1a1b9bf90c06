"""The running event loop of this thread."""

import asyncio
import os
import sys
import threading


class _Last(threading.local):
    """The running loop of this thread at the last call."""

    loop: asyncio.AbstractEventLoop | None = None


_last = _Last()
_threads: dict[int, int] = {}  # id of a loop -> the last thread that ran it


def _forget() -> None:
    _last.loop = None


def _cached_running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop, as ``asyncio.get_running_loop()``, from a cache.

    Before Python 3.12 that function asks the system for the process id each time, a fifth of a direct send. A
    thread runs one loop at a time. So the last loop of this thread is still the result if it is running and was not
    seen in another thread since.

    Raises:
        RuntimeError: No loop is running in this thread.
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
    os.register_at_fork(after_in_child=_forget)  # the child of a fork runs no loop
