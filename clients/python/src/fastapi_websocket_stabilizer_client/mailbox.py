"""Marks up to which the application has handled the mailbox."""

INTERVAL_S = 1.0
EVERY = 64
"""Messages after which a mark is sent at once."""


class Marks:
    """Decides when a mark is sent: after 64 messages, or a second after the last one."""

    def __init__(self) -> None:
        self._id: int | None = None
        self._count = 0
        self._sent_s = float("-inf")

    def handled(self, id_: int) -> None:
        """Note that the handler of a message has returned."""
        self._id = id_
        self._count += 1

    def due(self, now_s: float, *, at_once: bool = False) -> int | None:
        """Return the mark to send now, or None."""
        if self._id is None or not (at_once or self._count >= EVERY or now_s >= self._sent_s + INTERVAL_S):
            return None
        id_, self._id, self._count, self._sent_s = self._id, None, 0, now_s
        return id_

    @property
    def deadline_s(self) -> float | None:
        """The time of the next mark, or None."""
        return None if self._id is None else self._sent_s + INTERVAL_S
