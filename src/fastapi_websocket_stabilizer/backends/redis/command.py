"""Commands and batches of them, encoded without redis-py."""

import asyncio
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from ...runtime.loops import running_loop
from .scripts import Script
from .urls import Address

ASKING = b"*1\r\n$6\r\nASKING\r\n"
Argument = str | bytes | int


class Command:
    """One command, and the future of its reply."""

    __slots__ = (
        "asks", "count", "deadline_s", "hops", "is_idempotent", "name", "packed", "parse", "reply", "script",
        "slot",
    )  # fmt: skip

    def __init__(
        self,
        arguments: tuple[Argument, ...],
        script: Script | None,
        *,
        is_idempotent: bool,
        deadline_s: float,
        parse: Callable[[Any], Any] | None = None,
    ) -> None:
        self.name: str = script.name if script else str(arguments[0])
        self.count: int = len(arguments)
        self.packed: bytes = _pack(arguments)
        self.script: Script | None = script
        self.is_idempotent: bool = is_idempotent
        self.deadline_s: float = deadline_s
        self.parse: Callable[[Any], Any] | None = parse
        self.reply: asyncio.Future[Any] = running_loop().create_future()
        # In a cluster:
        self.slot: int | None = None
        self.asks: Address | None = None  # the server that the slot migrates to, which requires ASKING
        self.hops: int = 0

    def extend(self, *arguments: Argument) -> None:
        """Add arguments to a command that has not been sent."""
        self.count += len(arguments)
        self.packed += _pack(arguments)

    @property
    def size(self) -> int:
        return len(self.packed)

    def resolve(self, result: Any) -> None:
        if not self.reply.done():
            self.reply.set_result(self.parse(result) if self.parse else result)

    def reject(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)
            self.reply.exception()  # mark it as retrieved, otherwise asyncio warns if the caller was cancelled


def _pack(arguments: Iterable[Argument]) -> bytes:
    """Return arguments encoded in RESP, in a third of the time of redis-py's packer."""
    pieces: list[bytes] = []
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)


@cache
def _calls(script: Script) -> tuple[bytes, bytes]:
    """Return the begin of a call of a script, in full and by its hash. The source has some thousand bytes."""
    return _pack(("EVAL", script.source)), _pack(("EVALSHA", script.sha))


def join(batch: list[Command]) -> bytes:
    """Return the bytes of a batch. A script is sent in full at its first use in the batch, then by its hash.

    So the server always has the script. A hash that it lost (SCRIPT FLUSH, a restart) would need a second attempt,
    which runs after later commands. In a cluster each use is in full, because the first may have been redirected.
    """
    sent: set[str] = set()
    pieces: list[bytes] = []
    for command in batch:
        script, count, call = command.script, command.count, b""
        if script is not None:
            count += 2
            in_full, by_hash = _calls(script)
            call = by_hash if script.sha in sent else in_full
            if command.slot is None:
                sent.add(script.sha)
        if command.asks is not None:
            pieces.append(ASKING)
        pieces += (b"*%d\r\n" % count, call, command.packed)
    return b"".join(pieces)
