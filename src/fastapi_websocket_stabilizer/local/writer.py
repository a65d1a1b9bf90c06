"""Writing to one socket that is slow: what waits for it, the task that writes it, and the steps of a send.

A socket that keeps up never has a writer.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future as ThreadFuture
from contextlib import suppress
from types import coroutine
from typing import Any, Protocol, TypeAlias

from ..names import ConnectionId
from ..wire.messages import Encoded
from .lifecycle import HOPELESS, Ended, Limits
from .outbox import Outbox, Put
from .transport import Transport

Confirmation: TypeAlias = ThreadFuture[str | None]
DROPPED = "dropped: outbox is full"


class Sent:
    """What became of one message: taken or not, and perhaps a word that is still to come."""

    __slots__ = ("error", "pending")

    def __init__(self, error: str | None = None, pending: Confirmation | None = None) -> None:
        self.error: str | None = error
        self.pending: Confirmation | None = pending


TAKEN = Sent()


class SendLimiter:
    """Bounds the sends that are suspended on this node (``max_concurrent_broadcast``).

    A caller that comes when it is full is called when one of them has ended.

    Attributes:
        deferred: How often somebody had to wait.
    """

    __slots__ = ("_busy", "_limit", "_lock", "_waiting", "deferred")

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._busy = 0
        self._lock = threading.Lock()  # sockets of one manager may live on several loops (TestClient)
        self._waiting: deque[Callable[[], None]] = deque()  # at most one per connection
        self.deferred: int = 0

    def is_open(self) -> bool:
        return self._busy < self._limit()

    def wait(self, call: Callable[[], None]) -> None:
        self.deferred += 1
        self._waiting.append(call)

    def enter(self) -> None:
        with self._lock:
            self._busy += 1

    def leave(self) -> None:
        with self._lock:
            self._busy -= 1
        while self._waiting and self.is_open():
            self._waiting.popleft()()


class Sink(Protocol):
    """The connection that a writer writes for."""

    connection_id: ConnectionId
    loop: asyncio.AbstractEventLoop
    ended: Ended | None
    error: str
    is_open: bool
    patience_s: float

    def lost(self, why: Ended, error: str) -> None:
        """End: nothing more can be written."""
        ...

    def failed(self, error: BaseException) -> object:
        """End: a write raised."""
        ...

    def use_fast_path(self) -> None:
        """Everything is written: the next message need not wait in the outbox."""
        ...


class WriterOwner(Protocol):
    """The node that owns a writer: its settings, its bound, its counters."""

    limiter: SendLimiter

    def limits(self) -> Limits:
        """The settings in force now."""
        ...

    def wrote(self, messages: int) -> None: ...

    def dropped(self, messages: int) -> None: ...


class SocketWriter:
    """The outbox of one connection, and the writer that empties it in order."""

    __slots__ = ("_outbox", "_owner", "_settled", "_sink", "_task", "_thread", "_transport")

    def __init__(self, sink: Sink, owner: WriterOwner, transport: Transport) -> None:
        limits = owner.limits()
        self._sink, self._owner, self._transport = sink, owner, transport
        self._outbox = Outbox(limits.outbox_size, limits.outbox_policy)
        self._settled: Confirmation | None = None  # when everything queued was written
        self._thread = threading.get_ident()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._outbox)

    @property
    def is_writing(self) -> bool:
        """Whether something is queued or on its way."""
        return self._task is not None or bool(self._outbox)

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
            self._sink.lost(Ended.SLOW, f"outbox over {limit} bytes")
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
                self._sink.loop.call_soon_threadsafe(self.start)
        elif self._outbox and self._task is None and self._sink.ended is None:
            self.write_after(None)

    def write_after(self, first: Awaitable[None] | None) -> None:
        """Finish ``first``, then empty the outbox."""
        self._owner.limiter.enter()
        name = f"write-{self._sink.connection_id}"
        self._task = self._sink.loop.create_task(self._write(first), name=name)
        # Not in a finally: a task that is cancelled before its first step runs none of its body.
        self._task.add_done_callback(self._writer_ended)

    async def _write(self, first: Awaitable[None] | None) -> None:
        deadline_s, sink = self._owner.limits().write_timeout_s, self._sink
        try:
            if first is not None:
                await self._transport.complete(first, deadline_s)
            await self._transport.drained()
            while self._outbox and sink.ended not in (Ended.FAILED, Ended.GONE):
                await self._transport.complete(self._transport.send(self._outbox.pop()), deadline_s)
                await self._transport.drained()
        except TimeoutError:
            sink.lost(Ended.SLOW, f"took nothing for write_timeout_s={deadline_s:g}")
        except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
            sink.failed(error)

    def _writer_ended(self, _: "asyncio.Task[None]") -> None:
        self._task = None
        self._owner.limiter.leave()
        if self._outbox and self._sink.ended is None:  # pushed after the writer's last look
            self.start()
        else:
            self._sink.use_fast_path()
            self._settle(is_written=not self._outbox)

    def _settle(self, *, is_written: bool) -> None:
        if self._settled is not None:
            settled, self._settled = self._settled, None
            is_lost = self._sink.ended in HOPELESS or not is_written
            error = self._sink.error or "the connection ended before it was written"
            settled.set_result(error if is_lost else None)

    async def settled(self) -> str | None:
        """Return once all that waits was written; the error if the connection ended before."""
        if self._settled is None:
            self._settled = ThreadFuture()
        return await asyncio.shield(asyncio.wrap_future(self._settled))

    async def flush_patiently(self, deadline: asyncio.Timeout) -> None:
        """Write what is left before a close, which waits for a slow peer as long as that takes something."""
        sink, patience_s = self._sink, self._sink.patience_s
        close_timeout_s = self._owner.limits().close_timeout_s
        if not self.is_writing or patience_s <= close_timeout_s:
            await self.flush()
            return
        deadline.reschedule(sink.loop.time() + patience_s)
        await self.flush()
        if sink.error:  # it took nothing any more
            deadline.reschedule(sink.loop.time() + close_timeout_s)

    async def flush(self) -> None:
        """Write what is left before a close, unless the socket takes nothing any more."""
        is_hopeless = self._sink.ended in HOPELESS
        if self._task is None and self._outbox and self._sink.is_open and not is_hopeless:
            self.write_after(None)  # it had waited for the limiter
        if self._task is not None:
            if is_hopeless:
                self._task.cancel()
            await asyncio.wait([self._task])

    def is_written_by(self, task: "asyncio.Task[None] | None") -> bool:
        return self._task is task

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def drop(self) -> None:
        """Forget what was not written."""
        is_written = not self.is_writing
        self.cancel()
        self._owner.dropped(len(self._outbox))
        self._outbox.clear()
        self._settle(is_written=is_written)


async def settled(confirmation: Confirmation, limits: Limits) -> str | None:
    """Wait for a pending word about a message; one that does not come within the deadline is an error."""
    try:
        async with asyncio.timeout(limits.write_timeout_s + limits.close_timeout_s):
            return await asyncio.shield(asyncio.wrap_future(confirmation))
    except TimeoutError:
        return f"no word within {limits.write_timeout_s:g} s"


def hand_over(loop: asyncio.AbstractEventLoop, push: Callable[[], Sent], lost: Callable[[str], None]) -> Sent:
    """Have ``push`` called in the thread of ``loop``; its outcome is pending. ``lost`` when that loop is closed.

    In memory mode a manager may serve sockets of several event loops.
    """
    answer: Confirmation = ThreadFuture()

    def push_there() -> None:
        try:
            sent = push()
        except Exception as error:  # noqa: BLE001 - the call that waits in another thread needs an answer
            sent = Sent(str(error) or type(error).__name__)
        if sent.pending is None:
            answer.set_result(sent.error)
        else:
            sent.pending.add_done_callback(lambda pending: answer.set_result(pending.result()))

    try:
        loop.call_soon_threadsafe(push_there)
    except RuntimeError:  # closed, and its sockets with it
        lost("its event loop is closed")
        return Sent("its event loop is closed")
    return Sent(pending=answer)


@coroutine
def resume_coroutine(send: Coroutine[Any, Any, None], waiting_for: Any) -> Generator[Any, Any, None]:
    """Finish a coroutine that was stepped once by hand and then waited for something."""
    while True:
        try:
            value = yield waiting_for
        except BaseException as thrown:  # noqa: BLE001 - a cancellation belongs to the coroutine, too
            error: BaseException | None = thrown
        else:
            error = None
        try:
            waiting_for = send.send(value) if error is None else send.throw(error)
        except StopIteration:
            return
