"""One registered socket: writes in order, never makes the caller wait for the peer, and ends once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import Future as ThreadFuture
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeAlias

from .. import close_codes
from ..exceptions import ConnectionNotFoundError, ConnectionTimeoutError, SlowConsumerError
from ..models import Message
from ..names import ConnectionId
from ..wire import Encoded
from .heartbeat import Heartbeat
from .outbox import Outbox, Put
from .owner import Ended, Limits, Owner
from .stepping import resume
from .transport import Transport, is_accepted, open_transport

Outcome: TypeAlias = ThreadFuture[str | None]
DROPPED = "dropped: outbox is full"
MAX_REASON_BYTES = 123
"""What RFC 6455 §5.5 leaves for the reason in a close frame."""


class Sent:
    """What became of one message: taken or not, and perhaps a word that is still to come."""

    __slots__ = ("error", "pending")

    def __init__(self, error: str | None = None, pending: Outcome | None = None) -> None:
        self.error: str | None = error
        self.pending: Outcome | None = pending


TAKEN = Sent()


class Connection:
    """One socket of one client. ``manager.connect`` makes it; keep it as long as the socket lives.

    Attributes:
        client_id: The id that the application addresses.
        connection_id: ``<node_id>.<counter>``, never used twice; changes if the node's lease lapsed.
        metadata: What ``connect`` was given; shown in presence.
        rooms: Rooms it is in.
        user_data: Anything the application wants to keep with it; stays on this node.
        since: When it was registered, UTC.
    """

    __slots__ = (
        "__weakref__", "_closing",
        "_is_finished",
        "_outbox", "_owner", "_settled", "_thread", "_transport", "_websocket", "_writer", "client_id",
        "closed_with", "connection_id", "ended", "error", "heartbeat", "is_open", "loop", "memory_size",
        "metadata", "opened_at_s", "rooms", "since", "stamp", "stays", "used_at_s", "user_data",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        client_id: str,
        connection_id: ConnectionId,
        websocket: Any,
        metadata: dict[str, Any],
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.client_id: str = client_id
        self.connection_id: ConnectionId = connection_id
        self.metadata: dict[str, Any] = metadata
        self.rooms: set[str] = set()
        self.stays: dict[str, int] = {}  # see ports.Membership
        self.user_data: dict[str, Any] = {}
        self.since: datetime = datetime.now(UTC)
        self.stamp: int = 0
        self.memory_size: int = 0
        self.opened_at_s: float = self.loop.time()
        self.used_at_s: float = self.opened_at_s
        self.heartbeat: Heartbeat = Heartbeat(self.opened_at_s)
        self.is_open: bool = is_accepted(websocket)
        self.ended: Ended | None = None
        self.error: str = ""
        self.closed_with: tuple[int, str] | None = None
        self._owner = owner
        self._websocket = websocket
        self._outbox: Outbox | None = None  # made when a socket is slow for the first time
        self._closing: asyncio.Future[None] | None = None  # while somebody waits for the close to be over
        self._is_finished = False
        self._settled: Outcome | None = None  # when everything queued was written; only for mocks
        self._thread = threading.get_ident()
        self._writer: asyncio.Task[None] | None = None
        self._transport: Transport = open_transport(websocket, self, lambda: owner.limits().max_message_size)

    def __repr__(self) -> str:
        return f"<Connection {self.connection_id} client_id={self.client_id!r}>"

    # What users call.

    async def send(self, message: Message) -> None:
        """Send to this socket, in order with everything else that is sent to it.

        Returns when the message was written or waits in the outbox; a slow peer does not hold the caller.

        Raises:
            MessageError: It cannot be encoded or is too long; nothing was sent.
            ConnectionNotFoundError: The connection has ended. A ``ConnectionTimeoutError`` or a
                ``SlowConsumerError`` when that is why.
            BackendUnavailableError: It had to wait its turn behind a broadcast, and Redis did not answer.
        """
        self._raise_if_ended()
        error = await self._owner.send(self, self._owner.encode(message))
        if error is not None:
            raise ConnectionNotFoundError(f"connection {self.connection_id} failed: {error}")

    async def close(self, code: int = close_codes.NORMAL, reason: str = "normal closure") -> None:
        """Close exactly this socket and release it; a no-op when it has ended."""
        await self._owner.end(self, Ended.RELEASED, code, reason)

    async def join(self, room: str) -> None:
        """Enter a room. When this returns, every message to the room published from now on is heard."""
        self._raise_if_ended()
        await self._owner.join_room(self, room)

    async def leave(self, room: str) -> None:
        """Leave a room. Nothing more is written for it once this has returned."""
        await self._owner.leave_room(self, room)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Yield what the client sends until the socket is closed; answers to pings are left out."""
        while self.ended is None:
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                return
            message = event.get("text")
            if message is None:
                message = event.get("bytes") or b""
            if not self._owner.is_pong(message):
                yield message

    def _raise_if_ended(self) -> None:
        if self.ended is Ended.TIMED_OUT:
            raise ConnectionTimeoutError(f"connection {self.connection_id} was closed: no sign of life")
        if self.ended is Ended.SLOW:
            raise SlowConsumerError(f"connection {self.connection_id} was closed: its peer does not read")
        if self.ended is not None:
            raise ConnectionNotFoundError(f"connection {self.connection_id} has ended: {self.ended.value}")

    # Writing. Nothing here waits for the peer.

    async def push_from_anywhere(self, message: Encoded) -> str | None:
        """Push from any event loop and return the error, if any."""
        sent = self.push(message) if self.loop is asyncio.get_running_loop() else self.hand_over(message)
        self.used_at_s = self.loop.time()
        return sent.error if sent.pending is None else await settled(sent.pending, self._owner.limits())

    def hand_over(self, message: Encoded) -> Sent:
        """Push from another event loop's thread; the word about it is pending."""
        answer: Outcome = ThreadFuture()

        def push() -> None:
            sent = self.push(message)
            if sent.pending is None:
                answer.set_result(sent.error)
            else:
                sent.pending.add_done_callback(lambda pending: answer.set_result(pending.result()))

        try:
            self.loop.call_soon_threadsafe(push)
        except RuntimeError:  # that loop is closed, and its sockets with it
            self._owner.lost(self, Ended.FAILED, "its event loop is closed")
            return Sent("its event loop is closed")
        return Sent(pending=answer)

    def push(self, message: Encoded) -> Sent:
        """Write, or let the outbox take it.

        The first step of the send runs here, so an error is known at once and a send that does not wait
        costs no task. A send that waits is finished by this connection's writer.
        """
        if self.ended is not None:
            return Sent(f"connection has ended: {self.ended.value}")
        if self._writer is not None or self._outbox or not self.is_open:
            return self._queue(message)
        if not self._owner.gate.is_open():
            sent = self._queue(message)
            self._owner.gate.wait(self._start_writer)
            return sent
        try:
            send = self._transport.send(message)
            waiting_for = send.send(None)
        except StopIteration:
            self._owner.wrote(1)
            return TAKEN
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - no await of ours: the socket failed
            self._owner.lost(self, Ended.FAILED, str(error) or type(error).__name__)
            return Sent(self.error or type(error).__name__)
        self._spawn_writer(resume(send, waiting_for))
        return self._taken()

    def _queue(self, message: Encoded) -> Sent:
        limits = self._owner.limits()
        if self._outbox is None:
            self._outbox = Outbox(limits.outbox_size, limits.outbox_policy)
        dropped = self._outbox.dropped
        put = self._outbox.put(message)
        self._owner.dropped(self._outbox.dropped - dropped)
        if put is Put.OVERFLOW:
            self._owner.lost(self, Ended.SLOW, f"outbox over {limits.outbox_size} bytes")
            return Sent(f"slow consumer: outbox over {limits.outbox_size} bytes")
        return self._taken() if put is Put.TAKEN else Sent(DROPPED)

    def _taken(self) -> Sent:
        self._owner.wrote(1)
        if not self._transport.awaited:
            return TAKEN
        if self._settled is None:
            self._settled = ThreadFuture()
        return Sent(pending=self._settled)

    def _start_writer(self) -> None:
        """Begin to empty the outbox; from any thread."""
        if threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # its loop is closed
                self.loop.call_soon_threadsafe(self._start_writer)
        elif self._outbox and self._writer is None and self.ended is None:
            self._spawn_writer(None)

    def _spawn_writer(self, first: Awaitable[None] | None) -> None:
        self._owner.gate.enter()
        self._writer = self.loop.create_task(self._write(first), name=f"write-{self.connection_id}")
        # Not in a finally: a task that is cancelled before its first step runs none of its body.
        self._writer.add_done_callback(self._writer_ended)

    async def _write(self, first: Awaitable[None] | None) -> None:
        deadline_s = self._owner.limits().write_timeout_s
        try:
            if first is not None:
                async with asyncio.timeout(deadline_s):
                    await first
            while self._outbox and self.ended is not Ended.FAILED:
                async with asyncio.timeout(deadline_s):
                    await self._transport.send(self._outbox.pop())
        except TimeoutError:
            self._owner.lost(self, Ended.SLOW, f"one send took longer than write_timeout_s={deadline_s:g}")
        except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
            self._owner.lost(self, Ended.FAILED, str(error) or type(error).__name__)

    def _writer_ended(self, _: "asyncio.Task[None]") -> None:
        self._writer = None
        self._owner.gate.leave()
        if self._outbox and self.ended is None:  # something was pushed after the writer's last look
            self._start_writer()
        else:
            self._settle(is_written=not self._outbox)

    def _settle(self, *, is_written: bool) -> None:
        if self._settled is not None:
            settled, self._settled = self._settled, None
            is_lost = self.ended in (Ended.FAILED, Ended.SLOW) or not is_written
            settled.set_result(
                (self.error or "the connection ended before it was written") if is_lost else None
            )

    @property
    def is_writing(self) -> bool:
        """Whether something is queued or on its way."""
        return self._writer is not None or bool(self._outbox)

    async def drained(self) -> str | None:
        """Return once everything pushed so far was written; the error if the connection ended before."""
        if self.is_writing:
            if self._settled is None:
                self._settled = ThreadFuture()
            return await asyncio.shield(asyncio.wrap_future(self._settled))
        return None if self.ended is None else f"connection has ended: {self.ended.value}"

    @property
    def queued_bytes(self) -> int:
        """Bytes in the outbox."""
        return self._outbox.queued_bytes if self._outbox else 0

    # Ending. The owner calls these, once, on the connection's own loop.

    async def finish(self, code: int, reason: str) -> bool:
        """Write what is queued, close the socket, wake whoever waits in ``receive``; all under one deadline.

        Returns whether the socket took the close.
        """
        reason = (reason or "").encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")
        try:
            async with asyncio.timeout(self._owner.limits().close_timeout_s):
                await self._flush()
                await self._transport.close(code, reason)
        except TimeoutError:
            return False
        except Exception:  # noqa: BLE001 - a socket that cannot even be closed is gone
            return False
        else:
            return True
        finally:
            self._transport.interrupt(code, reason)
            self._drop_unwritten()
            self._is_finished = True
            if self._closing is not None:
                self._closing.set_result(None)

    async def wait_closed(self) -> None:
        """Wait for the close that somebody else began: a handler that ends sooner has the server close first."""
        if self._is_finished or self.ended is None or self.loop is not asyncio.get_running_loop():
            return
        if self._closing is None:
            self._closing = self.loop.create_future()
        # finish() has a deadline; it may wait for its turn for as long (max_concurrent_cleanup).
        await asyncio.wait([self._closing], timeout=2 * self._owner.limits().close_timeout_s)

    def let_go(self) -> None:
        """Give the socket back as it was, open."""
        self._is_finished = True
        self._transport.detach()
        if self._writer is not None:
            self._writer.cancel()

    def _drop_unwritten(self) -> None:
        is_written = not self.is_writing
        if self._writer is not None:
            self._writer.cancel()
        if self._outbox:
            self._owner.dropped(len(self._outbox))
            self._outbox.clear()
        self._settle(is_written=is_written)

    async def _flush(self) -> None:
        is_hopeless = self.ended in (Ended.FAILED, Ended.SLOW)
        if self._writer is None and self._outbox and self.is_open and not is_hopeless:
            self._spawn_writer(None)  # it had waited for the gate
        if self._writer is not None:
            if is_hopeless:
                self._writer.cancel()
            await asyncio.wait([self._writer])

    # What the socket says.

    def opened(self) -> None:
        """The socket was accepted."""
        self.is_open = True
        self._start_writer()

    def heard(self) -> None:
        """A message came in."""
        self.used_at_s = now_s = self.loop.time()
        self.heartbeat.heard(now_s)

    def hung_up(self, code: int, reason: str) -> None:
        """The peer is gone; what the handler does about it ends the connection."""
        self.closed_with = (code, reason)

    async def too_large(self, size: int, limit: int) -> None:
        """A message over the limit came in."""
        self._owner.refused(size)
        await self._owner.end(
            self, Ended.EVICTED, close_codes.TOO_LARGE, f"{size} bytes, the limit is {limit}"
        )


async def settled(outcome: Outcome, limits: Limits) -> str | None:
    """Wait for a pending word about a message; one that does not come within the deadline is an error."""
    try:
        async with asyncio.timeout(limits.write_timeout_s + limits.close_timeout_s):
            return await asyncio.shield(asyncio.wrap_future(outcome))
    except TimeoutError:
        return f"no word within {limits.write_timeout_s:g} s"
