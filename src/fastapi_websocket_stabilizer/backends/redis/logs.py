"""Logs of messages in Redis: a list of entries, and a string beside it that outlives the list.

``docs/design.md`` has the keys and formats. Redis stores and publishes in one step, in ``log_append.lua``.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from ...exceptions import BackendUnavailableError
from ...names import PARTITIONS
from ...runtime.loops import running_loop
from ...wire.envelopes import (
    Envelope,
    identity_bytes,
    pack,
    unpack,
)
from ...wire.signatures import STORED
from ..log_ports import (
    META_LASTS_S,
    Append,
    Appended,
    Heard,
    LogBounds,
    LogEntry,
    LogKind,
    LogMeta,
    LogName,
    LogRead,
    Unread,
    Verdict,
)
from . import reading, scripts
from .command import Argument
from .connection import WrongTypeError
from .guard import Signer
from .keys import Keys, slot_of
from .log_calls import ID_BYTES, Waiting, append_call, append_reply, pack_append, pack_for
from .ports import CommandConnection
from .reading import Reader

APPENDS_PER_CALL = 100
"""Messages in one script call: Redis does nothing else during it."""
BYTES_PER_CALL = 1024 * 1024
"""Bytes in one script call; a message that is longer has a call of its own."""
READS = 3
"""Attempts to read a log while servers change."""
_HEARD = struct.Struct("<4d")


Send = Callable[[list[Waiting]], None]


class Gathered:
    """The appends of one event-loop tick. ``flush_earlier`` queues them before any other command.

    Appends and direct sends are gathered apart. So an append flushes the direct sends before it, and direct sends
    that are gathered after an append are queued after it.
    """

    def __init__(self, flush_direct_sends: Callable[[], None]) -> None:
        self._flush_direct_sends = flush_direct_sends
        self._waiting: list[Waiting] = []
        self._bytes = 0
        self._send: Send | None = None
        self._is_sending = False

    def flush_earlier(self) -> None:
        """Queue what was gathered. Called before each command, also before that of the appends themselves."""
        if self._is_sending:
            return
        if self._waiting:
            self.flush()
        self._flush_direct_sends()

    def add(self, waiting: Waiting, send: Send) -> None:
        """Gather an append, to be queued by ``send``."""
        self._flush_direct_sends()  # may queue a command, and so what was gathered before
        if self._waiting and not self._has_room(len(waiting.data)):
            self.flush()
        if not self._waiting:
            running_loop().call_soon(self.flush)
        self._send = send
        self._waiting.append(waiting)
        self._bytes += len(waiting.data)

    def _has_room(self, size: int) -> bool:
        return len(self._waiting) < APPENDS_PER_CALL and self._bytes + size <= BYTES_PER_CALL

    def flush(self) -> None:
        """Queue what was gathered."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if waiting and self._send is not None:
            self._is_sending = True
            try:
                self._send(waiting)
            finally:
                self._is_sending = False


