"""One registered socket, as applications and the registry hold it."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from starlette.requests import HTTPConnection

from .. import close_codes
from ..exceptions import ConnectionNotFoundError
from ..models import CloseCause, Message
from ..names import ConnectionId
from ..runtime.loops import running_loop
from ..streams.stream import Stream, Streams
from ..wire.messages import Encoded
from .heartbeat import Heartbeat
from .lifecycle import ENDED, Ended, check_alive
from .native import NativeTransport, open_transport
from .outbox import is_behind
from .phase import Phase, WriterOwner
from .sends import Sent, settled
from .session import Session
from .transport import Events, NativeSocket, Transport, handshake_of, is_accepted
from .writer import SocketWriter

FIRST_LOOK_S = 0.02
"""Seconds until it is looked for an answer to a ping. Each later look has twice the distance of the one before."""
REQUEST_TIMEOUT_S = 10.0
"""Seconds to wait for the answer to a request, if the application names no others."""


class Owner(WriterOwner, Protocol):
    """The node of a connection."""

    streams: Streams

    def encode(self, message: Message) -> Encoded:
        """Encode a message. Raises ``MessageError``."""
        ...

    async def send(self, connection: "Connection", message: Encoded) -> str | None:
        """Send to exactly this connection, behind everything sent to it before. Return the error, if any."""
        ...

    def lost(self, connection: "Connection", why: Ended, error: str) -> None:
        """End the connection now and close its socket soon. Called on its own loop."""
        ...

    def gone(self, connection: "Connection", error: str) -> None:
        """End the connection now: its socket is closed. Called on its own loop."""
        ...

    async def end(self, connection: "Connection", cause: CloseCause, code: int, reason: str) -> None:
        """End the connection, close its socket and release it."""
        ...

    async def join_room(self, connection: "Connection", room: str) -> None:
        """Add the connection to a room."""
        ...

    async def leave_room(self, connection: "Connection", room: str) -> None:
        """Remove the connection from a room."""
        ...

    async def request(self, connection: "Connection", name: str, data: Any, timeout_s: float) -> Any:
        """Return the client's answer to a request. Raises the errors of ``Connection.request``."""
        ...

    async def update_metadata(
        self, connection: "Connection", given: Mapping[str, Any], *, replaces: bool
    ) -> None:
        """Change the metadata of the connection."""
        ...

    def is_pong(self, message: str | bytes) -> bool:
        """Whether a message has the form of an answer to a JSON ping."""
        ...


OpenSession = Callable[["Connection"], Session]


