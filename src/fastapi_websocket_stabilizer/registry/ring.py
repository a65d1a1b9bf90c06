"""Recent entries of one log in memory, without a gap. Pure."""

from bisect import bisect_left
from collections.abc import Iterable

from ..backends.log_ports import LogEntry, LogRead
from .continuity import cut_of, entry_id


class Ring:
    """Recent entries without a gap, bounded in bytes.

    Attributes:
        start: Id before the first entry.
        bytes: Bytes of all entries.
    """

    __slots__ = ("_entries", "_head", "_ids", "bytes", "start")

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, start: int, entries: Iterable[LogEntry] = ()) -> None:
        """Forget everything, and begin with ``entries`` behind ``start``."""
        self.start: int = start
        self._head = 0
        self._entries: list[LogEntry] = list(entries)
        self._ids = [entry.id for entry in self._entries]
        self.bytes: int = sum(entry.size for entry in self._entries)

    def append(self, entry: LogEntry, limit: int) -> None:
        """Add the next entry and drop the oldest ones above ``limit`` bytes."""
        self._ids.append(entry.id)
        self._entries.append(entry)
        self.bytes += entry.size
        if self.bytes > limit:
            self.trim(limit)

    def trim(self, limit: int) -> None:
        """Drop the oldest entries above ``limit`` bytes."""
        head = self._head
        while self.bytes > limit and head < len(self._ids):
            self.start = self._ids[head]
            self.bytes -= self._entries[head].size
            head += 1
        self._head = head
        if head * 2 > len(self._ids):  # each entry is moved once at most, on average
            del self._ids[:head], self._entries[:head]
            self._head = 0

    def after(self, id_: int) -> list[LogEntry] | None:
        """Return the entries behind ``id_``; None if the ring does not know that id."""
        if id_ == self.start:
            return self._entries[self._head :]
        index = bisect_left(self._ids, id_, self._head)
        if index == len(self._ids) or self._ids[index] != id_:
            return None
        return self._entries[index + 1 :]

    def before_last(self, count: int) -> int | None:
        """Return the id before the newest ``count`` entries; None if the ring does not have it."""
        index = len(self._ids) - count
        if index > self._head:
            return self._ids[index - 1]
        return self.start or None if index == self._head else None

    def load(self, read: LogRead, end: int) -> None:
        """Begin again with the entries of ``read`` up to ``end``. All of them, in the bounds of ``trim``."""
        cut = cut_of(read)
        entries = [entry for entry in read.entries if cut < entry.id <= end]
        start = max(read.meta.base if read.meta is not None else 0, cut)
        if not entries:
            self.restart(end)
        elif start < entries[0].id and (read.is_whole or read.entries[0].id <= start):
            self.restart(start, entries)
        else:  # the id before the first entry is not known
            self.restart(entries[0].id, entries[1:])

    def deepen(self, read: LogRead) -> None:
        """Put the older entries of ``read`` in front, if they are contiguous with the ring."""
        entries = read.entries
        index = bisect_left(entries, self.start, key=entry_id)
        if index < len(entries) and entries[index].id == self.start:
            newer = self._entries[self._head :]
            self.load(read, self.start)
            self.restart(self.start, [*self._entries, *newer])
