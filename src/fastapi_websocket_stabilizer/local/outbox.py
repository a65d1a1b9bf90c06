"""Queued messages of one slow socket, in order and bounded in bytes. Pure; only whole messages."""

from collections import deque
from enum import Enum
from typing import Literal

from ..wire.messages import Encoded

Policy = Literal["close", "drop_oldest", "drop_newest"]


class Put(Enum):
    """Result of ``Outbox.put``."""

    TAKEN = "taken"
    REFUSED = "refused"
    """The outbox is full, and its policy drops the newest message: this one."""
    OVERFLOW = "overflow"
    """The outbox is full, and its policy closes the connection."""


class Outbox:
    """A queue of at most ``limit`` bytes. An empty queue accepts one message of any size.

    Attributes:
        queued_bytes: Bytes in the queue.
        dropped: Messages dropped so far.
    """

    __slots__ = ("_limit", "_messages", "_policy", "dropped", "queued_bytes")

    def __init__(self, limit: int, policy: Policy) -> None:
        self._limit, self._policy = limit, policy
        self._messages: deque[Encoded] = deque()
        self.queued_bytes: int = 0
        self.dropped: int = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Encoded) -> Put:
        """Append a message, or apply the policy if the queue is full."""
        if self._messages and self.queued_bytes + message.size > self._limit:
            if self._policy == "close":
                return Put.OVERFLOW
            if self._policy == "drop_newest":
                self.dropped += 1
                return Put.REFUSED
            while self._messages and self.queued_bytes + message.size > self._limit:
                self.pop()
                self.dropped += 1
        self._messages.append(message)
        self.queued_bytes += message.size
        return Put.TAKEN

    def pop(self) -> Encoded:
        """Remove and return the oldest message."""
        message = self._messages.popleft()
        self.queued_bytes -= message.size
        return message

    def clear(self) -> None:
        """Drop all messages without counting them."""
        self._messages.clear()
        self.queued_bytes = 0
