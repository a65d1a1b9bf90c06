"""How many sends may be under way at once on this node (``max_concurrent_broadcast``)."""

import threading
from collections import deque
from collections.abc import Callable


class Gate:
    """Counts sends that were suspended; whoever comes when it is full is called when one has ended.

    Attributes:
        deferred: How often somebody had to wait.
    """

    __slots__ = ("_busy", "_limit", "_lock", "_waiting", "deferred")

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._busy = 0
        self._lock = threading.Lock()  # sockets of one manager may live on several loops (TestClient)
        self._waiting: deque[Callable[[], None]] = deque()  # at most one per connection
        self.deferred: int = 0

    def is_open(self) -> bool:
        return self._busy < self._limit()

    def wait(self, call: Callable[[], None]) -> None:
        self.deferred += 1
        self._waiting.append(call)

    def enter(self) -> None:
        with self._lock:
            self._busy += 1

    def leave(self) -> None:
        with self._lock:
            self._busy -= 1
        while self._waiting and self.is_open():
            self._waiting.popleft()()
