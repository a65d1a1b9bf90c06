"""The manager, the object that applications use: a thin façade over ``registry.registry``."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from typing import Any, Literal, Self, overload

from fastapi import APIRouter, FastAPI, WebSocket

from . import close_codes
from .config import WebSocketConfig
from .exceptions import (
    LOSSES,
    BroadcastFailedError,
    ConfigurationError,
    ConnectionNotFoundError,
)
from .local.connection import REQUEST_TIMEOUT_S, Connection
from .models import (
    BroadcastResult,
    ClosedConnection,
    HistoryPage,
    Identity,
    Message,
    NodeInfo,
    PresenceEntry,
    RoomPage,
    Sent,
    ShutdownReport,
)
from .names import NodeId, as_list, check_client_id, check_each, check_room
from .observe.opentelemetry import export
from .registry.exclusions import exclusions_of
from .registry.hooks import HookDecorators, OnMessage
from .registry.registry import Registry
from .registry.state import NodeState
from .registry.statistics import snapshot
from .runtime.logs import manager_logger
from .runtime.metrics import Statistics
from .runtime.seconds import positive_seconds
from .runtime.tracing import sending
from .sessions.sessions import Sessions
from .streams.stream import Stream
from .uvicorn.redaction import tokens_redacted
from .web import handlers, routes, serving
from .web.faults import fault_of
from .web.lifespan import announce, install_protocol, shut_down_in_time
from .web.routers import Routers
from .wire.messages import Encoded, encode

Identify = Callable[..., Identity | Awaitable[Identity]]


class WebSocketConnectionManager(HookDecorators, Routers):
    """Registers WebSockets, and sends to clients, rooms or all connections on any replica.

    Without ``redis_url`` it works in one process and needs no ``start()``. With ``redis_url``, all replicas with the
    same ``redis_url`` and ``namespace`` form one registry. A replica belongs to it from ``start()`` to
    ``graceful_shutdown()``. Calls must be made on the event loop of ``start()``.
    """

    def __init__(self, config: WebSocketConfig | None = None) -> None:
        self.config: WebSocketConfig = config or WebSocketConfig()
        self._log = manager_logger(self.config.log_level)
        self._registry: Registry = self._make_registry()
        self._state: NodeState = self._registry.state
        self._sessions = Sessions(self._registry, fault_of)
        if self.config.enable_otel_metrics:
            histograms, namespace = self._state.histograms, self.config.namespace
            self._exported = export(self._registry.telemetry, histograms, namespace)
        self._while_started = ExitStack()
        HookDecorators.__init__(self, self._state.hooks)
        Routers.__init__(self, self._registry, self.history, self.broadcast)

    def _make_registry(self) -> Registry:
        return Registry(self.config, self._log)

    # Life

    async def start(self) -> None:
        """Join the registry (with ``redis_url``) and start the heartbeat. Allowed again after a shutdown.

        Until the shutdown, uvicorn's logs show no reconnect token.

        Raises:
            BackendUnavailableError: Redis does not answer, and ``on_backend_loss`` is "refuse".
            ConfigurationError: Redis cannot be used: wrong password or database, too old, or not a Redis server.
        """
        if await self._registry.start():
            self._while_started.enter_context(tokens_redacted())
            announce(self._state)
            with suppress(*LOSSES):  # each beat publishes
                await self._registry.telemetry.publish()

    async def graceful_shutdown(self, timeout: float = 30.0) -> ShutdownReport:
        """Close all sockets with 1001 within ``timeout`` seconds, release their entries and leave the registry.

        If Redis does not answer, or hooks of ``on_presence`` are slow, the shutdown takes longer by at most about
        twice ``redis_timeout_s``. Another replica reports the presence events for which there was no time. Afterwards
        ``connect`` raises ``ShutdownError`` until ``start()`` is called again.
        """
        try:
            return await self._registry.stop(timeout)
        finally:
            self._while_started.close()

    async def drain(self, over: float | None = None) -> ShutdownReport:
        """Close all clients of this replica within ``over`` seconds, so that they reconnect to other replicas.

        The default of ``over`` is ``drain_over_s``. Clients are closed one by one with 1012 and
        ``{"reconnect_in_ms": …}``, after their queued messages. Those of ``stabilizer.v1`` are told to open their
        next socket, and are closed when they have it or the drain ends. From the call on, ``/readyz`` returns 503 and
        new connections are rejected, until ``start()`` after ``graceful_shutdown``. A second call joins the first and
        may shorten it. Cancelling a caller does not end the drain.

        Raises:
            ConfigurationError: ``over`` is not a positive number.
            ShutdownError, NotStartedError: The manager is shut down or not started.
        """
        self._registry.check_usable()
        return await self._registry.drain.run(self.config.drain_over_s if over is None else over)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start before the first request and shut down after the last: ``FastAPI(lifespan=manager.lifespan)``."""
        install_protocol(self._state, app)
        await self.start()
        async with shut_down_in_time(self._registry, self.graceful_shutdown):
            yield

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.graceful_shutdown()

    # Connections

    async def connect(
        self,
        client_id: str,
        websocket: WebSocket,
        metadata: Mapping[str, Any] | None = None,
        *,
        state: Any = None,
    ) -> Connection:
        """Register an accepted socket; the client's older socket, on any replica, is closed with 1000.

        ``state`` becomes ``connection.state``, which is private to this replica and set before ``on_connect`` runs.

        Raises:
            InvalidNameError: ``client_id`` is empty or illegal (a ``ConnectionNotFoundError``).
            ConnectionLimitExceededError: ``max_connections`` is reached; or the client's limit is, and
                ``on_client_overflow`` is "reject".
            MemoryLimitExceededError: A memory limit is reached and no connection can be evicted.
            MessageError: ``metadata`` is not JSON or too large (only with ``redis_url``).
            ShutdownError: The manager is shut down. During and after a drain it is a ``DrainingError``.
            BackendUnavailableError: Redis is unavailable, and ``on_backend_loss`` is "refuse". The socket was closed
                with 1013.
        """
        identity = Identity(client_id, metadata or {}, state=state)
        return await serving.register(self._registry, websocket, identity)

    async def check_open(self) -> None:
        """Reject a handshake that this replica would reject for any client. A FastAPI dependency.

        ``@manager.websocket`` runs it before ``identify``. On other routes, make it the first dependency:
        ``@app.websocket("/ws", dependencies=[Depends(manager.check_open)])``. Otherwise a later dependency may redeem
        a token for a socket that is then rejected.

        Raises:
            HTTPException: 503 with ``Retry-After``. The manager is not started, shut down or draining;
                ``max_connections`` is reached; or Redis is unavailable and ``on_backend_loss`` is "refuse".
        """
        routes.check_open(self._registry)

    @asynccontextmanager
    async def connection(
        self,
        websocket: WebSocket,
        client_id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        rooms: Iterable[str] = (),
        subprotocol: str | None = None,
        state: Any = None,
    ) -> AsyncIterator[Connection]:
        """Register a socket for the duration of a block, and release this socket at its end.

        A socket that is not accepted yet is claimed before it is accepted, so that a rejection is an HTTP status.
        The block ends without an exception when the client disconnects.

        A client of ``stabilizer.v1`` is accepted first, and a rejection is a close code. Read such a client by
        iterating over the connection, because ``websocket.receive`` returns frames of the subprotocol.

        Raises:
            HTTPException: Rejected before accept; FastAPI sends it as the response. 400: illegal client id, room or
                metadata. 403: ended by ``disconnect``. 409: the client's limit is reached, or a newer connection
                displaced it. 503: a retry may succeed.
            WebSocketException: A client of ``stabilizer.v1`` was rejected; Starlette closes the socket with the code.
            InvalidNameError, MessageError: ``client_id`` is not a string, ``metadata`` is not a dict.
            WebSocketStabilizerError: Rejected after accept, as by ``connect``; the socket was closed.
        """
        identity = Identity(client_id, metadata or {}, as_list(rooms), subprotocol, state)
        async with routes.connected(self._sessions, websocket, identity) as connection:
            yield connection

    async def serve(
        self,
        websocket: WebSocket,
        client_id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        rooms: Iterable[str] = (),
        subprotocol: str | None = None,
        state: Any = None,
        on_message: OnMessage | None = None,
        park: bool = False,
    ) -> None:
        """Register a socket and call ``on_message`` with its messages, one at a time, until it is closed.

        With ``park``, under uvicorn, it returns at once and the server keeps the socket. The handler then ends, its
        dependencies are released, and the socket needs a third of the memory.

        Raises:
            HTTPException, WebSocketStabilizerError: As by ``connection``.
            ConfigurationError: ``on_message`` has an annotation that cannot be used.
        """
        identity = Identity(client_id, metadata or {}, as_list(rooms), subprotocol, state)
        receiver = routes.receiver_of(self._registry, on_message)
        await routes.serve(self._sessions, websocket, identity, receiver, park=park)

    def websocket(
        self, app: FastAPI | APIRouter, path: str, *, on_message: OnMessage | None = None
    ) -> Callable[[Identify], Identify]:
        """Return a decorator that adds a WebSocket route for a function that returns an ``Identity``.

        FastAPI resolves the parameters of the function. It runs after ``check_open`` and before accept, so an
        ``HTTPException`` in it is sent as an HTTP response.

        Raises:
            ConfigurationError: ``on_message`` has other parameters, or an annotation that cannot be used. At a
                handshake: no ``Identity`` was returned.
        """
        return routes.add_websocket_route(self._sessions, app, path, on_message, self.check_open)

    async def disconnect(
        self,
        client_id: str,
        code: int = close_codes.NORMAL,
        reason: str = "normal closure",
        *,
        connection_id: str | None = None,
    ) -> None:
        """Close and release all sockets of a client on any replica, or the one with ``connection_id``.

        In the handler that registered a socket with ``connect``, it closes only that socket. If the socket was
        displaced, timed out or closed elsewhere, it returns without an exception.

        A replica that is cut off from Redis closes the client when it returns within an hour, also after an error.

        Raises:
            ConnectionNotFoundError: The client is not connected, or has no such connection.
            ConfigurationError: ``code`` is not an allowed close code.
            BackendUnavailableError: Another replica, or Redis, did not answer; the close may still happen.
        """
        check_client_id(client_id)
        close_codes.check(code)
        mine = handlers.mine(self._registry, client_id) if connection_id is None else None
        if mine is not None:
            if mine.ended is not None:
                mine.read_out()
                handlers.check_ended(mine)
            await mine.close(code, reason)  # or wait for a close that has begun
            return
        if self._registry.is_closed:
            raise ConnectionNotFoundError(f"client {client_id!r} is not connected: the manager was shut down")
        self._registry.check_usable()
        request = {"do": "close", "code": code, "reason": reason, "connection_id": connection_id}
        await self._registry.requests.act(client_id, request)

    async def handle_pong(self, client_id: str) -> None:
        """Record that a client of this replica answered a ping. ``serve`` and iteration do this automatically."""
        for connection in self._state.shards.of_client(client_id):
            connection.heard()

    # Messages

    @overload
    async def send_to_client(
        self, client_id: str, message: Message, confirm: float | None = None, *, store: Literal[False] = False
    ) -> bool: ...

    @overload
    async def send_to_client(
        self,
        client_id: str,
        message: Message,
        confirm: float | None = None,
        *,
        store: Literal[True],
        key: str | None = None,
    ) -> Sent: ...

    async def send_to_client(
        self,
        client_id: str,
        message: Message,
        confirm: float | None = None,
        *,
        store: bool = False,
        key: str | None = None,
    ) -> bool | Sent:
        """Send to a client on any replica; return whether it was reached.

        A client is reached when a local socket or its outbox has the message. It is also reached when Redis has
        passed it to a replica that holds the client. With ``confirm`` (seconds), it must have been written to a
        socket. False then means that no confirmation came in time; the message may still arrive. While Redis is
        unavailable, the result is False for a client of another replica.

        With ``store`` the message is kept in the client's mailbox as well. A client of ``stabilizer.v1`` that is away
        gets it when it comes back. The result is a ``Sent``, which is true, and says whether the client was reached
        now. The message is delivered only if it was stored, also under ``on_backend_loss="degrade"``. A second one
        with the same ``key`` is dropped for 5 minutes, and has the id of the first.

        Raises:
            MessageError: It cannot be encoded, or is longer than ``max_message_size`` or ``Mailbox.bytes``; nothing
                was sent.
            ConfigurationError: ``confirm`` is not a positive number. ``store`` is given without ``mailbox`` in the
                settings, or ``key`` without ``store``.
            BackendUnavailableError: Redis did not answer, and the message is stored or ``on_backend_loss`` is
                "refuse". With ``outcome_unknown`` it may have been stored. Repeat it with a ``key`` to store it once.
        """
        name, encoded = check_client_id(client_id), self._encode(message)
        confirm = None if confirm is None else positive_seconds("confirm", confirm)
        with sending("client", encoded.size) as encoded.trace:
            if store or key is not None:
                return await self._registry.broadcasts.to_mailbox(
                    name, encoded, confirm, store=store, key=key
                )
            return await self._registry.outbound.to_client(name, encoded, confirm)

    async def send_to_clients(self, client_ids: Iterable[str], message: Message) -> int:
        """Send one message to several clients; return the number of those reached. Raises as ``send_to_client``."""
        names, encoded = check_each(client_ids, check_client_id), self._encode(message)
        if not names:
            return 0
        with sending("client", encoded.size) as encoded.trace:
            return sum(await self._registry.outbound.to_clients(names, encoded, None))

    async def request(
        self, client_id: str, name: str, data: Any = None, *, timeout: float = REQUEST_TIMEOUT_S
    ) -> Any:
        """Send a request to a client on any replica, and return its answer: a JSON value.

        It goes to all sockets of the client that speak ``stabilizer.v1``. The first answer counts, and the other
        sockets are told that none is needed any more. So they are if the call is cancelled.

        Raises:
            RequestTimeoutError: No answer came within ``timeout`` seconds. The client may have acted all the same.
            RequestFailedError: The client answered with an error, or 64 requests to it are open.
            RequestUnsupportedError: No socket of the client speaks ``stabilizer.v1``.
            ConnectionNotFoundError: The client is not connected, or was disconnected before it answered.
            MessageError: ``data`` cannot be encoded or is longer than ``max_message_size``; nothing was sent.
            InvalidNameError, ConfigurationError: ``name`` or ``timeout`` cannot be used.
            BackendUnavailableError: Redis did not answer, and the client is not on this replica.
        """
        check_client_id(client_id)
        self._check_readable()
        question = self._registry.questions.question(name, data, timeout)
        return await self._registry.questions.ask(client_id, question)

    def _encode(self, message: Message) -> Encoded:
        encoded = encode(message, self.config.max_message_size)
        self._check_readable()
        return encoded

    async def broadcast(
        self,
        message: Message,
        exclude_client: str | Iterable[str] | None = None,
        room: str | Iterable[str] | None = None,
        confirm: float | None = None,
        *,
        exclude_connection: Connection | str | Iterable[Connection | str] | None = None,
        store: bool | None = None,
        key: str | None = None,
    ) -> BroadcastResult:
        """Send to all connections, or to the members of one or several rooms (once to each socket).

        ``exclude_connection`` takes connections of any replica, or their ``connection_id``; other sockets of the
        same client get the message.

        The result counts the sockets of this replica; with ``confirm`` (seconds), those of all replicas that
        answered. While Redis is unavailable, only sockets of this replica are reached, and ``nodes`` is 1.

        Messages of rooms with a ``history`` are stored, unless ``store`` is False, and have ``result.id``. A second
        message with the same ``key`` to the same room is dropped for 5 minutes, and has the id of the first. A stored
        message is delivered only if it was stored, also under ``on_backend_loss="degrade"``.

        Raises:
            BroadcastFailedError: Every targeted socket failed.
            MessageError: It cannot be encoded, or is longer than ``max_message_size`` or ``History.bytes``; nothing
                was sent.
            ConfigurationError: ``confirm`` is not a positive number; or ``store`` or ``key`` is given without a
                history.
            BackendUnavailableError: Redis did not answer, and the message is stored or ``on_backend_loss`` is
                "refuse". With ``outcome_unknown`` it may have been stored. Some of several rooms may have it. Repeat
                it with a ``key`` to store it once in each.
        """
        encoded = self._encode(message)
        confirm = None if confirm is None else positive_seconds("confirm", confirm)
        exclude, rooms = check_each(exclude_client or None, check_client_id), check_each(room, check_room)
        exclude += exclusions_of(exclude_connection)
        if room is not None and not rooms:
            return BroadcastResult(0, 0, 0)  # an empty list of rooms has no members
        try:
            with sending("room" if rooms else "all", encoded.size) as encoded.trace:
                result = await self._registry.broadcasts.send(
                    encoded, exclude, rooms, confirm, store=store, key=key
                )
        except BroadcastFailedError:
            await asyncio.sleep(0)
            raise
        if result.failed:
            await asyncio.sleep(0)
        return result

    def stream(
        self, room: str, *, metadata: Mapping[str, Any] | None = None, store: bool | None = None
    ) -> AbstractAsyncContextManager[Stream]:
        """Return a block that broadcasts text to a room in small pieces, such as the tokens of a language model.

        >>> async with manager.stream(room="chat:7", metadata={"answers": 17}) as stream:
        ...     async for token in model(prompt):
        ...         await stream.write(token)

        Text of 50 ms, or of 16 KiB, is one JSON message: ``{"stream": id, "seq": 0, "text": "…"}``. The first one
        announces the stream, with ``metadata`` but without text. The last one has ``"end": true``. It also has
        ``"error": "failed"`` or ``"cancelled"`` if the block was left by an exception or a cancellation.

        The block ends when the last message has left, or at once if it is cancelled. ``store`` is that of
        ``broadcast``. Readers that have failed are no error.

        Raises:
            MessageError: ``metadata`` is no mapping or too large. ``write`` was called without a str.
            WebSocketStabilizerError: As ``broadcast``, from the block and from ``write``.
        """
        name = check_room(room)

        async def send(message: dict[str, Any]) -> None:
            with suppress(BroadcastFailedError):
                await self.broadcast(message, room=name, store=store)

        return self._state.streams.open(send, metadata)

    def stream_to_client(
        self, client_id: str, *, metadata: Mapping[str, Any] | None = None
    ) -> AbstractAsyncContextManager[Stream]:
        """Return a block that sends text to a client on any replica in small pieces; see ``stream``.

        Raises:
            ConnectionNotFoundError: The client was not reached. Later text is not sent.
            WebSocketStabilizerError: As ``send_to_client``, from the block and from ``write``.
        """
        name = check_client_id(client_id)

        async def send(message: dict[str, Any]) -> None:
            if not await self.send_to_client(name, message):
                raise ConnectionNotFoundError(f"client {name!r} was not reached, so its stream has ended")

        return self._state.streams.open(send, metadata)

    async def history(
        self, room: str | None = None, limit: int = 50, before: int | None = None
    ) -> HistoryPage:
        """Return the newest stored messages of a room, or without one of those to everybody.

        At most 1,000, all of them as they were sent, also to clients that some exclude. Older ones follow with
        ``before=page.cursor``.

        Raises:
            ConfigurationError: There is no history for the room, or for everybody. Or ``limit`` is no whole number.
            InvalidCursorError: ``before`` is not the cursor of a page (a ``ValueError``).
            BackendUnavailableError: Redis did not answer.
        """
        self._check_readable()
        return await self._registry.archive.page("" if room is None else check_room(room), limit, before)

    async def delete_history(self, room: str | None = None) -> bool:
        """Delete the stored messages of a room, or without one of those to everybody; return whether there were any.

        Clients of ``stabilizer.v1`` that have not received all of them are told of the loss.

        Raises:
            ConfigurationError: There is no history for the room, or for everybody.
            BackendUnavailableError: Redis did not answer. With ``outcome_unknown`` they may be deleted.
        """
        self._check_readable()
        return await self._registry.archive.delete("" if room is None else check_room(room))

    async def delete_mailbox(self, client_id: str) -> bool:
        """Delete the messages in a client's mailbox; return whether there were any.

        Connections of ``stabilizer.v1`` that have not received all of them are told of the loss.

        Raises:
            ConfigurationError: ``mailbox`` is not set.
            BackendUnavailableError: Redis did not answer. With ``outcome_unknown`` they may be deleted.
        """
        name = check_client_id(client_id)
        self._check_readable()
        return await self._registry.archive.delete_mailbox(name)

    # Rooms

    async def join(self, client_id: str, room: str) -> None:
        """Add a client, on any replica, to a room. Messages to the room after the return reach the client.

        Raises:
            ConnectionNotFoundError: The client is not connected.
            ConnectionLimitExceededError: The connection is in ``max_rooms_per_connection`` rooms.
            BackendUnavailableError: Another replica, or Redis, did not answer; the join may still happen.
        """
        await self._act(client_id, {"do": "join", "room": check_room(room)})

    async def leave(self, client_id: str, room: str) -> None:
        """Remove a client, on any replica, from a room. A no-op if it is not a member. Raises as ``join``.

        A replica that is cut off from Redis removes the client when it returns within an hour, also after an error.
        """
        await self._act(client_id, {"do": "leave", "room": check_room(room)})

    async def _act(self, client_id: str, request: dict[str, Any]) -> None:
        check_client_id(client_id)
        self._registry.check_usable()
        await self._registry.requests.act(client_id, request)

    # User data, on this replica

    async def set_user_data(self, client_id: str, key: str, value: Any) -> None:
        """Store a value with the client's newest socket on this replica, until the socket is closed.

        Raises:
            ConnectionNotFoundError: The client is not on this replica; the message has the replica that holds it.
            MemoryLimitExceededError: The value exceeds a memory limit; the old value is kept.
        """
        await self._registry.user_data.set(client_id, key, value)

    async def get_user_data(self, client_id: str, key: str) -> Any | None:
        """Return the value that ``set_user_data`` stored; None if there is none or the client is not connected.

        Raises:
            ConnectionNotFoundError: The client is connected to another replica, which the message has.
        """
        return await self._registry.user_data.get(client_id, key)

    # Reconnect tokens

    def generate_reconnect_token(self, client_id: str) -> str:
        """Return a token for ``client_id``, valid once, on any replica, within ``reconnect_token_ttl``.

        With ``redis_url`` it does not wait until Redis has stored the record; ``issue_reconnect_token`` does.

        Raises:
            ConfigurationError: ``enable_reconnect`` is False.
            NotStartedError: ``start()`` was not called.
            BackendUnavailableError: Redis is known to be unavailable.
        """
        self._registry.check_reachable()
        return self._registry.tokens.issue_now(client_id)

    async def issue_reconnect_token(self, client_id: str) -> str:
        """Return a token that can be redeemed at once. Raises as ``generate_reconnect_token``."""
        self._check_readable()
        return await self._registry.tokens.issue(client_id)

    async def validate_reconnect_token(self, token: str) -> str:
        """Redeem a token and return its client id. A token can be redeemed once.

        Raises:
            TokenExpiredError: The token is genuine, but has expired.
            InvalidTokenError: The token was not issued by this registry, was altered, or was redeemed before.
        """
        self._check_readable()
        return await self._registry.tokens.redeem(token)

    # Presence in the whole registry. These calls raise BackendUnavailableError if Redis does not answer.

    async def is_connected(self, client_id: str) -> bool:
        """Return whether a client is connected to any live replica."""
        return bool(await self.presence(client_id))

    async def presence(self, client_id: str) -> list[PresenceEntry]:
        """Return a client's connections, the newest first; an empty list if it is not connected."""
        check_client_id(client_id)
        self._check_readable()
        return await self._registry.directory.presence(client_id)

    async def clients(self, node: str | None = None) -> AsyncIterator[PresenceEntry]:
        """Yield all connections, or those of one node. A connection that stays throughout occurs at least once."""
        self._check_readable()
        async for entry in self._registry.directory.clients(NodeId(node) if node is not None else None):
            yield entry

    async def room_members(self, room: str, limit: int = 100, cursor: str | None = None) -> RoomPage:
        """Return up to ``limit`` members of a room. Continue with ``page.cursor`` until it is None.

        Raises:
            InvalidCursorError: ``cursor`` belongs to no page (a ``ValueError``).
            ConfigurationError: ``limit`` is no whole number.
        """
        self._check_readable()
        if type(limit) is not int:
            raise ConfigurationError(f"limit must be a whole number of members, got {limit!r:.80}")
        return await self._registry.directory.room_members(check_room(room), max(1, limit), cursor)

    async def room_count(self, room: str) -> int:
        """Return the number of connections in a room."""
        self._check_readable()
        return await self._registry.directory.room_count(check_room(room))

    async def nodes(self) -> list[NodeInfo]:
        """Return all live replicas."""
        self._check_readable()
        return await self._registry.directory.nodes()

    async def cluster_connection_count(self) -> int:
        """Return the number of connections of all live replicas."""
        return sum(node.connections for node in await self.nodes())

    def _check_readable(self) -> None:
        if self._state.is_distributed:
            self._registry.check_usable()

    # The state of this replica. These calls are synchronous and thread-safe.

    def get_active_connections(self) -> list[str]:
        """Return the client ids connected to this replica."""
        return self._state.shards.client_ids()

    def get_connection_count(self) -> int:
        """Return the number of connections of this replica."""
        return len(self._state.shards)

    def get_memory_usage(self) -> dict[str, int | float]:
        """Return ``total_memory`` and ``per_connection_average`` in bytes, and ``connection_count``."""
        return self._registry.connections.budget.usage()

    def recently_closed(self) -> list[ClosedConnection]:
        """Return the last ``closed_log_size`` connections of this replica that ended, the newest first."""
        return self._state.ends.last()

    def statistics(self) -> Statistics:
        """Return a snapshot of all counters and bounds."""
        return snapshot(self._state, self._registry.history, self._registry.keeping)
