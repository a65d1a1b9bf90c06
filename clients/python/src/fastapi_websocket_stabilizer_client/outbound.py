"""Messages that the server confirms, from the call to the confirmation."""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import islice

from . import writing
from .errors import LimitError
from .messages import Data


@dataclass(slots=True)
class Unconfirmed:
    """A message. ``is_settled``: the application does not wait for it any more."""

    key: Hashable
    data: Data
    size: int
    deadline_s: float
    number: int | None = None
    is_settled: bool = False


class Outbound:
    """Unconfirmed messages in their order. The first ones are numbered, the others have not been sent yet.

    The numbers of a session have no gaps. So a numbered message stays until it is confirmed, even if the application
    has stopped waiting. It is dropped when a new session begins.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._messages: deque[Unconfirmed] = deque()
        self._bytes = 0
        self._sent = 0
        self._next = 1

    def add(self, message: Unconfirmed) -> None:
        """Add a message that is not sent yet.

        Raises:
            LimitError: Too many messages, or too many bytes, are unconfirmed.
        """
        if len(self._messages) >= self._max_messages or self._bytes + message.size > self._max_bytes:
            raise LimitError(
                f"{len(self._messages)} messages with {self._bytes} bytes are unconfirmed, the limits are "
                f"max_unconfirmed={self._max_messages} and max_unconfirmed_bytes={self._max_bytes}: "
                "wait for confirmations"
            )
        if self._next > writing.MAX_NUMBER:
            raise LimitError("the numbers of this session are used up: call reconnect()")
        self._messages.append(message)
        self._bytes += message.size

    def begin(self, handled: int | None) -> list[Unconfirmed]:
        """Begin a connection, and return the messages that the server has handled.

        Args:
            handled: The mark of the session that was taken over, or None for a new session.
        """
        self._sent = 0
        if handled is not None:
            dropped = self._drop_to(handled)
            self._next = max((message.number or 0 for message in self._messages), default=0) or handled
            self._next += 1
            return dropped
        self._next = 1
        self._keep([message for message in self._messages if not message.is_settled])
        for message in self._messages:
            message.number = None
        return []

    def ready(self) -> Iterator[str | bytes]:
        """Yield the frames to send on an open connection, and number them."""
        for message in islice(self._messages, self._sent, None):
            if message.number is None:
                message.number, self._next = self._next, self._next + 1
            self._sent += 1
            yield writing.message(message.data, message.number)

    def handled(self, number: int) -> list[Unconfirmed]:
        """Remove and return the messages up to a number that this connection has sent."""
        sent = self._messages[self._sent - 1].number if self._sent else None
        return self._drop_to(min(number, sent)) if sent is not None else []

    def settle(self, key: Hashable) -> None:
        """Stop waiting for a confirmation. A message that was never sent is removed."""
        for message in self._messages:
            if message.key == key:
                message.is_settled = True
        self._keep([message for message in self._messages if message.number or not message.is_settled])

    def overdue(self, now_s: float) -> list[Unconfirmed]:
        """Return the messages whose time is over. They are not removed."""
        return [message for message in self._waited_for() if message.deadline_s <= now_s]

    def interrupt(self) -> None:
        """End the connection. The next one sends all messages again."""
        self._sent = 0

    def end(self) -> list[Unconfirmed]:
        """Remove all messages, and return those for which the application waits."""
        waited_for = self._waited_for()
        self._keep([])
        self._sent = 0
        return waited_for

    @property
    def soonest_s(self) -> float | None:
        """The first deadline, or None."""
        if not self._messages:
            return None
        return min((message.deadline_s for message in self._waited_for()), default=None)

    def _waited_for(self) -> list[Unconfirmed]:
        return [message for message in self._messages if not message.is_settled]

    def _drop_to(self, number: int) -> list[Unconfirmed]:
        dropped = []
        while self._messages and (first := self._messages[0]).number is not None and first.number <= number:
            dropped.append(self._messages.popleft())
            self._bytes -= first.size
            self._sent = max(0, self._sent - 1)
        return [message for message in dropped if not message.is_settled]

    def _keep(self, messages: list[Unconfirmed]) -> None:
        self._messages = deque(messages)
        self._bytes = sum(message.size for message in messages)
