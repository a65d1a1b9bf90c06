"""Logs of messages in one process, with the bounds and expiry of the scripts in ``redis/lua``."""

import asyncio
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from ..exceptions import MessageError
from ..runtime.loops import running_loop
from ..wire.channels import ALL, Channel, box_of
from ..wire.envelopes import Envelope, pack
from .log_ports import (
    META_LASTS_S,
    NOT_TRIMMED,
    ONCE_LASTS_S,
    Append,
    Appended,
    Heard,
    LogBounds,
    LogEntry,
    LogKind,
    LogMeta,
    LogName,
    LogRead,
    Trimmed,
    Unread,
    Verdict,
)

OVER = 1.25
"""Multiple of a bound above which entries are dropped."""
TRIMMED = 127
"""Maximum number of entries dropped by one append."""
RETRY_SLACK_US = 1_000_000
"""Microseconds before the first try in which a repeated append still looks for its entry."""


@dataclass(slots=True)
class Log:
    """One log. ``expires_us`` and ``touched_us`` are those of the list, ``forgotten_us`` that of the meta.

    Attributes:
        expired: Entries that have expired since the last append, which reports them.
    """

    entries: list[LogEntry] = field(default_factory=list)
    top: int = 0
    base: int = 0
    bytes: int = 0
    hole: int = 0
    reset: int = 0
    touched_us: int = 0
    expires_us: int = 0
    forgotten_us: int = 0
    mark: int = 0
    expired: int = 0

    def expire(self, now_us: int) -> None:
        """Drop all entries if the list has expired."""
        if self.entries and self.expires_us <= now_us:
            expired = len(self.entries)
            self.clear()
            self.expired = expired

    def clear(self) -> None:
        """Drop all entries; the ids go on."""
        self.entries.clear()
        self.base, self.bytes, self.touched_us, self.expired = self.top, 0, 0, 0

    def push(self, entry: LogEntry) -> None:
        """Add the newest entry."""
        self.entries.append(entry)
        self.top, self.bytes = entry.id, self.bytes + entry.size

    def trim(self, bounds: LogBounds, now_us: int) -> Trimmed:
        """Drop the oldest entries if a bound is exceeded by a quarter."""
        dropped = [0, 0, 0]
        if self._exceeded(bounds, now_us, OVER) is None:
            return NOT_TRIMMED
        while sum(dropped) < TRIMMED and len(self.entries) > 1:
            bound = self._exceeded(bounds, now_us, 1)
            if bound is None:
                break
            oldest = self.entries.pop(0)
            self.base, self.bytes = oldest.id, self.bytes - oldest.size
            dropped[bound] += 1
        return Trimmed(*dropped)

    def _exceeded(self, bounds: LogBounds, now_us: int, factor: float) -> int | None:
        """Return the index in ``Trimmed`` of a bound that is exceeded by a factor."""
        if len(self.entries) > factor * bounds.messages:
            return 0
        if self.bytes > factor * bounds.bytes:
            return 1
        return 2 if self.entries[0].id < now_us - factor * bounds.seconds * 1_000_000 else None

    def touch(self, bounds: LogBounds, now_us: int) -> None:
        """Postpone the expiry of the list, if an eighth of its time has passed, and of the meta."""
        kept_us = bounds.seconds * 1_000_000
        if not self.touched_us or now_us - self.touched_us > kept_us / 8:
            self.touched_us, self.expires_us = now_us, now_us + int(OVER * kept_us)
        self.forgotten_us = now_us + max(META_LASTS_S * 1_000_000, 3 * kept_us)


