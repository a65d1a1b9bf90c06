"""Whether a client that comes back has missed nothing of a log. Pure.

A client names the id of the last entry that it has seen (``cursor``). It also names the time up to which a server has
told it that nothing was lost (``t_us``). The log answers with what it has, and with what it has dropped.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Literal

from ..backends.log_ports import META_LASTS_S, LogEntry, LogRead

Code = Literal["trimmed", "unknown", "reset", "hole"]
"""Reason of a loss: entries were dropped, the cursor is unknown, the content is gone, or a failover lost entries."""
QUIET_US = (META_LASTS_S - 60) * 1_000_000
"""Longest absence in µs after which a missing meta proves that nothing was published. A minute is left for clocks."""


@dataclass(frozen=True, slots=True)
class Continued:
    """The client has missed exactly ``entries``, in this order.

    Attributes:
        is_known: Whether the log knows the cursor. Otherwise the outcome holds only if the log was read after the
            client had seen its last entry.
    """

    entries: tuple[LogEntry, ...]
    is_known: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Lost:
    """The client has missed entries that are gone. It continues from ``LogRead.last``."""

    code: Code


@dataclass(frozen=True, slots=True)
class Unread:
    """The newest entries do not tell: read the whole log."""


Outcome = Continued | Lost | Unread


def entry_id(entry: LogEntry) -> int:
    """Return the id, the key to search by."""
    return entry.id


def cut_of(read: LogRead) -> int:
    """Return the id below which all cursors are lost."""
    return 0 if read.meta is None else max(read.meta.hole, read.meta.reset)


def reach_of(read: LogRead) -> int:
    """Return the id up to which a read covers the log. A cut may be newer than the entries."""
    return max(read.last, cut_of(read))


def resumed(
    cursor: int, t_us: int, read: LogRead, *, is_lasting: bool = True, is_own_time: bool = False
) -> Outcome:
    """Return the outcome of a resume.

    Args:
        cursor: The id of the last entry that the client has seen, in Redis time; 0 if it has seen the log empty.
        t_us: Redis time up to which the client has seen everything, from the cursor; 0 if it names none.
        read: What the log has. A server may have lost its content, but not single keys.
        is_lasting: False if Redis may evict keys. Then a missing key proves nothing.
        is_own_time: Whether the time is that of this log, as a node has it. A client names one for all its logs.
    """
    meta = read.meta
    if meta is not None and cursor < meta.reset:
        return Lost("reset")
    if meta is not None and cursor < meta.hole:
        return Lost("hole")
    if not read.is_whole and cursor < read.entries[0].id:
        return Unread()
    behind = read.entries[bisect_right(read.entries, cursor, key=entry_id) :]
    if _is_known(cursor, read):
        return Continued(behind)
    # The last connection of a client may not have been in this log. It may have ended before the log had answered,
    # or within a replay. So an entry that is older than all of the content decides.
    whole_us = t_us if is_own_time or not cursor else min(t_us, cursor)
    if read.since_us is None or read.since_us >= whole_us:
        return Lost("reset")
    if is_lasting and read.at_us - t_us < QUIET_US and _has_begun_since(cursor, read):
        return Continued(behind, is_known=False)
    return Lost("trimmed" if meta is not None and cursor < meta.base else "unknown")


def _is_known(cursor: int, read: LogRead) -> bool:
    if not cursor:
        return False
    index = bisect_right(read.entries, cursor, key=entry_id)
    if index and read.entries[index - 1].id == cursor:
        return True
    meta = read.meta  # a hole tells nothing once entries behind it were dropped
    return meta is not None and cursor >= meta.base and cursor in (meta.top, meta.base, meta.hole, meta.reset)


def _has_begun_since(cursor: int, read: LogRead) -> bool:
    """Whether the log was empty at the time of the cursor, and has dropped nothing since then.

    An entry that was published later would have kept the meta, and with it the knowledge of what was dropped. Without
    a meta, the next entry gets the time as its id. So a cursor ahead of the clock would hide it from the client.
    """
    if read.meta is None:
        return cursor <= read.at_us
    return read.meta.base == 0 and all(cursor < entry.id for entry in read.entries)