class Connection:
    """One socket of one client. ``manager.connect`` makes it; keep it as long as the socket lives.

    Attributes:
        client_id: The id that the application addresses.
        connection_id: ``<node_id>.<counter>``. It is never reused, and changes if the node's lease has lapsed.
        metadata: The metadata given to ``connect``, read-only. It is part of presence; see ``update_metadata``.
        rooms: Rooms of the connection.
        user_data: Values of the application for this connection. They stay on this node.
        state: The application's own: ``Identity.state``, or anything assigned here. Private to this node, not
            part of the memory limits.
        registration: Record of the owner, which nothing here reads.
        since: Time of the registration, UTC.
        writer: The writing half: phase, outbox, close.
        session: The part of a socket of ``stabilizer.v1``; None for any other socket.
    """

    __slots__ = (
        "__weakref__", "_cause", "_handshake", "_owner", "_transport", "_was_asked", "_was_closed", "_websocket",
        "client_id", "closed_with", "connection_id", "expires_at_s", "heartbeat", "loop", "metadata", "opened_at_s",
        "registration", "rooms", "session", "since", "state", "used_at_s", "user_data", "writer",
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
        open_session: OpenSession | None = None,
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
        self.expires_at_s: float = math.inf  # of its credentials, by the clock of the event loop
        # Thousands that connect at once must not be pinged at once.
        head_start_s = random.random() * owner.limits().heartbeat_interval / 4
        self.heartbeat: Heartbeat = Heartbeat(self.opened_at_s - head_start_s)
        self.closed_with: tuple[int, str] | None = None
        self._owner = owner
        self._websocket = websocket
        self._handshake: HTTPConnection | None = None  # of a parked socket
        self._cause: CloseCause | None = None
        self._was_asked = False  # by a JSON ping
        self._was_closed = False  # by the application
        has_session = open_session is not None
        self._transport: Transport = open_transport(websocket, owner.limits, has_session=has_session)
        self.writer: SocketWriter = SocketWriter(self, owner, self._transport, has_session=has_session)
        self._transport.attach(self)
        self.session: Session | None = None if open_session is None else open_session(self)
        if self.session is None and is_accepted(websocket):
            self.writer.opened()

    def __repr__(self) -> str:
        return f"<Connection {self.connection_id} client_id={self.client_id!r}>"

    # Called by applications

    async def send(self, message: Message) -> None:
        """Send to this socket, in order with everything else that is sent to it.

        Returns when the message was written or is in the outbox. A slow peer does not delay the caller. A message to
        a peer that has just gone is dropped, so that the handler can read the peer's last messages.

        Raises:
            MessageError: It cannot be encoded or is too long; nothing was sent.
            ConnectionNotFoundError: The connection has ended. A ``ConnectionTimeoutError`` or a
                ``SlowConsumerError`` if that is the reason.
            BackendUnavailableError: 4 MiB of earlier messages waited for Redis for ``redis_timeout_s``.
        """
        encoded = self._owner.encode(message)
        if self._is_over():
            return
        error = await self._owner.send(self, encoded)
        if error is not None and not self._is_being_read_out:
            raise ConnectionNotFoundError(f"connection {self.connection_id} failed: {error}")

    async def request(self, name: str, data: Any = None, *, timeout: float = REQUEST_TIMEOUT_S) -> Any:
        """Send a request to this socket, and return the answer of its client: a JSON value.

        ``timeout`` is in seconds. Cancelling the call tells the client that no answer is needed any more. Do not wait
        for one in ``on_connect``, which runs before the first frame.

        Raises:
            RequestTimeoutError: No answer came in time. The client may have carried the request out.
            RequestFailedError: The client answered with an error, or 64 requests to it are open.
            RequestUnsupportedError: The socket does not speak ``stabilizer.v1``.
            ConnectionNotFoundError: The connection has ended, perhaps before the answer.
            MessageError: ``data`` cannot be encoded, or is too long.
            InvalidNameError, ConfigurationError: ``name`` or ``timeout`` cannot be used.
        """
        check_alive(self.ended, self.connection_id)
        return await self._owner.request(self, name, data, timeout)

    def stream(self, *, metadata: Mapping[str, Any] | None = None) -> AbstractAsyncContextManager[Stream]:
        """Return a block that sends text to this socket in small pieces; see ``manager.stream``.

        Raises:
            WebSocketStabilizerError: As ``send``, from the block and from ``write``.
        """
        return self._owner.streams.open(self.send, metadata)

    async def close(self, code: int = close_codes.NORMAL, reason: str = "normal closure") -> None:
        """Close exactly this socket and release it; a no-op when it has ended.

        Raises:
            ConfigurationError: ``code`` may not be sent.
        """
        close_codes.check(code)
        await self.release(CloseCause.RELEASED, code, reason)

    async def join(self, room: str) -> None:
        """Join a room. Every message published to it after this returns is received.

        A no-op if the peer has just gone.
        """
        if not self._is_over():
            await self._owner.join_room(self, room)

    async def leave(self, room: str) -> None:
        """Leave a room. Later messages to it are not written. Messages in the outbox still are."""
        await self._owner.leave_room(self, room)

    async def update_metadata(self, changes: Mapping[str, Any], *, replaces: bool = False) -> None:
        """Change the metadata of this connection, which presence shows on all replicas.

        Keys of ``changes`` get their values, and other keys stay. With ``replaces``, ``changes`` are all there is.
        Concurrent calls are merged, the last one for each key. After the return ``metadata`` has the change, and
        ``on_metadata`` has run. A no-op if the peer has just gone.

        Raises:
            MessageError: ``changes`` is no mapping, or the metadata is no JSON or too long; nothing was changed.
            MemoryLimitExceededError: The metadata exceeds a memory limit; nothing was changed.
            ConnectionNotFoundError: The connection has ended.
            BackendUnavailableError: Redis did not answer, and ``on_backend_loss`` is "refuse". Other replicas see
                the change when Redis is back.
        """
        if not self._is_over():
            await self._owner.update_metadata(self, changes, replaces=replaces)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Yield messages of the client until the socket is closed, without answers to JSON pings.

        For a client of ``stabilizer.v1``, a message that is neither text nor bytes is yielded as JSON text. A
        numbered message is confirmed when the next one is asked for.
        """
        if self.session is not None:
            while (message := await self.session.next_message()) is not None:
                yield message.plain
                self.session.handled(message)
            return
        while (data := await self.next_frame()) is not None:
            if not self.is_pong(data):
                yield data

    @property
    def handshake(self) -> HTTPConnection | None:
        """The request that opened the socket, with ``client``, ``headers``, ``url``, ``path_params``, ``app``.

        None for an object that is no Starlette WebSocket. A parked socket has it with ``keep_handshake`` only,
        which costs 1 to 3 KiB a connection.
        """
        return self._handshake if self.is_parked else handshake_of(self._websocket)

    @property
    def cause(self) -> CloseCause | None:
        """Why the connection has ended; None before that. It is settled when ``on_disconnect`` runs."""
        return None if self.ended is None else self._cause

    # Called by the node

    async def release(self, cause: CloseCause, code: int, reason: str) -> None:
        """Close the socket for its handler, which has ended or has asked for it."""
        self._was_closed = True
        self.read_out()
        await self._owner.end(self, cause, code, reason)

    async def next_frame(self) -> str | bytes | None:
        """Return what the client sends next, or None if nothing more goes to the application."""
        if not self.is_heard:
            return None
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            return None
        text: str | None = event.get("text")
        return event.get("bytes") or b"" if text is None else text

    @property
    def ended(self) -> Ended | None:
        """Why the connection has ended; None before that."""
        return self.writer.ended

    @property
    def is_open(self) -> bool:
        """Whether the socket was accepted and has not ended."""
        return self.writer.phase in (Phase.DIRECT, Phase.QUEUED)

    @property
    def is_heard(self) -> bool:
        """Whether messages of the client go to the application: not after the node or the application closed it."""
        return self.ended is None or (self.ended is Ended.GONE and not self._was_closed)

    @property
    def _is_being_read_out(self) -> bool:
        """Whether the peer is gone, and the application still reads its last messages."""
        return self.ended is Ended.GONE and not self.writer.is_closed

    def _is_over(self) -> bool:
        """Return True for a peer that has just gone, and raise if the connection has ended otherwise."""
        if not self._is_being_read_out:
            check_alive(self.ended, self.connection_id)
        return self.ended is not None

    def push(self, message: Encoded) -> Sent:
        """Write or queue a message, from any event loop. The result may be pending."""
        self.used_at_s = self.loop.time()
        return self.writer.push(message) if self.loop is running_loop() else self.writer.hand_over(message)

    def falls_behind(self, message: Encoded) -> bool:
        """Whether no more messages of a log must be pushed after this one, which was: the log has them.

        The peer of a socket of ``stabilizer.v1`` reads too slowly. It gets the others when it has read on.
        """
        return (
            self.session is not None
            and message.address.id > 0
            and self.loop is running_loop()
            and is_behind(self.writer.queued_bytes, self._owner.limits().outbox_size)
            and self.session.following.stop(message.address.log, message.address.id)
        )

    async def settled(self, sent: Sent) -> str | None:
        """Wait for the result of a push and return the error, if any."""
        return sent.error if sent.pending is None else await settled(sent.pending, self._owner.limits())

    def ask(self, ping: Encoded) -> None:
        """Push a ping that is a message, from any event loop. Its answers do not go to the application."""
        self._was_asked = True
        if self.loop is running_loop():
            self.writer.push(ping)
        else:
            self.writer.hand_over(ping)

    async def answers(self, within_s: float) -> bool:
        """Ask the peer for a sign of life, and return whether one arrives in time.

        True for a socket that is not read, because its answer would not be read either. False without a way to ask.
        """
        if self.native is not None:
            self.native.ping()
        elif self.session is not None:
            self.session.ask()
        else:
            return False
        now_s, pause_s = running_loop().time(), FIRST_LOOK_S
        deadline_s = now_s + within_s
        self.heartbeat.asked(now_s)
        while (
            self.ended is None and not self.is_deaf and not self.heartbeat.is_answered and now_s < deadline_s
        ):
            await asyncio.sleep(min(pause_s, deadline_s - now_s))
            now_s, pause_s = running_loop().time(), 2 * pause_s
        return self.ended is None and (self.is_deaf or self.heartbeat.is_answered)

    def is_pong(self, message: str | bytes) -> bool:
        """Whether this answers a JSON ping. Without such a ping before it is an ordinary message."""
        return self._was_asked and self._owner.is_pong(message)

    def expires(self, at: datetime | None) -> None:
        """Note when the credentials of the client expire; None for never."""
        left_s = math.inf if at is None else (at - datetime.now(UTC)).total_seconds()
        self.expires_at_s = self.loop.time() + left_s

    @property
    def expires_in_s(self) -> int | None:
        """Whole seconds until the credentials of the client expire, at least 0; None for never."""
        left_s = self.expires_at_s - self.loop.time()
        return None if left_s == math.inf else max(0, int(left_s))

    def rename(self, connection_id: ConnectionId) -> None:
        """Take another id. Only the tables that list the connection call this."""
        self.connection_id = connection_id

    def end(self, cause: CloseCause, error: str = "") -> bool:
        """Accept no more messages, for this reason. Return False if the connection had ended before."""
        if not self.writer.end(ENDED[cause], error):
            return False
        self._cause = self._cause or cause
        if self.session is not None:
            self.session.ended()
        return True

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return the close code and reason that are sent: a socket of ``stabilizer.v1`` has others for some."""
        return (code, reason) if self.session is None else self.session.closing(code, reason)

    async def finish(self, code: int, reason: str, patience_s: float = 0.0) -> bool:
        """Close the socket of a connection that has ended. See ``SocketWriter.finish``."""
        return await self.writer.finish(*self.closing(code, reason), patience_s)

    async def wait_closed(self) -> None:
        """Wait for a close that has begun elsewhere. A handler that returns sooner makes the server close first."""
        if self.ended is not None and self.loop is running_loop():
            await self.writer.wait_closed()

    def abort(self) -> None:
        """Let the deadline of the close pass now."""
        self.writer.abort()

    def let_go(self) -> None:
        """Give the socket back open, as it was found."""
        self.writer.let_go()

    @property
    def native(self) -> NativeSocket | None:
        """The native socket, if the server has one."""
        return self._transport.native

    @property
    def is_deaf(self) -> bool:
        """Whether nothing is read from the socket, because the application does not keep up."""
        native = self._transport.native
        return native is not None and not native.is_reading

    @property
    def is_parked(self) -> bool:
        """Whether the ASGI application has returned without closing the socket."""
        return self._websocket is None

    def park(self, inbox: Events) -> None:
        """Keep the socket when its ASGI application returns. Inbound events go to ``inbox``."""
        if self._owner.limits().keep_handshake:
            self._handshake = handshake_of(self._websocket)
        self._websocket = None
        cast("NativeTransport", self._transport).park(inbox)

    def lost(self, why: Ended, error: str) -> None:
        """End the connection now and close its socket soon."""
        self._owner.lost(self, why, error)

    def emptied(self) -> None:
        """Note that no message is queued any more. Logs that have waited for that go on."""
        if self.session is not None:
            self.session.following.go_on()

    def read_out(self) -> None:
        """Note that nothing more goes to the application."""
        self.writer.read_out()

    # Events of the socket: see ``Observer``

    def opened(self) -> None:
        self.writer.opened()

    def sent(self, message: Encoded) -> None:
        self.push(message)

    def paused(self) -> None:
        self.writer.paused()

    def cut(self) -> None:
        self.writer.cut()

    async def flush(self) -> None:
        await self.writer.flush()

    def heard(self) -> None:
        self.used_at_s = now_s = self.loop.time()
        self.heartbeat.heard(now_s)

    def received(self, size: int, *, is_text: bool) -> None:
        self._owner.counters.received(size, is_text=is_text)
        self.heard()

    def hung_up(self, code: int, reason: str) -> None:
        if self.ended is None or self.ended is Ended.GONE:  # otherwise it is the echo of our close
            self.closed_with = (code, reason)
            if self._cause in (None, CloseCause.PEER_GONE):
                is_gone = code == close_codes.ABNORMAL
                self._cause = CloseCause.PEER_GONE if is_gone else CloseCause.PEER_CLOSED
        self._read_out_unless_ahead()

    def closes(self, code: int, reason: str) -> None:
        if self.ended is None:
            self.closed_with, self._cause = (code, reason), self._cause or CloseCause.RELEASED

    def gone(self, error: str) -> None:
        if self.ended is None:
            self._owner.gone(self, error)
            if self.closed_with is not None:
                self._read_out_unless_ahead()

    def _read_out_unless_ahead(self) -> None:
        """Note the end of the input, unless messages from before it wait in the session, which then notes it."""
        if self.session is None or not self.session.reads_ahead:
            self.read_out()

    def abandoned(self) -> None:
        if self.ended is None:  # neither the client nor the handler has closed it
            self._cause = self._cause or CloseCause.HANDLER_ERROR
        self.gone("the application has ended")
        self.read_out()

    def deferred(self) -> None:
        self._owner.counters.reads_deferred += 1

    def refused(self, code: int) -> None:
        counters, is_too_large = self._owner.counters, code == close_codes.TOO_LARGE
        self._cause = self._cause or (CloseCause.TOO_LARGE if is_too_large else CloseCause.PROTOCOL_ERROR)
        counters.messages_too_large += is_too_large
        counters.messages_too_fragmented += code == close_codes.POLICY_VIOLATION
        counters.messages_invalid += code not in (close_codes.TOO_LARGE, close_codes.POLICY_VIOLATION)

    async def too_large(self, size: int, limit: int) -> None:
        self.refused(close_codes.TOO_LARGE)
        reason = f"{size} bytes, the limit is {limit}"
        await self._owner.end(self, CloseCause.TOO_LARGE, close_codes.TOO_LARGE, reason)
