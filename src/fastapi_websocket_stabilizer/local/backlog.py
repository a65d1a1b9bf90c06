"""What waits for one slow socket, and the task that writes it. A socket that keeps up never has one."""

import asyncio
import threading
from collections.abc import Awaitable
from concurrent.futures import Future as ThreadFuture
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from ..wire.messages import Encoded
from .outbox import Outbox, Put
from .owner import HOPELESS, Ended, Limits, Owner
from .transport import Transport

if TYPE_CHECKING:
    from .connection import Connection

Outcome: TypeAlias = ThreadFuture[str | None]
DROPPED = "dropped: outbox is full"


class Sent:
    """What became of one message: taken or not, and perhaps a word that is still to come."""

    __slots__ = ("error", "pending")

    def __init__(self, error: str | None = None, pending: Outcome | None = None) -> None:
        self.error: str | None = error
        self.pending: Outcome | None = pending


TAKEN = Sent()


class Backlog:
    """The outbox of one connection, and the writer that empties it in order."""

    __slots__ = ("_connection", "_outbox", "_owner", "_settled", "_thread", "_transport", "_writer")

    def __init__(self, connection: "Connection", owner: Owner, transport: Transport) -> None:
        limits = owner.limits()
        self._connection, self._owner, self._transport = connection, owner, transport
        self._outbox = Outbox(limits.outbox_size, limits.outbox_policy)
        self._settled: Outcome | None = None  # when everything queued was written
        self._thread = threading.get_ident()
        self._writer: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._outbox)

    @property
    def is_writing(self) -> bool:
        """Whether something is queued or on its way."""
        return self._writer is not None or bool(self._outbox)

    @property
    def queued_bytes(self) -> int:
        return self._outbox.queued_bytes

    def put(self, message: Encoded) -> Sent:
        """Queue a message, or do what the policy says."""
        dropped = self._outbox.dropped
        put = self._outbox.put(message)
        self._owner.dropped(self._outbox.dropped - dropped)
        if put is Put.OVERFLOW:
            limit = self._owner.limits().outbox_size
            self._owner.lost(self._connection, Ended.SLOW, f"outbox over {limit} bytes")
            return Sent(f"slow consumer: outbox over {limit} bytes")
        return self.taken() if put is Put.TAKEN else Sent(DROPPED)

    def taken(self) -> Sent:
        """The answer for a message that is queued or on its way."""
        self._owner.wrote(1)
        if not self._transport.awaited:
            return TAKEN
        if self._settled is None:
            self._settled = ThreadFuture()
        return Sent(pending=self._settled)

    def start(self) -> None:
        """Begin to empty the outbox; from any thread."""
        if threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # its loop is closed
                self._connection.loop.call_soon_threadsafe(self.start)
        elif self._outbox and self._writer is None and self._connection.ended is None:
            self.write_after(None)

    def write_after(self, first: Awaitable[None] | None) -> None:
        """Finish ``first``, then empty the outbox."""
        self._owner.gate.enter()
        name = f"write-{self._connection.connection_id}"
        self._writer = self._connection.loop.create_task(self._write(first), name=name)
        # Not in a finally: a task that is cancelled before its first step runs none of its body.
        self._writer.add_done_callback(self._writer_ended)

    async def _write(self, first: Awaitable[None] | None) -> None:
        deadline_s, connection = self._owner.limits().write_timeout_s, self._connection
        try:
            if first is not None:
                await self._transport.complete(first, deadline_s)
            await self._transport.drained()
            while self._outbox and connection.ended not in (Ended.FAILED, Ended.GONE):
                await self._transport.complete(self._transport.send(self._outbox.pop()), deadline_s)
                await self._transport.drained()
        except TimeoutError:
            self._owner.lost(connection, Ended.SLOW, f"took nothing for write_timeout_s={deadline_s:g}")
        except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
            connection.failed(error)

    def _writer_ended(self, _: "asyncio.Task[None]") -> None:
        self._writer = None
        self._owner.gate.leave()
        if self._outbox and self._connection.ended is None:  # pushed after the writer's last look
            self.start()
        else:
            self._connection.use_line()
            self._settle(is_written=not self._outbox)

    def _settle(self, *, is_written: bool) -> None:
        if self._settled is not None:
            settled, self._settled = self._settled, None
            is_lost = self._connection.ended in HOPELESS or not is_written
            error = self._connection.error or "the connection ended before it was written"
            settled.set_result(error if is_lost else None)

    async def settled(self) -> str | None:
        """Return once all that waits was written; the error if the connection ended before."""
        if self._settled is None:
            self._settled = ThreadFuture()
        return await asyncio.shield(asyncio.wrap_future(self._settled))

    async def flush_patiently(self, deadline: asyncio.Timeout) -> None:
        """Write what is left before a close, which waits for a slow peer as long as that takes something."""
        connection, patience_s = self._connection, self._connection.patience_s
        close_timeout_s = self._owner.limits().close_timeout_s
        if not self.is_writing or patience_s <= close_timeout_s:
            await self.flush()
            return
        deadline.reschedule(connection.loop.time() + patience_s)
        await self.flush()
        if connection.error:  # it took nothing any more
            deadline.reschedule(connection.loop.time() + close_timeout_s)

    async def flush(self) -> None:
        """Write what is left before a close, unless the socket takes nothing any more."""
        is_hopeless = self._connection.ended in HOPELESS
        if self._writer is None and self._outbox and self._connection.is_open and not is_hopeless:
            self.write_after(None)  # it had waited for the gate
        if self._writer is not None:
            if is_hopeless:
                self._writer.cancel()
            await asyncio.wait([self._writer])

    def is_written_by(self, task: "asyncio.Task[None] | None") -> bool:
        return self._writer is task

    def cancel(self) -> None:
        if self._writer is not None:
            self._writer.cancel()

    def drop(self) -> None:
        """Forget what was not written."""
        is_written = not self.is_writing
        self.cancel()
        self._owner.dropped(len(self._outbox))
        self._outbox.clear()
        self._settle(is_written=is_written)


async def settled(outcome: Outcome, limits: Limits) -> str | None:
    """Wait for a pending word about a message; one that does not come within the deadline is an error."""
    try:
        async with asyncio.timeout(limits.write_timeout_s + limits.close_timeout_s):
            return await asyncio.shield(asyncio.wrap_future(outcome))
    except TimeoutError:
        return f"no word within {limits.write_timeout_s:g} s"
