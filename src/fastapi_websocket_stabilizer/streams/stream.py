"""Streams of a node: text that is written token by token, sent in at most 20 messages a second."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from ..exceptions import MessageError, ShutdownError, WebSocketStabilizerError
from ..models import as_metadata
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters
from ..runtime.tasks import Tasks
from ..wire.messages import text_size
from .coalescer import PART_BYTES, Coalescer, Part

BACKLOG_BYTES = 4 * PART_BYTES
"""Bytes of a stream that have not left before ``write`` waits."""
SHARE = 8
"""The text of a message has at most an eighth of ``max_message_size``, since JSON needs up to 6 bytes for one."""
SHUT_DOWN = "the manager was shut down before the stream ended"

Send = Callable[[dict[str, Any]], Awaitable[object]]
"""Function that sends one message. It returns when the message has left."""


class Stream:
    """Text for readers, written in small pieces. ``manager.stream`` and ``connection.stream`` make it.

    Attributes:
        id: Name of the stream, which is in each of its messages.
    """

    __slots__ = (
        "_coalescer", "_code", "_counters", "_done", "_failure", "_has_ended", "_loop", "_metadata", "_moved",
        "_send", "_tasks", "_timer", "id",
    )  # fmt: skip

    def __init__(
        self,
        send: Send,
        metadata: Mapping[str, Any],
        limit: int,
        *,
        tasks: Tasks,
        counters: Counters,
        done: "Callable[[Stream], None]",
    ) -> None:
        self.id: str = secrets.token_urlsafe(9)
        self._send, self._metadata, self._done = send, metadata, done
        self._tasks, self._counters = tasks, counters
        self._loop = running_loop()
        self._coalescer = Coalescer(limit)
        self._timer: asyncio.TimerHandle | None = None
        self._moved = asyncio.Event()  # a message has left, or could not be sent
        self._failure: BaseException | None = None
        self._code = ""  # why the stream ended early
        self._has_ended = False

    async def write(self, text: str) -> None:
        """Append text. It leaves within 50 ms, together with all that is written in the meantime.

        Waits while more than 64 KiB have not left. Concurrent calls keep their order. If the call is cancelled, the
        text is still sent.

        Raises:
            MessageError: ``text`` is no str or no valid Unicode, or the block of the stream has ended.
            WebSocketStabilizerError: An earlier text could not be sent, for this reason. Later text is not sent.
        """
        self.check()
        if not isinstance(text, str):
            raise MessageError(f"a stream takes str, got {type(text).__name__}: send other data as a message")
        if self._has_ended:
            raise MessageError(f"stream {self.id} has ended: write inside its block")
        if self._coalescer.write(text, text_size(text)) and self._pump():
            await asyncio.sleep(0)  # a writer that never waits for its model must not hold up the event loop
        if self._coalescer.unsent_bytes > BACKLOG_BYTES:
            self._counters.stream_writes_deferred += 1
            await self._until(lambda: self._coalescer.unsent_bytes <= BACKLOG_BYTES)
            self.check()

    def check(self) -> None:
        """Raise the error of a message that could not be sent."""
        if self._failure is not None:
            raise self._failure

    async def announce(self) -> None:
        """Send the first message, and wait until it has left.

        Raises:
            WebSocketStabilizerError: It could not be sent.
        """
        self._counters.streams_opened += 1
        self._pump()
        await self._until(lambda: not self._coalescer.is_sending)
        self.check()

    def end(self, code: str = "") -> None:
        """Accept no more text. The rest leaves now, with the end; ``ended`` waits for it."""
        self._has_ended = True
        if code:
            self._end_early(code)
        self._coalescer.end(self._code)
        self._pump()

    def interrupt(self) -> bool:
        """End the stream early, because the node shuts down. Return False if it is of another event loop."""
        if self._loop is not running_loop():
            return False
        if not self._has_ended:
            self._failure = self._failure or ShutdownError(SHUT_DOWN)
            self.end("cancelled")
        return True

    async def ended(self) -> None:
        """Wait until the end has left, or could not be sent."""
        await self._until(lambda: self._coalescer.is_over)

    def _end_early(self, code: str) -> None:
        if not self._code:
            self._code = code
            self._counters.streams_failed += 1

    async def _until(self, is_reached: Callable[[], bool]) -> None:
        while not is_reached():
            self._moved.clear()
            await self._moved.wait()

    def _pump(self) -> bool:
        """Begin to send the next message if it is due; otherwise do so when it is. Return whether it began."""
        part = self._coalescer.take(self._loop.time())
        if part is not None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            # A callback, since a task that is cancelled before its first step runs nothing of its own.
            self._tasks.spawn(self._deliver(part), "send-stream").add_done_callback(self._delivered)
            return True
        due_at_s = self._coalescer.due_at_s
        if due_at_s is not None and self._timer is None:
            self._timer = self._loop.call_at(due_at_s, self._is_due)
        return False

    def _is_due(self) -> None:
        self._timer = None
        self._pump()

    async def _deliver(self, part: Part) -> WebSocketStabilizerError | None:
        """Send a message, and return why it could not be sent."""
        message = part.message(self.id)
        if part.number == 0 and self._metadata:
            message["metadata"] = self._metadata
        try:
            await self._send(message)
        except WebSocketStabilizerError as error:
            return error
        self._counters.stream_messages += 1
        return None

    def _delivered(self, task: "asyncio.Task[WebSocketStabilizerError | None]") -> None:
        error = ShutdownError(SHUT_DOWN) if task.cancelled() else task.exception() or task.result()
        if error is not None:
            # Send nothing more than the end, since a text that is missing in the middle misleads readers.
            self._failure = self._failure or error
            self._end_early("failed")
            self._coalescer.drop()
        self._coalescer.left()
        if self._has_ended:
            self._coalescer.end(self._code)
        self._pump()
        self._moved.set()
        if self._coalescer.is_over:
            self._done(self)


class Streams:
    """Opens the streams of a node."""

    def __init__(self, tasks: Tasks, counters: Counters, max_message_size: Callable[[], int]) -> None:
        self._tasks, self._counters, self._max_message_size = tasks, counters, max_message_size
        self._open: set[Stream] = set()

    async def close(self, timeout_s: float) -> None:
        """End all streams of this event loop, and wait at most ``timeout_s`` seconds until their readers know."""
        interrupted = [stream for stream in tuple(self._open) if stream.interrupt()]
        if interrupted:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    for stream in interrupted:
                        await stream.ended()

    @asynccontextmanager
    async def open(self, send: Send, metadata: Mapping[str, Any] | None) -> AsyncIterator[Stream]:
        """Return a block that opens a stream, and ends it however it is left.

        Raises:
            MessageError: ``metadata`` is no mapping.
            WebSocketStabilizerError: A message could not be sent.
        """
        limit = min(PART_BYTES, self._max_message_size() // SHARE)
        stream = Stream(
            send,
            as_metadata(metadata),
            limit,
            tasks=self._tasks,
            counters=self._counters,
            done=self._open.discard,
        )
        self._open.add(stream)
        try:
            await stream.announce()
            yield stream
        except Exception:
            stream.end("failed")
            await stream.ended()  # so that later messages of the application come behind it
            raise
        except BaseException:
            stream.end("cancelled")
            raise
        stream.end()
        await stream.ended()
        stream.check()
