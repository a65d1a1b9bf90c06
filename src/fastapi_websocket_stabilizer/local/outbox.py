"""Queued messages of one slow socket, in order and bounded in bytes. Pure; only whole messages."""

from collections import deque
from enum import Enum
from typing import Literal

from ..wire.messages import Encoded

Policy = Literal["close", "drop_oldest", "drop_newest"]

BEHIND_BYTES = 64 * 1024
"""Bytes in the outbox from which on stored messages stay in their log; half of a small outbox."""


def is_behind(queued_bytes: int, limit: int) -> bool:
    """Whether an outbox of ``limit`` bytes has so many that no more stored messages should be queued."""
    return queued_bytes > min(BEHIND_BYTES, limit // 2)


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

    def put(self, message: Encoded, *, is_stored: bool = False) -> Put:
        """Append a message, or apply the policy if the queue is full.

        A stored message of any size is accepted until the queue ``is_behind``. Then its log has the next ones.
        """
        is_welcome = not self._messages or (is_stored and not is_behind(self.queued_bytes, self._limit))
        if not is_welcome and self.queued_bytes + message.size > self._limit:
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
