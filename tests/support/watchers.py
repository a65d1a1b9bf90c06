"""A backend without a node: what it reports goes nowhere, unless a test takes it."""

from collections.abc import Callable

from fastapi_websocket_stabilizer.backends.ports import Receive, Watcher


def ignore(*_: object) -> None:
    """Take anything, and do nothing about it."""


def watcher(receive: Receive = ignore, gap_ended: Callable[[float], None] = ignore) -> Watcher:
    return Watcher(
        receive=receive,
        gap_began=ignore,
        gap_ended=gap_ended,
        pause=ignore,
        flush_earlier_sends=ignore,
        opened_at=lambda _: 0.0,
        heard_after=ignore,
        answered_after=ignore,
    )
