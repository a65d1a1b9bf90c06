"""The messages of one stream: pieces are joined in order, and messages are bounded in rate and size. Pure.

Law, with ``limit`` bytes of UTF-8 as the largest text of a message:

1. One message is in progress at a time, and they are numbered from 0. The first one announces the stream.
2. A message leaves ``INTERVAL_S`` after the one before, so the first piece after a pause leaves at once.
3. A text that no further piece fits into leaves as soon as the message before has left.
4. At the end, the rest leaves as soon as the message before has left. The last message has the end.
"""

from collections import deque
from typing import Any, NamedTuple

INTERVAL_S = 0.05
"""Seconds between two messages of a stream, unless one is full or the stream ends."""
PART_BYTES = 16 * 1024
"""Largest text of one message in bytes of UTF-8. It is smaller if ``max_message_size`` is small."""
LEAST_PART_BYTES = 4
"""Smallest ``limit``: the longest character in UTF-8."""


class Part(NamedTuple):
    """One message of a stream.

    Attributes:
        number: Its place in the stream, from 0.
        error: Code of the reason why the stream ended early; "" if it did not.
    """

    number: int
    text: str
    is_last: bool = False
    error: str = ""

    def message(self, stream_id: str) -> dict[str, Any]:
        """Return the message, as clients receive it."""
        found: dict[str, Any] = {"stream": stream_id, "seq": self.number, "text": self.text}
        if self.is_last:
            found["end"] = True
        if self.error:
            found["error"] = self.error
        return found


class Coalescer:
    """Written text that has not left, in order. Times are seconds of one clock.

    Attributes:
        unsent_bytes: Bytes that were written and have not left, with those in progress.
        is_over: Whether the last message has left, or was given up.
    """

    __slots__ = (
        "_error", "_full", "_has_ended", "_limit", "_next_at_s", "_next_number", "_open", "_open_bytes", "_sending",
        "_was_last", "is_over", "unsent_bytes",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self._limit = max(limit, LEAST_PART_BYTES)
        self._full: deque[tuple[str, int]] = deque()  # texts that nothing more fits into, with their bytes
        self._open: list[str] = []
        self._open_bytes = 0
        self._next_number = 0
        self._next_at_s = 0.0
        self._sending: int | None = None  # bytes of the message in progress
        self._has_ended = False
        self._was_last = False  # the message that was taken last
        self._error = ""
        self.unsent_bytes: int = 0
        self.is_over: bool = False

    def write(self, text: str, size: int) -> bool:
        """Append a text of ``size`` bytes. Return whether ``due_at_s`` may have changed."""
        was_empty = not self._open
        self.unsent_bytes += size
        if self._open_bytes + size > self._limit:
            self._close_text()
            text, size = self._split(text, size)
        if size:
            self._open.append(text)
            self._open_bytes += size
            if self._open_bytes == self._limit:
                self._close_text()
        return was_empty or bool(self._full)

    def _close_text(self) -> None:
        if self._open:
            self._full.append(("".join(self._open), self._open_bytes))
            self._open, self._open_bytes = [], 0

    def _split(self, text: str, size: int) -> tuple[str, int]:
        """Take full texts off a long one. Return the rest, and its size."""
        if size <= self._limit:
            return text, size
        data, start = text.encode(), 0
        while size - start > self._limit:
            end = start + self._limit
            while data[end] & 0xC0 == 0x80:  # not between the bytes of a character
                end -= 1
            self._full.append((data[start:end].decode(), end - start))
            start = end
        return data[start:].decode(), size - start

    def end(self, error: str = "") -> None:
        """Accept no more text; the rest is due, with this code in the last message."""
        self._has_ended, self._error = True, error

    def drop(self) -> None:
        """Forget what was not sent. A message in progress is still to be reported with ``left``."""
        self._full.clear()
        self._open, self._open_bytes = [], 0
        self.unsent_bytes = self._sending or 0

    @property
    def is_sending(self) -> bool:
        """Whether a message is in progress."""
        return self._sending is not None

    @property
    def due_at_s(self) -> float | None:
        """When the next message is due; a past time for now. None until something is written or has left."""
        if self._sending is not None or self.is_over:
            return None
        if self._full or self._has_ended or self._next_number == 0:
            return 0.0
        return self._next_at_s if self._open else None

    def take(self, now_s: float) -> Part | None:
        """Return the next message if it is due. It is in progress until ``left`` is called."""
        due_at_s = self.due_at_s
        if due_at_s is None or now_s < due_at_s:
            return None
        number, text, size = self._next_number, "", 0
        if number > 0:
            text, size = self._pop()
        self._sending, self._next_number, self._next_at_s = size, number + 1, now_s + INTERVAL_S
        self._was_last = self._has_ended and number > 0 and not self._full and not self._open
        return Part(number, text, self._was_last, self._error if self._was_last else "")

    def _pop(self) -> tuple[str, int]:
        if not self._full:
            self._close_text()
        return self._full.popleft() if self._full else ("", 0)

    def left(self) -> None:
        """Note that the message in progress was sent, or given up."""
        self.unsent_bytes -= self._sending or 0
        self._sending = None
        self.is_over = self._was_last
