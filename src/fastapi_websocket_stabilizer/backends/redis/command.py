"""One command as it is sent, and a batch of them; no redis-py in it."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from ...runtime.loops import running_loop
from .scripts import Script
from .urls import Address

ASKING = b"*1\r\n$6\r\nASKING\r\n"
Argument = str | bytes | int


class Command:
    """One command and whoever waits for its reply."""

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
        self.asks: Address | None = None  # the server that the slot is moving to; it must be told ASKING
        self.hops: int = 0

    @property
    def size(self) -> int:
        return len(self.packed)

    def resolve(self, result: Any) -> None:
        if not self.reply.done():
            self.reply.set_result(self.parse(result) if self.parse else result)

    def reject(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)
            self.reply.exception()  # a caller that was cancelled will never ask; that is no leak to warn of


def _pack(arguments: Iterable[Argument]) -> bytes:
    """Return arguments as RESP says them; redis-py's packer takes three times as long."""
    pieces: list[bytes] = []
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)


def join(batch: list[Command]) -> bytes:
    """Return what to send: a script in full at its first use in the batch, and by its hash after that.

    So the server always knows it. Were a hash unknown (SCRIPT FLUSH, a restart), the command would have to be
    sent again, behind those that were queued after it. In a cluster it is always sent in full: the first may
    have been redirected, and then nobody has loaded it.
    """
    sent: set[str] = set()
    pieces: list[bytes] = []
    for command in batch:
        script, count, call = command.script, command.count, b""
        if script is not None:
            count += 2
            call = _pack(("EVALSHA", script.sha) if script.sha in sent else ("EVAL", script.source))
            if command.slot is None:
                sent.add(script.sha)
        if command.asks is not None:
            pieces.append(ASKING)
        pieces += (b"*%d\r\n" % count, call, command.packed)
    return b"".join(pieces)
