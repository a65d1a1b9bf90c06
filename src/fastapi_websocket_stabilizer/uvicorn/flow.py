"""Flow control of one socket: a flag to wait for, and bounds on what the kernel keeps for it."""

import asyncio
import socket
from contextlib import suppress

from ..local.owner import Limits
from ..runtime.loops import running_loop

KERNEL_BUFFER_BYTES = 131_072
"""What the kernel may hold unsent for one socket (TCP_NOTSENT_LOWAT, Linux and macOS)."""


class Flag:
    """What flow control needs of ``asyncio.Event``, without 700 bytes of empty queue for each socket."""

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
    """Bound what the kernel holds for a peer that reads slowly, and how long for one that is gone."""
    if peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    silence_s = limits.heartbeat_interval + limits.heartbeat_timeout
    for option, value in (
        ("TCP_NOTSENT_LOWAT", KERNEL_BUFFER_BYTES),
        ("TCP_USER_TIMEOUT", min(int(1000 * silence_s), 2**31 - 1)),
    ):
        if hasattr(socket, option):  # neither is on every platform
            with suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
