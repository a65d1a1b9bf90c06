"""One registered socket: writes in order, never makes the caller wait for the peer, and ends once."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, cast

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from .. import close_codes
from ..exceptions import ConnectionNotFoundError
from ..models import Message
from ..names import ConnectionId
from ..runtime.loops import running_loop
from ..wire.messages import Encoded
from .closing import Closing
from .heartbeat import Heartbeat
from .lifecycle import Ended, check_alive, denial
from .native import NativeTransport, open_transport
from .transport import Events, NativeSocket, Transport, handshake_of, is_accepted
from .writer import TAKEN, Sent, SocketWriter, WriterOwner, hand_over, resume_coroutine, settled


class Owner(WriterOwner, Protocol):
    """What a connection needs of its node."""

    def encode(self, message: Message) -> Encoded: ...

    async def send(self, connection: "Connection", message: Encoded) -> str | None:
        """Send to exactly this connection, behind all that was sent to it before; return the error, if any."""
        ...

    def refused(self, code: int) -> None:
        """A message was refused with this close code."""
        ...

    def paused(self) -> None:
        """A socket's write buffer is full."""
        ...

    def deferred(self) -> None:
        """A socket has sent more than one turn of the event loop is to handle."""
        ...

    def lost(self, connection: "Connection", why: Ended, error: str) -> None:
        """Forget the connection now and close its socket soon; called from its own loop."""
        ...

    def gone(self, connection: "Connection") -> None:
        """Release the connection now: its socket is closed. Called from its own loop."""
        ...

    async def end(self, connection: "Connection", why: Ended, code: int, reason: str) -> None: ...

    async def join_room(self, connection: "Connection", room: str) -> None: ...

    async def leave_room(self, connection: "Connection", room: str) -> None: ...

    def is_pong(self, message: str | bytes) -> bool: ...


