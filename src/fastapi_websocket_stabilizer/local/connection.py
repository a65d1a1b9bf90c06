"""One registered socket: writes in order, never makes the caller wait for the peer, and ends once."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future as ThreadFuture
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

from .. import close_codes
from ..exceptions import ConnectionNotFoundError
from ..loops import running_loop
from ..models import Message
from ..names import ConnectionId
from ..wire import Encoded
from .backlog import TAKEN, Backlog, Outcome, Sent, settled
from .heartbeat import Heartbeat
from .line import Events, Line
from .line_transport import LineTransport, open_transport
from .owner import Ended, Owner, check_alive, denial
from .stepping import resume
from .transport import Transport, is_accepted

MAX_REASON_BYTES = 123
"""What RFC 6455 §5.5 leaves for the reason in a close frame."""


class Connection:
    """One socket of one client. ``manager.connect`` makes it; keep it as long as the socket lives.

    Attributes:
        client_id: The id that the application addresses.
        connection_id: ``<node_id>.<counter>``, never used twice; changes if the node's lease lapsed.
        metadata: What ``connect`` was given, read-only; shown in presence.
        rooms: Rooms it is in.
        user_data: Anything the application wants to keep with it; stays on this node.
        since: When it was registered, UTC.
        open_line: What prepared frames may be written to right now; None when this socket has no line, or
            something waits in front of it.
        window_bits: Of the deflate on the line; 0 for none.
    """

    __slots__ = (
        "__weakref__", "_backlog", "_closing", "_deadline", "_is_finished", "_owner", "_transport", "_was_asked",
        "_websocket",
        "client_id", "closed_with", "connection_id", "ended", "error", "heartbeat", "is_open", "loop",
        "memory_size", "metadata", "open_line", "opened_at_s", "patience_s", "rooms", "since", "stamp", "stays",
        "used_at_s", "user_data", "window_bits",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        client_id: str,
        connection_id: ConnectionId,
        websocket: Any,
        metadata: dict[str, Any],
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = running_loop()
        self.client_id: str = client_id
        self.connection_id: ConnectionId = connection_id
        self.metadata: Mapping[str, Any] = metadata
        self.rooms: set[str] = set()
        self.stays: dict[str, int] = {}  # see ports.Membership
        self.user_data: dict[str, Any] = {}
        self.since: datetime = datetime.now(UTC)
        self.stamp: int = 0
        self.memory_size: int = 0
        self.opened_at_s: float = self.loop.time()
        self.used_at_s: float = self.opened_at_s
        # Thousands that connect at once must not be pinged at once.
        head_start_s = random.random() * owner.limits().heartbeat_interval / 4
        self.heartbeat: Heartbeat = Heartbeat(self.opened_at_s - head_start_s)
        self.is_open: bool = is_accepted(websocket)
        self.ended: Ended | None = None
        self.error: str = ""
        self.patience_s: float = 0.0  # for a close, as long as the peer takes what waits for it
        self.closed_with: tuple[int, str] | None = None
        self._owner = owner
        self._websocket = websocket
        self._backlog: Backlog | None = None  # made when a socket is slow for the first time
        self._closing: asyncio.Future[None] | None = None  # while somebody waits for the close to be over
        self._is_finished = False
        self._was_asked = False  # by a JSON ping
        self._deadline: asyncio.Timeout | None = None  # of finish()
        self.open_line: Line | None = None
        self.window_bits: int = 0
        self._transport: Transport = open_transport(websocket, self, owner.limits)
        self.use_line()

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
            BackendUnavailableError: 4 MiB of earlier messages waited for Redis for ``redis_timeout_s``.
        """
        check_alive(self.ended, self.connection_id)
        error = await self._owner.send(self, self._owner.encode(message))
        if error is not None:
            raise ConnectionNotFoundError(f"connection {self.connection_id} failed: {error}")

    async def close(self, code: int = close_codes.NORMAL, reason: str = "normal closure") -> None:
        """Close exactly this socket and release it; a no-op when it has ended.

        Raises:
            ConfigurationError: ``code`` may not be sent.
        """
        await self._owner.end(self, Ended.RELEASED, close_codes.check(code), reason)

    async def join(self, room: str) -> None:
        """Enter a room. When this returns, every message to the room published from now on is heard."""
        check_alive(self.ended, self.connection_id)
        await self._owner.join_room(self, room)

    async def leave(self, room: str) -> None:
        """Leave a room. What is published to it later is not written; what waits in the outbox still is."""
        await self._owner.leave_room(self, room)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Yield what the client sends until the socket is closed; without the answers to JSON pings."""
        while self.ended is None:
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                return
            message = event.get("text")
            if message is None:
                message = event.get("bytes") or b""
            if not self.is_pong(message):
                yield message

    def is_pong(self, message: str | bytes) -> bool:
        """Whether this answers a JSON ping; on a socket that was never sent one it is an ordinary message."""
        return self._was_asked and self._owner.is_pong(message)

    def ask(self, ping: Encoded) -> None:
        """Push a ping that is a message, from any event loop; its answers are not handed to the application."""
        self._was_asked = True
        if self.loop is running_loop():
            self.push(ping)
        else:
            self.hand_over(ping)

    # Writing. Nothing here waits for the peer.

    async def push_from_anywhere(self, message: Encoded) -> str | None:
        """Push from any event loop and return the error, if any."""
        return await self.settled(self.push_or_hand_over(message))

    def push_or_hand_over(self, message: Encoded) -> Sent:
        """Push from any event loop; the word about it may be pending."""
        self.used_at_s = self.loop.time()
        return self.push(message) if self.loop is running_loop() else self.hand_over(message)

    async def settled(self, sent: Sent) -> str | None:
        """Return the error, if any, of what was pushed."""
        return sent.error if sent.pending is None else await settled(sent.pending, self._owner.limits())

    def hand_over(self, message: Encoded) -> Sent:
        """Push from another event loop's thread; the word about it is pending."""
        answer: Outcome = ThreadFuture()

        def push() -> None:
            try:
                sent = self.push(message)
            except Exception as error:  # noqa: BLE001 - whoever waits in another thread must hear of it
                sent = Sent(str(error) or type(error).__name__)
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
        if self.open_line is not None:
            self.open_line.write_soon(message.frame(self.window_bits))
            self._owner.wrote(1)
            return TAKEN
        if self.ended is not None:
            return Sent(f"connection has ended: {self.ended.value}")
        if self.is_writing or not self.is_open:
            return self._queue().put(message)
        if self.line is not None and self.line.is_paused:  # since before it was registered
            sent = self._queue().put(message)
            self._queue().start()
            return sent
        if not self._owner.gate.is_open():
            sent = self._queue().put(message)
            self._owner.gate.wait(self._queue().start)
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
        self._queue().write_after(resume(send, waiting_for))
        return self._queue().taken()

    def write(self, frames: bytes) -> bool:
        """Write prepared frames to the open line now; False when the socket failed."""
        try:
            if self.open_line is not None:
                self.open_line.write_now(frames)
        except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
            self._owner.lost(self, Ended.FAILED, str(error) or type(error).__name__)
            return False
        return True

    def _queue(self) -> Backlog:
        if self._backlog is None:
            self._backlog = Backlog(self, self._owner, self._transport)
        return self._backlog

    def use_line(self) -> None:
        """Let frames go straight to the line again, if nothing is in front of them."""
        line = self._transport.line
        if line is None or self.ended is not None or self.is_writing:
            return
        if line.is_open and not line.is_paused:
            self.open_line, self.window_bits = line, line.window_bits

    @property
    def is_writing(self) -> bool:
        """Whether something is queued or on its way."""
        return self._backlog is not None and self._backlog.is_writing

    async def drained(self) -> str | None:
        """Return once everything pushed so far was written; the error if the connection ended before."""
        if self._backlog is not None and self._backlog.is_writing:
            return await self._backlog.settled()
        if self.open_line is not None:
            self.open_line.flush()
        return None if self.ended is None else f"connection has ended: {self.ended.value}"

    @property
    def queued_bytes(self) -> int:
        """Bytes in the outbox."""
        return 0 if self._backlog is None else self._backlog.queued_bytes

    # Ending. The owner calls these, once, on the connection's own loop.

    def end(self, why: Ended) -> None:
        """Nothing more is sent from now on."""
        self.ended, self.open_line = why, None

    async def finish(self, code: int, reason: str) -> bool:
        """Write what is queued, close the socket, wake whoever waits in ``receive``; all under one deadline.

        That is ``close_timeout_s``, or ``patience_s`` for a peer that is slow.
        Returns whether the socket took the close.
        """
        reason = (reason or "").encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")
        try:
            if not self.is_open and self.ended is not Ended.RELEASED:
                # Its handler is about to accept it.
                self._transport.deny(*denial(self.ended, self.client_id, code, reason))
                return True
            async with asyncio.timeout(self._owner.limits().close_timeout_s) as self._deadline:
                if self._backlog is not None:
                    await self._backlog.flush_patiently(self._deadline)
                await self._transport.close(code, reason, self.left_s)
        except TimeoutError:
            return False
        except Exception:  # noqa: BLE001 - a socket that cannot even be closed is gone
            return False
        else:
            return True
        finally:
            self._transport.interrupt(code, reason)
            if self._backlog is not None:
                self._backlog.drop()
            self._is_finished = True
            if self._closing is not None:
                self._closing.set_result(None)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline of the close that is under way."""
        deadline_s = None if self._deadline is None else self._deadline.when()
        return 0.0 if deadline_s is None else max(0.0, deadline_s - self.loop.time())

    def abort(self) -> None:
        """Wait no longer for the close that is under way."""
        if self._deadline is not None and not self._is_finished and not self._deadline.expired():
            self._deadline.reschedule(self.loop.time())

    async def wait_closed(self) -> None:
        """Wait for the close that somebody else began: a handler that ends sooner has the server close first."""
        if self._is_finished or self.ended is None or self.loop is not running_loop():
            return
        if self._closing is None:
            self._closing = self.loop.create_future()
        # finish() has a deadline; it may wait for its turn for as long (max_concurrent_cleanup).
        await asyncio.wait([self._closing], timeout=2 * self._owner.limits().close_timeout_s + self.left_s)

    def let_go(self) -> None:
        """Give the socket back as it was, open."""
        self._is_finished = True
        self._transport.detach()
        if self._backlog is not None:
            self._backlog.cancel()

    # What the socket says.

    def opened(self) -> None:
        """The socket was accepted."""
        self.is_open = True
        if self._backlog is not None:
            self._backlog.start()
        self.use_line()

    def paused(self) -> None:
        """The peer does not keep up: what is sent from now on waits in the outbox."""
        self.open_line = None
        self._owner.paused()
        if not self.is_writing and self.ended is None:
            self._queue().write_after(None)

    def cut(self) -> None:
        """Nothing more can be written."""
        self.open_line = None

    @property
    def line(self) -> Line | None:
        """The server's socket, where the server has such; see ``local/line.py``."""
        return self._transport.line

    @property
    def is_deaf(self) -> bool:
        """Whether nothing is read from the socket, since the application does not keep up."""
        line = self._transport.line
        return line is not None and not line.is_reading

    @property
    def is_parked(self) -> bool:
        """Whether the socket does without its ASGI application."""
        return self._websocket is None

    def park(self, inbox: Events) -> None:
        """Keep the socket when its ASGI application returns; what comes in goes to ``inbox``."""
        self._websocket = None
        cast("LineTransport", self._transport).park(inbox)

    async def flush(self) -> None:
        """Wait until what was sent before is written, so that the application's own send comes behind it."""
        if self._backlog is None or not self._backlog.is_writing or not self.is_open:
            return
        if not self._backlog.is_written_by(asyncio.current_task()):
            with suppress(TimeoutError):  # more came behind it all the time
                async with asyncio.timeout(self._owner.limits().write_timeout_s):
                    await self._backlog.settled()

    def heard(self) -> None:
        """A message came in."""
        self.used_at_s = now_s = self.loop.time()
        self.heartbeat.heard(now_s)

    def hung_up(self, code: int, reason: str) -> None:
        """The peer is gone; what the handler does about it ends the connection."""
        self.closed_with = (code, reason)

    def refused(self, code: int) -> None:
        """The server refused what came in."""
        self._owner.refused(code)

    async def too_large(self, size: int, limit: int) -> None:
        """A message over the limit came in."""
        self._owner.refused(close_codes.TOO_LARGE)
        await self._owner.end(
            self, Ended.EVICTED, close_codes.TOO_LARGE, f"{size} bytes, the limit is {limit}"
        )
