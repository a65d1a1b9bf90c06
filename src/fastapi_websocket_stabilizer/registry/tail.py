"""Tells operators what happens on this node while they watch: which connections open and end.

Without watchers it costs nothing. A watcher repeats its question, or the node stops after ``LASTS_S``.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..exceptions import RequestFailedError
from ..local.connection import Connection
from ..models import ClosedConnection
from ..names import ConnectionId, NodeId, node_of
from ..runtime.loops import running_loop
from ..runtime.tasks import Tasks
from .replies import PendingReplies

LASTS_S = 30.0
"""Seconds for which a node tells a watcher that does not ask again."""
MAX_WATCHERS = 4
"""Watchers of one node. More are refused."""
ASK_AGAIN_S = LASTS_S / 3
"""Seconds after which a watcher asks all nodes again."""
MAX_WAITING = 1000
"""Messages of nodes that may wait until a watcher takes them. More are dropped."""
TELL_S = 0.25
"""Seconds between two messages to a watcher."""
MAX_TOLD = 50
"""Events in one message, which is 200 in a second. Of the others, the number is told."""

Tell = Callable[[dict[str, Any]], Awaitable[None]]
Watcher = tuple[NodeId, int]
"""The operator, and the number of its question."""


def is_told(message: Any) -> bool:
    """Whether a message has the form of one to a watcher. A stranger may have sent it."""
    match message:
        case {"events": [*events], "dropped": int()}:
            return all(isinstance(event, dict) for event in events)
    return isinstance(message, list)  # an error


async def followed(
    replies: PendingReplies, watch_all: Callable[[int], Awaitable[None]]
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the messages of all nodes until the caller ends. Nodes that join are asked within ``ASK_AGAIN_S``.

    Args:
        replies: Where the messages arrive.
        watch_all: Function that asks all nodes; it gets the number of the question.
    """
    told: asyncio.Queue[Any] = asyncio.Queue(MAX_WAITING)

    def put(_: NodeId, message: Any) -> None:
        with suppress(asyncio.QueueFull):  # the reader is slower than the nodes
            told.put_nowait(message)

    with replies.opened(is_told, put, repeats=True) as ask:
        while True:
            await watch_all(ask)
            until_s = running_loop().time() + ASK_AGAIN_S
            while (left_s := until_s - running_loop().time()) > 0:
                with suppress(TimeoutError):
                    message = await asyncio.wait_for(told.get(), left_s)
                    if isinstance(message, dict):
                        yield message


@dataclass(slots=True)
class _Waiting:
    """Events that were not told yet."""

    until_s: float
    events: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0


class Tail:
    """The watchers of this node.

    Args:
        tasks: Where its tasks run.
        is_over: Function that returns whether this node stops.
    """

    def __init__(self, tasks: Tasks, is_over: Callable[[], bool]) -> None:
        self._tasks, self._is_over = tasks, is_over
        self._waiting: dict[Watcher, _Waiting] = {}

    @property
    def watchers(self) -> int:
        """Number of watchers."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Check that one more may watch.

        Raises:
            RequestFailedError: There are ``MAX_WATCHERS`` already. The code is "limit".
        """
        if len(self._waiting) >= MAX_WATCHERS:
            text = f"{MAX_WATCHERS} operators watch this node already: end one of them, or wait {LASTS_S:g} s"
            raise RequestFailedError(text, code="limit", message=text, retry=True)

    def watch(self, watcher: Watcher, tell: Tell) -> None:
        """Tell a watcher, for ``LASTS_S`` from now on, what happens.

        Raises:
            RequestFailedError: There are ``MAX_WATCHERS`` others. The code is "limit".
        """
        until_s = running_loop().time() + LASTS_S
        if watcher in self._waiting:
            self._waiting[watcher].until_s = until_s
            return
        self.check_room()
        self._waiting[watcher] = _Waiting(until_s)
        self._tasks.spawn(self._tell(watcher, tell), "tell-a-watcher")

    def opened(self, connection: Connection) -> None:
        """Note that a connection was opened."""
        if self._waiting:
            self._note("opened", connection.client_id, connection.connection_id)

    def closed(self, end: ClosedConnection) -> None:
        """Note that a connection has ended."""
        if self._waiting:
            more = {"cause": end.cause.value, "code": end.code, "lasted_s": end.lasted_s}
            self._note("closed", end.client_id, end.connection_id, **more)

    def _note(self, kind: str, client_id: str, connection_id: ConnectionId, **more: Any) -> None:
        event = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "kind": kind,
            "node": node_of(connection_id),
            "client_id": client_id,
            "connection_id": connection_id,
            **more,
        }
        for waiting in self._waiting.values():
            if len(waiting.events) < MAX_TOLD:
                waiting.events.append(event)
            else:
                waiting.dropped += 1

    async def _tell(self, watcher: Watcher, tell: Tell) -> None:
        waiting = self._waiting[watcher]
        try:
            while running_loop().time() < waiting.until_s and not self._is_over():
                await asyncio.sleep(TELL_S)
                told, waiting.events, waiting.dropped = (waiting.events, waiting.dropped), [], 0
                if any(told):
                    await tell({"events": told[0], "dropped": told[1]})
        finally:
            del self._waiting[watcher]
