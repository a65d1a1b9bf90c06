"""Pushing to a socket whose event loop runs in another thread: in memory mode a manager serves several."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture

from .backlog import Outcome, Sent


def hand_over(loop: asyncio.AbstractEventLoop, push: Callable[[], Sent], lost: Callable[[str], None]) -> Sent:
    """Have ``push`` called in the thread of ``loop``; its outcome is pending. ``lost`` when that loop is closed."""
    answer: Outcome = ThreadFuture()

    def push_there() -> None:
        try:
            sent = push()
        except Exception as error:  # noqa: BLE001 - the call that waits in another thread needs an answer
            sent = Sent(str(error) or type(error).__name__)
        if sent.pending is None:
            answer.set_result(sent.error)
        else:
            sent.pending.add_done_callback(lambda pending: answer.set_result(pending.result()))

    try:
        loop.call_soon_threadsafe(push_there)
    except RuntimeError:  # closed, and its sockets with it
        lost("its event loop is closed")
        return Sent("its event loop is closed")
    return Sent(pending=answer)