class RedisLogs:
    """``ports.LogStore``. Without ``gathers``, each call of ``append`` is queued at once."""

    def __init__(
        self,
        keys: Keys,
        pipeline: CommandConnection,
        gathered: Gathered,
        reader: Reader,
        publish_command: Callable[[], str],
        *,
        signer: Signer | None = None,
        gathers: bool = True,
    ) -> None:
        self._keys, self._pipeline, self._gathered, self._reader = keys, pipeline, gathered, reader
        self._publish_command, self._signer, self._gathers = publish_command, signer, gathers

    # Append

    def append(self, appends: Sequence[Append]) -> "list[asyncio.Future[Appended]]":
        answers: list[asyncio.Future[Appended]] = [running_loop().create_future() for _ in appends]
        try:
            packed = [pack_append(each, self._keys, self._signer) for each in appends]
        except BackendUnavailableError as error:  # Redis' time is unknown, and a signature needs it
            for answer in answers:
                _fail(answer, error)
            return answers
        for waiting in map(Waiting, appends, packed, answers):
            self._gathered.add(waiting, self._send)
        if not self._gathers:
            self._gathered.flush()
        return answers

    def _send(self, waiting: list[Waiting]) -> None:
        """Queue one call for all, or in a cluster one for each slot."""
        calls: dict[int, list[Waiting]] = {}
        for each in waiting:
            slot = 0 if self._pipeline.is_ordered else slot_of(self._keys.log(each.append.log))
            calls.setdefault(slot, []).append(each)
        for each_call in calls.values():
            keys, arguments = append_call(self._keys, self._publish_command(), each_call)
            call = self._pipeline.call(scripts.LOG_APPEND, keys, *arguments, idempotent=False)
            call.add_done_callback(partial(_appended, each_call))

    # Read

    @property
    def is_lasting(self) -> bool:
        return self._pipeline.is_lasting

    def run_id_of(self, log: LogName) -> str:
        return self._pipeline.run_id_of(self._keys.log(log))

    async def read(self, log: LogName, last: int | None = None) -> LogRead:
        for _ in range(READS):
            run_id = self.run_id_of(log)
            read = self._read_mailbox if log.kind is LogKind.BOX else self._read
            found = await read(log, last, run_id)
            if self.run_id_of(log) == run_id:
                return found
        raise BackendUnavailableError("Redis changed its server while a log was read")

    async def _read(self, log: LogName, last: int | None, run_id: str) -> LogRead:
        # If there is a list, only the meta that is read after it has everything that the list has dropped. If there
        # is none, only the meta that is read before it has the newest entry that the list can have had.
        meta_key, read = self._keys.log_top(log), self._reader.reply
        send = partial(self._pipeline.send, idempotent=True)
        first, entries_call = (
            send("GET", meta_key),
            send("LRANGE", self._keys.log(log), -last if last else 0, -1),
        )
        second, since_call, clock = send("GET", meta_key), send("GET", self._keys.since(log)), send("TIME")
        before: bytes | None = await read(first, None)
        raw: list[bytes] = await read(entries_call, [])
        after: bytes | None = await read(second, None)
        since, (seconds, microseconds) = await read(since_call, None), map(int, await clock)
        times = self._number(since), seconds * 1_000_000 + microseconds
        return self._found(log, last, raw, self._meta(after if raw else before), times, run_id)

    def _found(
        self,
        log: LogName,
        last: int | None,
        raw: Sequence[bytes],
        meta: LogMeta | None,
        times: tuple[int | None, int],
        run_id: str,
    ) -> LogRead:
        """Return the answer to a read, with the times since and at which it holds."""
        entries, base = self._entries(log, raw)
        if raw and meta is None:  # a list of another origin, which the next append replaces
            base = entries[-1].id if entries else base
            entries, meta = [], LogMeta(top=base)
        if meta is not None:
            meta = replace(meta, base=max(meta.base, base) if raw else meta.top)
        newest = entries[-1].id if entries else meta.base if meta else 0
        is_whole = not last or len(raw) < last or len(entries) < len(raw)
        return LogRead(tuple(entries), is_whole, meta, newest, *times, run_id)

    async def after(self, log: LogName, cursor: int, limit: int) -> LogRead:
        run_id = self.run_id_of(log)
        keys = [self._keys.log(log), self._keys.log_top(log), self._keys.since(log)]
        at_us, meta, since, raw = await self._pipeline.call(
            scripts.LOG_AFTER, keys, cursor, limit, idempotent=True
        )
        if self.run_id_of(log) != run_id:
            raise BackendUnavailableError("Redis changed its server while a log was read")
        times = self._number(since or None), at_us
        return self._found(log, len(raw), raw, self._meta(meta or None), times, run_id)

    async def tops(self, logs: Sequence[LogName]) -> list[int]:
        calls = [self._pipeline.send("GET", self._keys.log_top(log), idempotent=True) for log in logs]
        found = [self._meta(await self._reader.reply(call, None)) for call in calls]
        return [meta.top if meta else 0 for meta in found]

    async def page(self, log: LogName, before: int | None, limit: int) -> list[LogEntry]:
        size, is_whole = limit, False
        found: list[LogEntry] = []
        # Positions from the end shift with each append, so each attempt begins at the end again.
        while len(found) < limit and not is_whole:
            call = self._pipeline.send("LRANGE", self._keys.log(log), -size, -1, idempotent=True)
            raw: list[bytes] = await self._reader.reply(call, [])
            is_whole, size = len(raw) < size, 2 * size
            found = [e for e in self._entries(log, raw)[0] if before is None or e.id < before]
        return found[-limit:]

    def _entries(self, log: LogName, raw: Sequence[bytes]) -> tuple[list[LogEntry], int]:
        """Return the entries behind the last one that cannot be read, and the id of that one; 0 without any."""
        unpacked = partial(self._unpacked, log)
        found: list[LogEntry] = []
        base = last = 0
        for data in raw:
            last = max(last, reading.entry_id(data))
            entry = self._reader.each(unpacked, [data], 1)
            if entry and entry[0].id == last and (not found or last > found[-1].id):
                found += entry
            else:
                found, base = [], last
        return found, base

    def _unpacked(self, log: LogName, data: bytes) -> LogEntry:
        if self._signer is None:
            envelope = unpack(data[ID_BYTES:])
        else:  # its stamp is not checked: what is stored is old
            channel = (self._keys.log_channel(log) + STORED).encode()
            envelope = self._signer.keyring.unpack(channel, data[ID_BYTES:])[0]
        if not log.has(envelope):
            raise ValueError("an entry of another log")
        return LogEntry(reading.entry_id(data), envelope, len(data))

    def _meta(self, data: bytes | None) -> LogMeta | None:
        found = self._reader.each(reading.log_meta, [] if data is None else [data], 1)
        return LogMeta(*found[0]) if found else None

    def _number(self, data: bytes | None) -> int | None:
        found = self._reader.each(int, [] if data is None else [data], 1)
        return found[0] if found else None

    # Delete, verify, begin

    async def delete(self, log: LogName, notice: Envelope) -> int:
        keys, arguments = self._to_publish(log, notice)
        if log.kind is LogKind.BOX:
            keys.append(self._keys.box_mark(log.name))
        return int(await self._pipeline.call(scripts.LOG_DELETE, keys, *arguments, idempotent=False))

    async def verify(self, log: LogName, heard: Heard, bounds: LogBounds, notice: Envelope) -> Verdict:
        keys, arguments = self._to_publish(log, notice)
        length = identity_bytes(heard.tail[-1].envelope) if heard.tail else 0
        arguments.append(_HEARD.pack(heard.last, heard.previous, bounds.seconds * 1_000_000, length))
        packed = (pack_for(log, e.envelope, self._keys, self._signer) for e in heard.tail)
        arguments += [e.id.to_bytes(ID_BYTES) + data for e, data in zip(heard.tail, packed, strict=True)]
        restored, _ = await self._pipeline.call(scripts.LOG_VERIFY, keys, *arguments, idempotent=True)
        if restored:
            return Verdict.RESTORED if restored > 0 else Verdict.LOST
        return Verdict.KNOWN

    def _to_publish(self, log: LogName, notice: Envelope) -> tuple[list[str], list[Argument]]:
        channel, signer = self._keys.log_channel(log), self._signer
        data = pack(notice) if signer is None else signer.pack(notice, channel + STORED)
        return [self._keys.log(log), self._keys.log_top(log)], [self._publish_command(), channel, data]

    # Mailboxes

    def _mailbox(
        self, log: LogName, last: int
    ) -> "asyncio.Future[tuple[int, bytes, bytes, bytes, list[bytes]]]":
        keys = [
            self._keys.box_mark(log.name),
            self._keys.log(log),
            self._keys.log_top(log),
            self._keys.since(log),
        ]
        return self._pipeline.call(scripts.MAILBOX_READ, keys, -last, idempotent=True)

    async def _read_mailbox(self, log: LogName, last: int | None, run_id: str) -> LogRead:
        at_us, _, meta, since, raw = await self._mailbox(log, last or 0)
        times = self._number(since or None), at_us
        return self._found(log, last, raw, self._meta(meta or None), times, run_id)

    async def unread(self, log: LogName) -> Unread:
        at_us, mark, meta, _, raw = await self._mailbox(log, 1)
        position, found = self._number(mark or None) or 0, self._meta(meta or None) or LogMeta(0)
        if 0 < position <= (found.top or at_us):  # otherwise it is foreign, or of entries that are lost
            return Unread(position, is_owed=True, at_us=at_us)
        if not raw:
            return Unread(found.top, is_owed=False, at_us=at_us)
        return Unread(found.base, is_owed=True, at_us=at_us)

    async def mark(self, log: LogName, entry: int, seconds: int) -> bool:
        keys = [self._keys.box_mark(log.name), self._keys.log_top(log)]
        lasts_ms = 1000 * max(META_LASTS_S, 3 * seconds)
        call = self._pipeline.call(scripts.MAILBOX_MARK, keys, entry, lasts_ms, idempotent=True)
        return bool(await call)

    async def begin(self, policy: str) -> str:
        keys = [
            self._keys.since_of(tag) for tag in (*map("{:02x}".format, range(PARTITIONS)), self._keys.all)
        ]
        groups = [keys] if self._pipeline.is_ordered else [[key] for key in keys]
        calls = [self._pipeline.call(scripts.LOG_BEGIN, group, idempotent=True) for group in groups]
        for call in calls:
            await call
        agreed: bytes = await self._pipeline.call(scripts.AGREE, [self._keys.policy], policy, idempotent=True)
        await self._check_permissions()
        return agreed.decode(errors="replace")

    async def _check_permissions(self) -> None:
        """Fail now rather than at the first append, which is a script. The policy is text, so no command changes it.

        Raises:
            ConfigurationError: The user lacks the permission to store messages.
        """
        text, missing = self._keys.policy, self._keys.once(LogName(LogKind.ALL), "")
        tried = (
            ("RPUSH", text, ""),
            ("LTRIM", text, "0", "-1"),
            ("LRANGE", text, "0", "0"),
            ("PEXPIRE", missing, "1"),
        )
        for call in [self._pipeline.send(*words, idempotent=True) for words in tried]:
            with suppress(WrongTypeError):
                await call

    async def policy(self) -> str:
        found: bytes | None = await self._reader.reply(
            self._pipeline.send("GET", self._keys.policy, idempotent=True), None
        )
        return (found or b"").decode(errors="replace")

    async def replace_policy(self, found: str, policy: str) -> str:
        call = self._pipeline.call(
            scripts.LOG_POLICY_REPLACE, [self._keys.policy], found, policy, idempotent=True
        )
        stored: bytes = await call
        return stored.decode(errors="replace")


def _appended(waiting: list[Waiting], call: "asyncio.Future[list[int]]") -> None:
    """Give each caller its part of the reply; a cancelled one needs none."""
    error = call.exception()
    if error is not None:
        for each in waiting:
            _fail(each.answer, error)
        return
    for each, appended in zip(waiting, append_reply(call.result(), len(waiting)), strict=True):
        if not each.answer.done():
            each.answer.set_result(appended)


def _fail(answer: "asyncio.Future[Appended]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # mark it as retrieved, otherwise asyncio warns if the caller was cancelled
