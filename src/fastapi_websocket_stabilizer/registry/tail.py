"""Tells operators what happens on this node while they watch: which connections open and end.

Without watchers it costs nothing. A watcher repeats its question, or the node stops after ``LASTS_S``.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from ..exceptions import RequestFailedError
from ..local.connection import Connection
from ..models import ClosedConnection
from ..names import ConnectionId, NodeId, node_of
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters
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

OF_EVENT = ("at", "kind", "node", "client_id", "connection_id")
"""Texts that each event has."""

Tell = Callable[[dict[str, Any]], Awaitable[None]]
Watcher = tuple[NodeId, int]
"""The operator, and the number of its question."""


class Watch(Protocol):
    """A watch of all nodes."""

    async def begin(self, ask: int) -> list[str]:
        """Ask all nodes, or ask them again; return why some of them tell nothing."""
        ...

    async def end(self, ask: int) -> None:
        """Tell all nodes that the watch is over."""
        ...


def is_told(message: Any) -> bool:
    """Whether a message has the form of one to a watcher. A stranger may have sent it."""
    match message:
        case {"events": [*events], "dropped": int()}:
            return all(map(_is_event, events))
        case [str(), str(), dict()]:  # an error
            return True
    return False


def _is_event(event: Any) -> bool:
    return isinstance(event, dict) and all(isinstance(event.get(name), str) for name in OF_EVENT)


async def followed(replies: PendingReplies, watch: Watch) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the messages of all nodes until the caller ends: ``events``, ``dropped``, and ``silent``.

    ``silent`` says why nodes tell nothing, each reason once. Nodes that join are asked within ``ASK_AGAIN_S``.
    """
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MAX_WAITING)
    known, missed = set[str](), 0

    def put(node: NodeId, message: Any) -> None:
        nonlocal missed
        try:
            told.put_nowait(message if isinstance(message, dict) else _silent([f"node {node}: {message[1]}"]))
        except asyncio.QueueFull:  # the reader is slower than the nodes
            missed += 1

    with replies.opened(is_told, put, repeats=True) as ask:
        try:
            while True:
                reasons = await watch.begin(ask)
                if new := [reason for reason in reasons if reason not in known]:
                    yield _silent(new)
                known = set(reasons)
                until_s = running_loop().time() + ASK_AGAIN_S
                while (left_s := until_s - running_loop().time()) > 0:
                    with suppress(TimeoutError):
                        message = await asyncio.wait_for(told.get(), left_s)
                        lost, missed = missed, 0
                        yield {"silent": [], **message, "dropped": message["dropped"] + lost}
        finally:
            await watch.end(ask)


def _silent(reasons: list[str]) -> dict[str, Any]:
    return {"events": [], "dropped": 0, "silent": reasons}


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
        counters: The counters of the node.
        is_over: Function that returns whether this node stops.
    """

    def __init__(self, tasks: Tasks, counters: Counters, is_over: Callable[[], bool]) -> None:
        self._tasks, self._counters, self._is_over = tasks, counters, is_over
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
            self._counters.views_refused += 1
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

    def unwatch(self, watcher: Watcher) -> None:
        """Tell a watcher nothing more."""
        self._waiting.pop(watcher, None)

    async def _tell(self, watcher: Watcher, tell: Tell) -> None:
        waiting = self._waiting[watcher]
        try:
            while running_loop().time() < waiting.until_s and not self._is_over():
                await asyncio.sleep(TELL_S)
                if self._waiting.get(watcher) is not waiting:
                    return
                told, waiting.events, waiting.dropped = (waiting.events, waiting.dropped), [], 0
                if any(told):
                    await tell({"events": told[0], "dropped": told[1]})
        finally:
            if self._waiting.get(watcher) is waiting:
                del self._waiting[watcher]
