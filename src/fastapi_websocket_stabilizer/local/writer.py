"""The writing half of one connection, from its accept to its close.

``SocketWriter`` owns the phase of a connection, and everything that depends on it. That is the fast path, the outbox,
the task that empties it, and the deadline of the close.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from functools import partial

from ..close_codes import NO_STATUS, fitting
from ..runtime.loops import running_loop
from ..wire.messages import WITH_ADDRESS, Encoded, Series, each_of
from .lifecycle import HOPELESS, Ended, denial, patience_s
from .outbox import Outbox, Put
from .phase import (
    CLOSED,
    CLOSING,
    CONNECTING,
    DIRECT,
    ENDED,
    ENDED_EARLY,
    QUEUED,
    RELEASED,
    Phase,
    Sink,
    WriterOwner,
)
from .sends import DROPPED, TAKEN, Confirmation, Sent, first_step, hand_over
from .transport import NativeSocket, Transport

AT_ONCE_BYTES = 16 * 1024
"""First frames of a native socket that are written without a task."""


class SocketWriter:
    """Writes to one socket, in order, without making a caller wait for the peer. Closes the socket once.

    The phases:

        CONNECTING --accept--> DIRECT, QUEUED --end--> ENDED --finish--> CLOSING --> CLOSED
        CONNECTING --end--> ENDED_EARLY --accept--> ENDED
        DIRECT <--> QUEUED

    ``let_go`` leads from any of them to RELEASED. All methods except ``hand_over`` run on the loop of the sink.

    A socket of ``stabilizer.v1`` (``has_session``) was accepted before. ``begin`` takes the place of its accept, so
    nothing precedes its first frame. Its messages are written with their address.

    Attributes:
        phase: What happens to the next message.
        ended: Why the connection has ended; None before ``end``.
        error: Why nothing more can be written, or "".
        fast_path: The native socket while prepared frames may be written to it, past ASGI. Only in DIRECT.
        window_bits: Window of the deflate on the fast path; 0 for none.
    """

    __slots__ = (
        "_deadline", "_first", "_has_session", "_outbox", "_over", "_owner", "_settled", "_sink", "_task",
        "_transport", "ended", "error", "fast_path", "phase", "window_bits",
    )  # fmt: skip

    def __init__(self, sink: Sink, owner: WriterOwner, transport: Transport, *, has_session: bool) -> None:
        self._sink, self._owner, self._transport = sink, owner, transport
        self._has_session = has_session
        self.phase: Phase = CONNECTING
        self.ended: Ended | None = None
        self.error: str = ""
        self.fast_path: NativeSocket | None = None
        self.window_bits: int = 0
        self._outbox: Outbox | None = None
        self._first: deque[Encoded] | None = None  # frames before those of the outbox
        self._task: asyncio.Task[None] | None = None
        self._settled: Confirmation | None = None  # when everything that is queued now was written
        self._deadline: asyncio.Timeout | None = None  # of the close
        self._over: asyncio.Future[None] | None = None  # while a call waits for the end of the close

    # Messages

    def push(self, message: Encoded) -> Sent:
        """Write a message or queue it."""
        native = self.fast_path
        if native is not None:
            try:
                native.write_soon(message.frame(self.window_bits))
            except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
                return self.failed(error)
            self._owner.counters.sent(1, message.size)
            return TAKEN
        if self.phase is DIRECT:
            if self._owner.limiter.is_open():
                return self._send(message)
            self.phase = QUEUED
            self._owner.limiter.wait(self._start)
        if self.ended is not None:
            return Sent(f"connection has ended: {self.ended.value}")
        return self._put(message)

    def hand_over(self, message: Encoded) -> Sent:
        """Push from the thread of another event loop; the result is pending."""
        return hand_over(self._sink.loop, partial(self.push, message), partial(self._lose, Ended.FAILED))

    def write(self, frames: bytes) -> bool:
        """Write prepared frames to the native socket now. Return False if the socket failed."""
        try:
            if self.fast_path is not None:
                self.fast_path.write_now(frames)
        except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
            self.failed(error)
            return False
        return True

    def failed(self, error: BaseException) -> Sent:
        """End the connection because a write raised."""
        text = str(error) or type(error).__name__
        if self._transport.is_disconnect(error):
            self.error = text
            self._sink.gone(text)
        else:
            self._lose(Ended.FAILED, text)
        return Sent(text)

    def _lose(self, why: Ended, error: str) -> None:
        self.error = error
        self._sink.lost(why, error)

    def _send(self, message: Encoded) -> Sent:
        try:
            rest = first_step(self._transport.send(message))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - nothing is awaited: the socket failed
            return self.failed(error)
        if rest is None:
            self._owner.counters.sent(1, message.size)
            return TAKEN
        self._queue_behind(rest)
        return self._taken(message)

    def _put(self, message: Encoded) -> Sent:
        """Queue a message, or apply the policy of a full outbox."""
        if self._outbox is None:
            limits = self._owner.limits()
            # A client with a session must miss no entry without a word. It comes back for what it has not read.
            self._outbox = Outbox(limits.outbox_size, "close" if self._has_session else limits.outbox_policy)
        dropped = self._outbox.dropped
        put = self._outbox.put(message, is_stored=self._has_session and message.address.id > 0)
        self._owner.counters.messages_dropped += self._outbox.dropped - dropped
        if put is Put.OVERFLOW:
            error = f"outbox over {self._owner.limits().outbox_size} bytes"
            self._lose(Ended.SLOW, error)
            return Sent(f"slow consumer: {error}")
        return self._taken(message) if put is Put.TAKEN else Sent(DROPPED)

    def _taken(self, message: Encoded) -> Sent:
        """Return the result for a message that is queued or being sent."""
        self._owner.counters.sent(1, message.size)
        return Sent(pending=self._settlement()) if self._transport.awaited else TAKEN

    # The socket and its outbox

    @property
    def is_writing(self) -> bool:
        """Whether a message is queued or being sent."""
        return self._task is not None or bool(self._outbox)

    @property
    def queued_bytes(self) -> int:
        """Bytes in the outbox."""
        return 0 if self._outbox is None else self._outbox.queued_bytes

    def opened(self) -> None:
        """Note that the socket was accepted."""
        if self.phase is CONNECTING:
            self._proceed()
        elif self.phase is ENDED_EARLY:
            self.phase = ENDED

    def begin(self, frames: Iterable[Encoded | Series]) -> bool:
        """Open a socket that has a session: write ``frames``, and then what was pushed before.

        They do not count as bytes of the outbox, because they are shared, and written as fast as the peer reads.
        Return False if the connection has ended.
        """
        if self.phase is not CONNECTING:
            return False
        first, native = tuple(frames), self._transport.native
        if (
            native is None
            or not native.is_open
            or native.is_paused
            or self._outbox
            or sum(frame.size for frame in first) > AT_ONCE_BYTES
        ):
            self._first = deque(each_of(first))
            self._proceed()
            return True
        self._proceed()
        try:
            for frame in first:
                native.write_soon(frame.frame(self.window_bits))
        except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
            self.failed(error)
            return False
        return True

    def paused(self) -> None:
        """Note that the write buffer is full: messages wait in the outbox until the peer has read."""
        self.fast_path = None
        self._owner.counters.sockets_paused += 1
        if self.phase is DIRECT:
            self._queue_behind(None)

    def cut(self) -> None:
        """Note that the native socket accepts no more frames. The next send finds out why."""
        self.fast_path = None

    def _proceed(self) -> None:
        """Write what is queued, or write the next message directly."""
        native = self._transport.native
        if self._first or self._outbox or (native is not None and native.is_paused):
            self._queue_behind(None)
            return
        self.phase, self._outbox, self._first = DIRECT, None, None  # an empty deque takes 760 bytes
        if native is not None and native.is_open:
            self.fast_path, self.window_bits = native, native.window_bits + WITH_ADDRESS * self._has_session
        if self._has_session:
            self._sink.emptied()

    def _start(self) -> None:
        """Empty the outbox, called by the limiter from any thread."""
        if self._sink.loop is not running_loop():
            with suppress(RuntimeError):  # the loop is closed
                self._sink.loop.call_soon_threadsafe(self._start)
        elif self.phase is QUEUED and self._task is None:
            self._queue_behind(None)

    def _queue_behind(self, first: Awaitable[None] | None) -> None:
        """Queue messages from now on, and finish ``first`` before them."""
        self.phase = QUEUED
        self._make_task(first)

    def _make_task(self, first: Awaitable[None] | None = None) -> None:
        """Make the task that finishes ``first`` and then empties the outbox."""
        self._owner.limiter.enter()
        self._task = self._sink.loop.create_task(self._write(first), name=f"write-{self._sink.connection_id}")
        # Not in a finally block: a task that is cancelled before its first step runs nothing of its body.
        self._task.add_done_callback(self._written)

    async def _write(self, first: Awaitable[None] | None) -> None:
        deadline_s, transport = self._owner.limits().write_timeout_s, self._transport
        try:
            if first is not None:
                await transport.complete(first, deadline_s)
            await transport.drained(self._patience_s)
            while self._first and self.ended not in (Ended.FAILED, Ended.GONE):
                await transport.complete(transport.send_some(self._first), deadline_s)
                await transport.drained(self._patience_s)
            while self._outbox and self.ended not in (Ended.FAILED, Ended.GONE):
                await transport.complete(transport.send(self._outbox.pop()), deadline_s)
                await transport.drained(self._patience_s)
        except TimeoutError as error:
            self._lose(Ended.SLOW, str(error) or f"accepted no data for write_timeout_s={deadline_s:g}")
        except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
            self.failed(error)

    def _patience_s(self) -> float:
        """Return the seconds without progress after which the peer has stopped reading."""
        return patience_s(self._owner.limits(), is_little=self._has_session and self.ended is None)

    def _written(self, _: asyncio.Task[None]) -> None:
        """Go on after the task has ended."""
        self._task = None
        self._owner.limiter.leave()
        is_written = not self._first and not self._outbox
        if self.phase is QUEUED:  # otherwise the connection has ended
            self._proceed()
            if not is_written:  # messages were pushed after the last step of the task
                return
        self._settle(is_written=is_written)

    def _settlement(self) -> Confirmation:
        """Return the confirmation for everything that is queued now."""
        if self._settled is None:
            self._settled = Confirmation()
        return self._settled

    def _settle(self, *, is_written: bool) -> None:
        if self._settled is not None:
            settled, self._settled = self._settled, None
            error = self.error or "the connection ended before it was written"
            settled.set_result(error if self.ended in HOPELESS or not is_written else None)

    async def drained(self) -> str | None:
        """Wait until everything pushed so far was written. Return the error if the connection ended before."""
        if self.is_writing:
            return await self._wait_until_settled()
        if self.fast_path is not None:
            self.fast_path.flush()
        return None if self.ended is None else f"connection has ended: {self.ended.value}"

    async def flush(self) -> None:
        """Wait until everything pushed so far was written, so that a send of the application follows it."""
        if not self.is_writing or self.phase in (CONNECTING, ENDED_EARLY):
            return
        if self._task is None or self._task is not asyncio.current_task():
            with suppress(TimeoutError):  # more messages were queued all the time
                async with asyncio.timeout(self._owner.limits().write_timeout_s):
                    await self._wait_until_settled()

    async def _wait_until_settled(self) -> str | None:
        return await asyncio.shield(asyncio.wrap_future(self._settlement()))

    # The end. The connection calls ``end`` first, then one of the others.

    def end(self, why: Ended, error: str = "") -> bool:
        """Accept no more messages. Return False if the connection had ended before."""
        if self.ended is not None:
            return False
        self.ended, self.error, self.fast_path = why, error or self.error, None
        self.phase = ENDED_EARLY if self.phase is CONNECTING else ENDED
        return True

    @property
    def is_closed(self) -> bool:
        """Whether the close is over, or the socket was given back."""
        return self.phase is CLOSED or self.phase is RELEASED

    async def finish(self, code: int, reason: str, patience_s: float = 0.0) -> bool:
        """Write what is queued, and close. Return whether the socket was closed within ``close_timeout_s``.

        A peer that reads slowly has ``patience_s`` for the queued messages, if that is longer. If the peer is gone,
        wait until the application has read its last messages instead. If the socket is not accepted, answer the
        accept with an HTTP error. A connection is closed in any case if its own handler released it, or if it has a
        session.
        """
        if self.is_closed:
            return True
        if self.ended is Ended.GONE:
            await self._wait_for_reader()
            return True
        if self.phase is ENDED_EARLY and self.ended is not Ended.RELEASED and not self._has_session:
            self._deny(code, reason)
            return True
        return await self._close(code, fitting(reason), patience_s)

    async def _close(self, code: int, reason: str, patience_s: float) -> bool:
        if self.phase is ENDED and self._outbox and self._task is None and self.ended not in HOPELESS:
            self._make_task()  # it had waited for the limiter
        self.phase = CLOSING
        try:
            async with asyncio.timeout(self._owner.limits().close_timeout_s) as self._deadline:
                if self._task is not None:
                    await self._write_rest(self._task, self._deadline, patience_s)
                await self._transport.close(code, reason, self._left_s)
        except Exception:  # noqa: BLE001 - too late, or the socket cannot even be closed
            return False
        else:
            return True
        finally:
            self._transport.interrupt(code, reason)
            self._end(CLOSED)

    async def _write_rest(
        self, task: asyncio.Task[None], deadline: asyncio.Timeout, patience_s: float
    ) -> None:
        close_timeout_s, now_s = self._owner.limits().close_timeout_s, self._sink.loop.time
        if self.ended in HOPELESS:
            task.cancel()
        is_patient = patience_s > close_timeout_s
        if is_patient:
            deadline.reschedule(now_s() + patience_s)
        await asyncio.wait([task])
        if is_patient and self.error:  # the peer stopped reading
            deadline.reschedule(now_s() + close_timeout_s)

    async def _wait_for_reader(self) -> None:
        """Wait until ``read_out`` is called, for at most ``close_timeout_s``.

        An application that is busy can read the rest later. A ``receive()`` that waits is ended.
        """
        self.phase = CLOSING
        try:
            async with asyncio.timeout(self._owner.limits().close_timeout_s) as self._deadline:
                await asyncio.wait([self._end_of_close()])
        except TimeoutError:
            if self._transport.is_receiving:
                self._transport.interrupt(NO_STATUS, "")
        finally:
            self._end(CLOSED)

    def _deny(self, code: int, reason: str) -> None:
        status, text = denial(self.ended, self._sink.client_id, code, reason)
        self._transport.deny(status, text)
        self._transport.interrupt(NO_STATUS, text)
        self._end(CLOSED)

    def read_out(self) -> None:
        """Note that the application has read everything from a peer that is gone."""
        if self.ended is Ended.GONE and not self.is_closed:
            self._end(CLOSED)

    def let_go(self) -> None:
        """Give the socket back open, as it was found."""
        if self.phase is not RELEASED:
            self.end(Ended.RELEASED)
            self._transport.detach()
            self._end(RELEASED)

    def _end(self, phase: Phase) -> None:
        """Drop what was not written. A socket that was given back already stays as it is."""
        if self.phase is RELEASED:
            return
        is_written = not self.is_writing
        self.phase, self.fast_path = phase, None
        if self._task is not None:
            self._task.cancel()
        if self._outbox is not None:
            self._owner.counters.messages_dropped += len(self._outbox)
        self._outbox = self._first = None
        self._settle(is_written=is_written)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def abort(self) -> None:
        """Let the deadline of the close pass now."""
        if self.phase is CLOSING and self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(self._sink.loop.time())

    async def wait_closed(self) -> None:
        """Wait until the close is over. A handler that returns sooner makes the server close first."""
        if not self.is_closed:
            # finish() has a deadline, and may wait for its turn for as long (max_concurrent_cleanup).
            timeout_s = 2 * self._owner.limits().close_timeout_s + self._left_s
            await asyncio.wait([self._end_of_close()], timeout=timeout_s)

    def _end_of_close(self) -> asyncio.Future[None]:
        if self._over is None:
            self._over = self._sink.loop.create_future()
        return self._over

    @property
    def _left_s(self) -> float:
        """Seconds until the deadline of the close."""
        deadline_s = None if self._deadline is None else self._deadline.when()
        return 0.0 if deadline_s is None else max(0.0, deadline_s - self._sink.loop.time())