class MemoryLogContent:
    """The logs of a hub, which are in Redis for the Redis backend."""

    def __init__(self) -> None:
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self.logs: dict[LogName, Log] = {}
        self.once: dict[tuple[LogName, str], tuple[int, int]] = {}
        """Id and expiry of each key."""
        self.policy: str = ""
        self.since_us: int | None = None

    def empty(self) -> None:
        """Lose the content. ``begin`` notes since when there is new content."""
        self.logs.clear()
        self.once.clear()
        self.policy, self.since_us = "", None

    def known(self, log: LogName, now_us: int) -> Log | None:
        """Return a log whose meta has not expired."""
        found = self.logs.get(log)
        if found is None or found.forgotten_us <= now_us:
            self.logs.pop(log, None)
            return None
        found.expire(now_us)
        return found

    def expire(self, now_us: int) -> None:
        """Remove the keys that have expired; they are in the order of their expiry."""
        while self.once and next(iter(self.once.values()))[1] <= now_us:
            del self.once[next(iter(self.once))]


Deliver = Callable[[Channel, Envelope], int]
"""Function that publishes to the nodes of a channel, and returns their number."""


class MemoryLogs:
    """``ports.LogStore``. Each call is complete when it returns."""

    def __init__(self, content: MemoryLogContent, now_us: Callable[[], int], deliver: Deliver) -> None:
        self._content, self._now_us, self._deliver = content, now_us, deliver

    def append(self, appends: Sequence[Append]) -> "list[asyncio.Future[Appended]]":
        sizes = [_size_of(each) for each in appends]
        answers: list[asyncio.Future[Appended]] = []
        for each, size in zip(appends, sizes, strict=True):
            answers.append(running_loop().create_future())
            with self._content.lock:
                answers[-1].set_result(self._append(each, size))
        return answers

    def _append(self, append: Append, size: int) -> Appended:
        now_us, content = self._now_us(), self._content
        content.expire(now_us)
        log = content.known(append.log, now_us) or Log()
        earlier = self._earlier(append, log, now_us)
        if earlier is not None:
            return earlier
        content.logs[append.log] = log
        previous, entry = log.top, max(now_us, log.top + 1)
        log.push(LogEntry(entry, append.envelope, size))
        trimmed = log.trim(append.bounds, now_us)
        if log.expired:
            trimmed, log.expired = trimmed._replace(age=trimmed.age + log.expired), 0
        log.touch(append.bounds, now_us)
        if append.key:
            content.once[append.log, append.key] = entry, now_us + ONCE_LASTS_S * 1_000_000
        nodes = self._publish(append.log, append.envelope, entry, previous)
        return Appended(entry, previous, nodes, trimmed=trimmed)

    def _earlier(self, append: Append, log: Log, now_us: int) -> Appended | None:
        if append.retry_age_s > 0:
            oldest_us = now_us - int(append.retry_age_s * 1_000_000) - RETRY_SLACK_US
            identity = append.envelope.sender, append.envelope.sequence
            for number, each in reversed(list(enumerate(log.entries))):
                if each.id < oldest_us:
                    break
                if (each.envelope.sender, each.envelope.sequence) == identity:
                    previous = log.entries[number - 1].id if number else log.base
                    return Appended(each.id, previous, 0, is_new=False)
        entry, _ = self._content.once.get((append.log, append.key), (0, 0)) if append.key else (0, 0)
        return Appended(entry, 0, 0, is_new=False) if entry else None

    def _publish(self, log: LogName, envelope: Envelope, entry: int, previous: int) -> int:
        channel = ALL if log.kind is LogKind.ALL else Channel("room", log.name)
        if log.kind is LogKind.BOX:
            channel = box_of(log.name)
        return self._deliver(channel, replace(envelope, entry=(entry, previous)))

    is_lasting = True

    def run_id_of(self, log: LogName) -> str:
        return ""

    async def read(self, log: LogName, last: int | None = None) -> LogRead:
        with self._content.lock:
            now_us, since_us = self._now_us(), self._content.since_us
            found = self._content.known(log, now_us)
            if found is None:
                return LogRead((), True, None, 0, since_us, now_us, "")
            entries = tuple(found.entries[-last:] if last else found.entries)
            meta = LogMeta(found.top, found.base, found.hole, found.reset)
            is_whole, newest = len(entries) == len(found.entries), entries[-1].id if entries else found.base
            return LogRead(entries, is_whole, meta, newest, since_us, now_us, "")

    async def after(self, log: LogName, cursor: int, limit: int) -> LogRead:
        read = await self.read(log)
        first = max(0, bisect_right(read.entries, cursor, key=lambda entry: entry.id) - 1)
        end, size = first, 0
        while end < len(read.entries) and (size < limit or end - first < 2):
            size, end = size + read.entries[end].size, end + 1
        entries = read.entries[first:end]
        return replace(
            read, entries=entries, is_whole=not entries, last=entries[-1].id if entries else read.last
        )

    async def tops(self, logs: Sequence[LogName]) -> list[int]:
        with self._content.lock:
            found = [self._content.known(log, self._now_us()) for log in logs]
            return [log.top if log else 0 for log in found]

    async def page(self, log: LogName, before: int | None, limit: int) -> list[LogEntry]:
        with self._content.lock:
            found = self._content.known(log, self._now_us())
            return [e for e in found.entries if before is None or e.id < before][-limit:] if found else []

    async def delete(self, log: LogName, notice: Envelope) -> int:
        with self._content.lock:
            found = self._content.known(log, self._now_us())
            if found is None:
                return 0
            found.clear()
            found.reset, found.mark = found.top, 0
            self._publish(log, notice, found.top, found.top)
            return found.top

    async def verify(self, log: LogName, heard: Heard, bounds: LogBounds, notice: Envelope) -> Verdict:
        with self._content.lock:
            now_us = self._now_us()
            found = self._content.known(log, now_us) or Log()
            if self._has(found, heard):
                return Verdict.KNOWN
            self._content.logs[log] = found
            missing = _behind(found.top, heard)
            if missing and not found.top:
                found.base = missing[0].id - 1  # a client may have been told that the log is empty
            for entry in missing:
                found.push(entry)
            if not missing:
                found.top = found.hole = max(found.top, heard.last) + 1  # an id that no entry has
            found.touch(bounds, now_us)
            if not missing:
                self._publish(log, notice, found.hole, found.top)
            return Verdict.RESTORED if missing else Verdict.LOST

    def _has(self, log: Log, heard: Heard) -> bool:
        if heard.last > log.top:
            return False
        entry = next((e.envelope for e in log.entries if e.id == heard.last), None)
        if entry is None:
            return heard.last == log.top or heard.last <= max(log.base, log.hole, log.reset)
        told = heard.tail[-1].envelope if heard.tail else entry
        return (entry.sender, entry.sequence) == (told.sender, told.sequence)

    async def unread(self, log: LogName) -> Unread:
        with self._content.lock:
            now_us = self._now_us()
            found = self._content.known(log, now_us) or Log()
            if found.mark:
                return Unread(found.mark, is_owed=True, at_us=now_us)
            if not found.entries:
                return Unread(found.top, is_owed=False, at_us=now_us)
            return Unread(found.base, is_owed=True, at_us=now_us)

    async def mark(self, log: LogName, entry: int, seconds: int) -> bool:
        with self._content.lock:
            found = self._content.known(log, self._now_us())
            if found is None or entry > found.top:
                return False
            found.mark = max(found.mark, entry)
            return True

    async def begin(self, policy: str) -> str:
        with self._content.lock:
            content = self._content
            content.since_us = self._now_us() if content.since_us is None else content.since_us
            content.policy = content.policy or policy
            return content.policy

    async def policy(self) -> str:
        return self._content.policy

    async def replace_policy(self, found: str, policy: str) -> str:
        with self._content.lock:
            if self._content.policy == found:
                self._content.policy = policy
            return self._content.policy


def _size_of(append: Append) -> int:
    size, limit = len(pack(append.envelope)) + 8, append.bounds.bytes
    if size > limit:
        raise MessageError(f"message has {size} bytes in its log, the limit is {limit}")
    return size


def _behind(top: int, heard: Heard) -> tuple[LogEntry, ...]:
    """Return the part of the tail that continues a log; empty if none does."""
    if heard.last <= top:
        return ()
    before = (heard.previous, *(entry.id for entry in heard.tail))
    return heard.tail[before.index(top) :] if top in before else ()
