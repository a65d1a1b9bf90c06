"""The stored content of a log, read and replaced past its port: lost tails, old entries, foreign keys."""

import struct
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastapi_websocket_stabilizer.backends.log_ports import LogEntry, LogName
from fastapi_websocket_stabilizer.backends.memory import MemoryBackend
from fastapi_websocket_stabilizer.backends.memory_logs import Log
from fastapi_websocket_stabilizer.backends.ports import Backend
from fastapi_websocket_stabilizer.backends.redis import RedisBackend
from fastapi_websocket_stabilizer.backends.redis.connection import NotPermittedError
from fastapi_websocket_stabilizer.backends.redis.keys import Keys

LONG_MS = 3_600_000
FIELDS = ("top", "base", "bytes", "count", "first", "hole", "reset", "touched")


@dataclass
class Content:
    """Entries as (id, what is stored), and the meta by name."""

    entries: list[tuple[int, Any]] = field(default_factory=list)
    meta: dict[str, int] = field(default_factory=dict)

    def shifted(self, by_us: int) -> "Content":
        """Return the same content, as if it had been stored ``by_us`` later."""
        times = ("top", "base", "first", "hole", "reset", "touched")
        meta = {name: value + by_us * (name in times and value > 0) for name, value in self.meta.items()}
        return Content([(number + by_us, data) for number, data in self.entries], meta)


class Inside:
    """The content of one backend."""

    def __init__(self, backend: Backend, namespace: str) -> None:
        self._backend, self._keys = backend, Keys(namespace)

    @property
    def has_keys(self) -> bool:
        return isinstance(self._backend, RedisBackend)

    def send(self, *words: Any) -> Awaitable[Any]:
        """Send a command with the permissions of the backend."""
        assert isinstance(self._backend, RedisBackend)
        return self._backend._pipeline.send(*words, idempotent=True)

    def key(self, log: LogName) -> str:
        return self._keys.log(log)

    def meta_key(self, log: LogName) -> str:
        return self._keys.log_top(log)

    def mark_key(self, mailbox: LogName) -> str:
        return self._keys.box_mark(mailbox.name)

    async def lasts_ms(self, key: str) -> int:
        """Return the milliseconds until a key expires."""
        try:
            return int(await self.send("PTTL", key))
        except NotPermittedError:
            pytest.skip("the documented permissions have no PTTL")

    async def content(self, log: LogName) -> Content:
        if isinstance(self._backend, MemoryBackend):
            return self._of_memory(log)
        raw = await self.send("LRANGE", self.key(log), 0, -1)
        meta = await self.send("GET", self.meta_key(log))
        numbers = map(int, struct.unpack("<8d", meta)) if meta else ()
        entries = [(int.from_bytes(each[:8]), each[8:]) for each in raw]
        return Content(entries, dict(zip(FIELDS, numbers, strict=False)))

    def _of_memory(self, log: LogName) -> Content:
        assert isinstance(self._backend, MemoryBackend)
        found = self._backend.logs._content.logs.get(log)
        if found is None:
            return Content()
        numbers = found.top, found.base, found.bytes, len(found.entries)
        first = found.entries[0].id if found.entries else 0
        meta = dict(zip(FIELDS, (*numbers, first, found.hole, found.reset, found.touched_us), strict=True))
        return Content([(each.id, each) for each in found.entries], meta)

    async def put(self, log: LogName, content: Content) -> None:
        """Replace the content of a log, as a failover or a restore does."""
        if isinstance(self._backend, MemoryBackend):
            self._put_in_memory(log, content)
            return
        await self.send("UNLINK", self.key(log))
        await self.send("UNLINK", self.meta_key(log))
        for number, data in content.entries:
            await self.send("RPUSH", self.key(log), number.to_bytes(8) + data)
        if content.meta:
            meta = struct.pack("<8d", *content.meta.values())
            await self.send("SET", self.meta_key(log), meta, "PX", LONG_MS)

    def _put_in_memory(self, log: LogName, content: Content) -> None:
        assert isinstance(self._backend, MemoryBackend)
        stored, until_us = self._backend.logs._content.logs, self._backend._hub.now_us() + LONG_MS * 1000
        stored.pop(log, None)
        if content.meta:
            m = content.meta
            entries = [LogEntry(number, data.envelope, data.size) for number, data in content.entries]
            stored[log] = Log(
                entries,
                m["top"],
                m["base"],
                m["bytes"],
                m["hole"],
                m["reset"],
                m["touched"],
                until_us,
                until_us,
            )

    async def expire_list(self, log: LogName) -> None:
        """Let the list expire, but not the meta."""
        if isinstance(self._backend, MemoryBackend):
            self._backend.logs._content.logs[log].expires_us = 0
        else:
            await self.send("UNLINK", self.key(log))