class Connection:
    """One socket of one client. ``manager.connect`` makes it; keep it as long as the socket lives.

    Attributes:
        client_id: The id that the application addresses.
        connection_id: ``<node_id>.<counter>``, never used twice; changes if the node's lease lapsed.
        metadata: What ``connect`` was given, read-only; shown in presence.
        rooms: Rooms it is in.
        user_data: Anything the application wants to keep with it; stays on this node.
        state: The application's own: ``Identity.state``, or anything assigned here. Private to this node, not
            part of the memory limits.
        registration: Record of the owner, which nothing here reads.
        since: When it was registered, UTC.
        fast_path: The native socket while prepared frames may be written to it; None when there is none, or
            something waits in front of it.
        window_bits: Of the deflate on the native socket; 0 for none.
    """

    __slots__ = (
        "__weakref__", "_closing", "_handshake", "_owner", "_transport", "_was_asked", "_was_closed",
        "_websocket", "_writer", "client_id", "closed_with", "connection_id", "ended", "error",
        "fast_path", "heartbeat", "is_open", "loop", "metadata", "opened_at_s", "patience_s", "registration",
        "rooms", "since", "state", "used_at_s", "user_data", "window_bits",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        client_id: str,
        connection_id: ConnectionId,
        websocket: Any,
        metadata: dict[str, Any],
        state: Any = None,
        registration: object = None,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = running_loop()
        self.client_id: str = client_id
        self.connection_id: ConnectionId = connection_id
        self.metadata: Mapping[str, Any] = metadata
        self.rooms: set[str] = set()
        self.user_data: dict[str, Any] = {}
        self.state: Any = state
        self.since: datetime = datetime.now(UTC)
        self.registration: object = registration
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
        self._handshake: HTTPConnection | None = None  # of a parked socket
        self._writer: SocketWriter | None = None  # made when a socket is slow for the first time
        self._closing: Closing | None = None  # made when it ends
        self._was_asked = False  # by a JSON ping
        self._was_closed = False  # by the application
        self.fast_path: NativeSocket | None = None
        self.window_bits: int = 0
        self._transport: Transport = open_transport(websocket, self, owner.limits)
        self.use_fast_path()

    def __repr__(self) -> str:
        return f"<Connection {self.connection_id} client_id={self.client_id!r}>"

    # What users call.

    async def send(self, message: Message) -> None:
        """Send to this socket, in order with everything else that is sent to it.

        Returns when the message was written or waits in the outbox; a slow peer does not hold the caller.

        A message to a peer that has just gone is dropped, so that the handler can go on with what the peer had sent.

        Raises:
            MessageError: It cannot be encoded or is too long; nothing was sent.
            ConnectionNotFoundError: The connection has ended. A ``ConnectionTimeoutError`` or a
                ``SlowConsumerError`` when that is why.
            BackendUnavailableError: 4 MiB of earlier messages waited for Redis for ``redis_timeout_s``.
        """
        encoded = self._owner.encode(message)
        if self._is_over():
            return
        error = await self._owner.send(self, encoded)
        if error is not None and not self._is_being_read_out:
            raise ConnectionNotFoundError(f"connection {self.connection_id} failed: {error}")

    async def close(self, code: int = close_codes.NORMAL, reason: str = "normal closure") -> None:
        """Close exactly this socket and release it; a no-op when it has ended.

        Raises:
            ConfigurationError: ``code`` may not be sent.
        """
        close_codes.check(code)
        self._was_closed = True
        self.read_out()
        await self._owner.end(self, Ended.RELEASED, code, reason)

    async def join(self, room: str) -> None:
        """Enter a room. When this returns, every message to the room published from now on is heard.

        Does nothing for a peer that has just gone.
        """
        if not self._is_over():
            await self._owner.join_room(self, room)

    async def leave(self, room: str) -> None:
        """Leave a room. What is published to it later is not written; what waits in the outbox still is."""
        await self._owner.leave_room(self, room)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Yield what the client sends until the socket is closed; without the answers to JSON pings."""
        while self.is_heard:
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

    @property
    def is_heard(self) -> bool:
        """Whether what the client sent goes to the application: not after it was sent away."""
        return self.ended is None or (self.ended is Ended.GONE and not self._was_closed)

    @property
    def _is_being_read_out(self) -> bool:
        """Whether the peer is gone, and the application still takes what it sent before."""
        return self.ended is Ended.GONE and not self._is_finished

    def _is_over(self) -> bool:
        """Return True for a peer that has just gone, and raise when the connection has ended otherwise."""
        if not self._is_being_read_out:
            check_alive(self.ended, self.connection_id)
        return self.ended is not None

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
        """Push from another event loop's thread; the outcome is pending."""
        lost = partial(self.lost, Ended.FAILED)
        return hand_over(self.loop, partial(self.push, message), lost)

    def push(self, message: Encoded) -> Sent:
        """Write, or let the outbox take it.

        The first step of the send runs here, so an error is known at once and a send that does not wait
        costs no task. A send that waits is finished by this connection's writer.
        """
        if self.fast_path is not None:
            try:
                self.fast_path.write_soon(message.frame(self.window_bits))
            except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
                return self.failed(error)
            self._owner.wrote(1)
            return TAKEN
        if self.ended is not None:
            return Sent(f"connection has ended: {self.ended.value}")
        if self.is_writing or not self.is_open:
            return self._queue().put(message)
        if self.native is not None and self.native.is_paused:  # since before it was registered
            sent = self._queue().put(message)
            self._queue().start()
            return sent
        if not self._owner.limiter.is_open():
            sent = self._queue().put(message)
            self._owner.limiter.wait(self._queue().start)
            return sent
        return self._begin_to_send(message)

    def _begin_to_send(self, message: Encoded) -> Sent:
        try:
            send = self._transport.send(message)
            waiting_for = send.send(None)
        except StopIteration:
            self._owner.wrote(1)
            return TAKEN
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - no await of ours: the socket failed
            return self.failed(error)
        self._queue().write_after(resume_coroutine(send, waiting_for))
        return self._queue().taken()

    def write(self, frames: bytes) -> bool:
        """Write prepared frames to the native socket now; False when the socket failed."""
        try:
            if self.fast_path is not None:
                self.fast_path.write_now(frames)
        except Exception as error:  # noqa: BLE001 - whatever a socket raises, it is the socket that failed
            self.failed(error)
            return False
        return True

    def lost(self, why: Ended, error: str) -> None:
        """End: forget the connection now, and close its socket soon."""
        self._owner.lost(self, why, error)

    def failed(self, error: BaseException) -> Sent:
        """End: a write raised. With ``OSError`` (ASGI) or ``WebSocketDisconnect`` the peer is gone."""
        reason = str(error) or type(error).__name__
        if isinstance(error, OSError | WebSocketDisconnect) and not self._transport.awaited:
            self.gone(reason)
        else:
            self.lost(Ended.FAILED, reason)
        return Sent(self.error or reason)

    def _queue(self) -> SocketWriter:
        if self._writer is None:
            self._writer = SocketWriter(self, self._owner, self._transport)
        return self._writer

    def use_fast_path(self) -> None:
        """Let frames go straight to the native socket again, if nothing is in front of them."""
        native = self._transport.native
        if native is None or self.ended is not None or self.is_writing:
            return
        if native.is_open and not native.is_paused:
            self.fast_path, self.window_bits = native, native.window_bits

    @property
    def is_writing(self) -> bool:
        """Whether something is queued or on its way."""
        return self._writer is not None and self._writer.is_writing

    async def drained(self) -> str | None:
        """Return once everything pushed so far was written; the error if the connection ended before."""
        if self._writer is not None and self._writer.is_writing:
            return await self._writer.settled()
        if self.fast_path is not None:
            self.fast_path.flush()
        return None if self.ended is None else f"connection has ended: {self.ended.value}"

    @property
    def queued_bytes(self) -> int:
        """Bytes in the outbox."""
        return 0 if self._writer is None else self._writer.queued_bytes

    # Ending. The owner calls these, once, on the connection's own loop.

    def end(self, why: Ended) -> None:
        """Nothing more is sent from now on."""
        self.ended, self.fast_path = why, None

    async def finish(self, code: int, reason: str) -> bool:
        """Close the socket; return whether it took the close within ``close_timeout_s``.

        A peer that is slow has ``patience_s``. With one that is gone, what it sent before goes to the application.
        """
        if self.ended is Ended.GONE:
            await self._close.read_out()
            return True
        if not self.is_open and self.ended is not None and self.ended is not Ended.RELEASED:
            # Its handler is about to accept it.
            self._close.deny(*denial(self.ended, self.client_id, code, reason))
            return True
        return await self._close.finish(code, reason)

    @property
    def _close(self) -> Closing:
        if self._closing is None:
            self._closing = Closing(self.loop, self._owner.limits, self._transport, self._writer)
        return self._closing

    @property
    def _is_finished(self) -> bool:
        return self._closing is not None and self._closing.is_finished

    def abort(self) -> None:
        """Wait no longer for the close that is under way."""
        if self._closing is not None:
            self._closing.abort()

    async def wait_closed(self) -> None:
        """Wait for the close that somebody else began: a handler that ends sooner has the server close first."""
        if self.ended is not None and self.loop is running_loop():
            await self._close.wait()

    def let_go(self) -> None:
        """Give the socket back as it was, open."""
        self._close.let_go()

    # What the socket says.

    def opened(self) -> None:
        """The socket was accepted."""
        self.is_open = True
        if self._writer is not None:
            self._writer.start()
        self.use_fast_path()

    def paused(self) -> None:
        """The peer does not keep up: what is sent from now on waits in the outbox."""
        self.fast_path = None
        self._owner.paused()
        if not self.is_writing and self.ended is None:
            self._queue().write_after(None)

    def cut(self) -> None:
        """Nothing more can be written."""
        self.fast_path = None

    @property
    def native(self) -> NativeSocket | None:
        """The server's socket that takes prepared frames, if the server has such."""
        return self._transport.native

    @property
    def is_deaf(self) -> bool:
        """Whether nothing is read from the socket, since the application does not keep up."""
        native = self._transport.native
        return native is not None and not native.is_reading

    @property
    def is_parked(self) -> bool:
        """Whether the socket does without its ASGI application."""
        return self._websocket is None

    @property
    def handshake(self) -> HTTPConnection | None:
        """The request that opened the socket, with ``client``, ``headers``, ``url``, ``path_params``, ``app``.

        None for an object that is no Starlette WebSocket. A parked socket has it with ``keep_handshake`` only,
        which costs 1 to 3 KiB a connection.
        """
        return self._handshake if self.is_parked else handshake_of(self._websocket)

    def park(self, inbox: Events) -> None:
        """Keep the socket when its ASGI application returns; what comes in goes to ``inbox``."""
        if self._owner.limits().keep_handshake:
            self._handshake = handshake_of(self._websocket)
        self._websocket = None
        cast("NativeTransport", self._transport).park(inbox)

    async def flush(self) -> None:
        """Wait until what was sent before is written, so that the application's own send comes behind it."""
        if self._writer is None or not self._writer.is_writing or not self.is_open:
            return
        if not self._writer.is_written_by(asyncio.current_task()):
            with suppress(TimeoutError):  # more came behind it all the time
                async with asyncio.timeout(self._owner.limits().write_timeout_s):
                    await self._writer.settled()

    def heard(self) -> None:
        """A message came in."""
        self.used_at_s = now_s = self.loop.time()
        self.heartbeat.heard(now_s)

    def hung_up(self, code: int, reason: str) -> None:
        """The peer is gone; what the handler does about it ends the connection."""
        self.closed_with = (code, reason)
        self.read_out()

    def read_out(self) -> None:
        """Nothing more goes to the application."""
        if self.ended is Ended.GONE:
            self._close.was_read_out()

    def gone(self, error: str) -> None:
        """The socket is closed: release it, while the application takes what came before that."""
        if self.ended is None:
            self.error = error
            self._owner.gone(self)
            if self.closed_with is not None:
                self.read_out()

    def abandoned(self) -> None:
        """The application has ended without a word about this connection."""
        self.gone("the application has ended")
        self.read_out()

    def deferred(self) -> None:
        """More came in than one turn of the event loop is to handle."""
        self._owner.deferred()

    def refused(self, code: int) -> None:
        """The server refused what came in."""
        self._owner.refused(code)

    async def too_large(self, size: int, limit: int) -> None:
        """A message over the limit came in."""
        self._owner.refused(close_codes.TOO_LARGE)
        await self._owner.end(
            self, Ended.EVICTED, close_codes.TOO_LARGE, f"{size} bytes, the limit is {limit}"
        )
