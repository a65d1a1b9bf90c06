"""Flow control of one socket: a flag to wait for, and bounds on its buffer in the kernel."""

import asyncio
import socket
from contextlib import suppress

from ..local.lifecycle import Limits
from ..runtime.loops import running_loop

KERNEL_BUFFER_BYTES = 131_072
"""Largest number of unsent bytes in the kernel for one socket (TCP_NOTSENT_LOWAT, Linux and macOS)."""


class Flag:
    """The part of ``asyncio.Event`` that flow control needs. Saves 700 bytes of empty queue per socket."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        return self._waiting is None

    def set(self) -> None:
        if self._waiting is not None:
            self._waiting.set_result(None)
            self._waiting = None

    def clear(self) -> None:
        if self._waiting is None:
            self._waiting = running_loop().create_future()

    async def wait(self) -> None:
        if self._waiting is not None:
            await asyncio.shield(self._waiting)


def bound_kernel_buffer(peer: socket.socket, limits: Limits) -> None:
    """Bound the kernel's buffer for a slow peer, and the time for which it retries sending to a lost peer."""
    if peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    silence_s = limits.heartbeat_interval + limits.heartbeat_timeout
    for option, value in (
        ("TCP_NOTSENT_LOWAT", KERNEL_BUFFER_BYTES),
        ("TCP_USER_TIMEOUT", min(int(1000 * silence_s), 2**31 - 1)),
    ):
        if hasattr(socket, option):  # some platforms lack one or both
            with suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
