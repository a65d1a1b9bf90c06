"""The object that applications hold: a thin façade over ``registry.registry``."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Self

from fastapi import APIRouter, FastAPI, WebSocket

from . import close_codes
from .config import WebSocketConfig
from .exceptions import BroadcastFailedError, ConfigurationError, ConnectionNotFoundError, InvalidNameError
from .local.connection import Connection
from .models import BroadcastResult, Identity, Message, NodeInfo, PresenceEntry, RoomPage, ShutdownReport
from .names import NodeId, as_list, check_client_id, check_each, check_room
from .registry.hooks import HookDecorators, OnMessage
from .registry.registry import Registry
from .registry.state import NodeState
from .registry.statistics import snapshot
from .runtime.logs import manager_logger
from .runtime.metrics import Statistics
from .uvicorn.redaction import tokens_redacted
from .web import handlers, routes, serving
from .web.health import health_router
from .web.lifespan import announce, install_protocol, shut_down_in_time
from .wire.envelopes import CONNECTION
from .wire.messages import Encoded, encode

Identify = Callable[..., Identity | Awaitable[Identity]]


class WebSocketConnectionManager(HookDecorators):
    """Registers WebSockets and reaches any client, room or all, whichever replica holds the socket.

    Without ``redis_url`` it works in one process and needs no ``start()``. With one, every replica that has
    the same ``redis_url`` and ``namespace`` belongs to the same registry, between ``start()`` and
    ``graceful_shutdown()``; calls are made on the event loop of ``start()``.
    """

    def __init__(self, config: WebSocketConfig | None = None) -> None:
        self.config: WebSocketConfig = config or WebSocketConfig()
        self._log = manager_logger(self.config.log_level)
        self._registry: Registry = self._make_registry()
        self._state: NodeState = self._registry.state
        super().__init__(self._state.hooks)

    def _make_registry(self) -> Registry:
        return Registry(self.config, self._log)

    # Life

    async def start(self) -> None:
        """Start the heartbeat; with ``redis_url`` join the registry first. Again after a shutdown if you like.

        Raises:
            BackendUnavailableError: Redis does not answer, and ``on_backend_loss`` is "refuse".
            ConfigurationError: Redis refuses us: wrong password or database, or too old; or it is no Redis.
        """
        if await self._registry.start():
            announce(self._state)

    async def graceful_shutdown(self, timeout: float = 30.0) -> ShutdownReport:
        """Close every socket with 1001 within ``timeout`` seconds, release every entry and leave the registry.

        A Redis that does not answer makes it longer by at most about twice ``redis_timeout_s``. Later ``connect``
        raises ``ShutdownError`` until ``start()`` is called again.
        """
        return await self._registry.stop(timeout)

    async def drain(self, over: float | None = None) -> ShutdownReport:
        """Send every client of this replica elsewhere within ``over`` seconds (``drain_over_s``).

        From now on, until ``start()`` after ``graceful_shutdown``, ``/readyz`` says 503 and newcomers are refused.
        Clients are closed one by one with 1012 and ``{"reconnect_in_ms": …}``, behind what waits for them. A
        second call joins the first and may shorten it; a cancelled caller only stops waiting.

        Raises:
            ConfigurationError: ``over`` is no positive number.
            ShutdownError, NotStartedError: Outside ``start`` and ``graceful_shutdown``.
        """
        self._registry.check_usable()
        return await self._registry.drain.run(self.config.drain_over_s if over is None else over)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """``FastAPI(lifespan=manager.lifespan)``: started before the first request, shut down after the last."""
        install_protocol(self._state, app)
        with tokens_redacted():
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
        """Register an accepted socket; the client's older one, on whichever replica, is closed with 1000.

        ``state`` becomes ``connection.state``: private to this replica, and there before ``on_connect`` runs.

        Raises:
            InvalidNameError: ``client_id`` is empty or not a legal name (a ``ConnectionNotFoundError``).
            ConnectionLimitExceededError: ``max_connections``, or the client is full and told to reject.
            MemoryLimitExceededError: A memory limit is reached and nobody can give way.
            MessageError: ``metadata`` has no JSON, or too much of it (only with ``redis_url``).
            ShutdownError: After ``graceful_shutdown``. A ``DrainingError`` during and after a drain.
            BackendUnavailableError: No Redis, and ``on_backend_loss`` is "refuse"; the socket was closed with 1013.
        """
        return await serving.register(self._registry, websocket, client_id, metadata, state)

    async def check_open(self) -> None:
        """Refuse a handshake that this replica would refuse for any client; a FastAPI dependency.

        ``@manager.websocket`` runs it before ``identify``. On a route of your own, put it first, so that no token
        is redeemed for a socket that is then refused:
        ``@app.websocket("/ws", dependencies=[Depends(manager.check_open)])``.

        Raises:
            HTTPException: 503 with ``Retry-After``: not started, shut down, draining, ``max_connections``
                reached, or without Redis under ``on_backend_loss="refuse"``.
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
        """Register a socket for the length of a block, and release exactly it.

        A socket that is not accepted yet is claimed first and accepted then, so that a refusal is an HTTP
        status. The block ends quietly when the client disconnects.

        Raises:
            HTTPException: Refused before accept; FastAPI answers with it. 400: illegal client id, room or metadata.
                409: the client is full, or a newer connection of it took over. 403: ``disconnect`` ended it.
                503: anything that may be tried again.
            InvalidNameError, MessageError: ``client_id`` is no string, ``metadata`` is no dict.
            WebSocketStabilizerError: Refused after accept, as ``connect``; the socket was closed.
        """
        identity = Identity(client_id, metadata or {}, as_list(rooms), subprotocol, state)
        async with routes.connected(self._registry, websocket, identity) as connection:
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
        """Register a socket and hand its messages to ``on_message``, one at a time, until it is closed.

        With ``park`` it returns at once where the server can keep the socket (under uvicorn): the handler
        ends, its dependencies are released, and a third of the memory stays.

        Raises:
            HTTPException, WebSocketStabilizerError: As ``connection``.
        """
        identity = Identity(client_id, metadata or {}, as_list(rooms), subprotocol, state)
        await routes.serve(self._registry, websocket, identity, on_message, park=park)

    def websocket(
        self, app: FastAPI | APIRouter, path: str, *, on_message: OnMessage | None = None
    ) -> Callable[[Identify], Identify]:
        """Make a WebSocket route of a function that only says who connects; its parameters are FastAPI's.

        It runs before accept and after ``check_open``: an ``HTTPException`` there is an HTTP answer to the client.

        Raises:
            ConfigurationError: ``on_message`` takes other parameters; at a handshake, if no ``Identity`` is returned.
        """
        return routes.add_websocket_route(self._registry, app, path, on_message, self.check_open)

    async def disconnect(
        self,
        client_id: str,
        code: int = close_codes.NORMAL,
        reason: str = "normal closure",
        *,
        connection_id: str | None = None,
    ) -> None:
        """Close a client's sockets, on whichever replica, and release them; or with ``connection_id`` one of them.

        In the handler that registered a socket with ``connect`` it means exactly that socket, and returns
        quietly when that one was replaced, timed out or closed by somebody else meanwhile.

        Raises:
            ConnectionNotFoundError: The client is not connected, or has no such connection.
            ConfigurationError: ``code`` may not be sent.
            BackendUnavailableError: Another replica, or Redis, did not answer; it may still happen.
        """
        check_client_id(client_id)
        close_codes.check(code)
        mine = handlers.mine(self._registry, client_id) if connection_id is None else None
        if mine is not None:
            if mine.ended is not None:
                mine.read_out()
                handlers.check_ended(mine)
            await mine.close(code, reason)  # or wait for the close that is under way
            return
        if self._registry.is_closed:
            raise ConnectionNotFoundError(f"client {client_id!r} is not connected: the manager was shut down")
        self._registry.check_usable()
        request = {"do": "close", "code": code, "reason": reason, "connection_id": connection_id}
        await self._registry.requests.act(client_id, request)

    async def handle_pong(self, client_id: str) -> None:
        """Note that a client of this replica answered a ping. ``serve`` and iteration do it by themselves."""
        for connection in self._state.shards.of_client(client_id):
            connection.heard()

    # Messages

    async def send_to_client(self, client_id: str, message: Message, confirm: float | None = None) -> bool:
        """Send to a client on whichever replica.

        Returns True when a socket here took the message (written, or in its outbox), or when Redis handed it
        to the replica that holds the client. With ``confirm`` (seconds) True only once it was written to the
        socket; False when no word came in time, and it may still arrive. Without Redis, False for a client that
        is not here.

        Raises:
            MessageError: It cannot be encoded or is longer than ``max_message_size``; nothing was sent.
            ConfigurationError: ``confirm`` is no positive number.
            BackendUnavailableError: Redis did not answer, and ``on_backend_loss`` is "refuse".
        """
        name, encoded = check_client_id(client_id), self._encode(message)
        _check_confirm(confirm)
        return await self._registry.outbound.to_client(name, encoded, confirm)

    async def send_to_clients(self, client_ids: Iterable[str], message: Message) -> int:
        """Send one message to several clients; return how many took it. Raises as ``send_to_client``."""
        names, encoded = check_each(client_ids, check_client_id), self._encode(message)
        return sum(await self._registry.outbound.to_clients(names, encoded, None)) if names else 0

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
    ) -> BroadcastResult:
        """Send to everybody, or to the members of one room or several (each socket once).

        ``exclude_connection`` takes connections of any replica, or their ``connection_id``; other sockets of the
        same client get the message.

        The result counts this replica's sockets; with ``confirm`` (seconds) all replicas' that answered. Without
        Redis it reaches this replica's alone, and ``nodes`` is 1.

        Raises:
            BroadcastFailedError: Every socket that it was meant for failed.
            MessageError: It cannot be encoded or is longer than ``max_message_size``; nothing was sent.
            ConfigurationError: ``confirm`` is no positive number.
            BackendUnavailableError: Redis did not answer, and ``on_backend_loss`` is "refuse".
        """
        encoded = self._encode(message)
        _check_confirm(confirm)
        exclude, rooms = check_each(exclude_client or None, check_client_id), check_each(room, check_room)
        exclude += _exclusions_of(exclude_connection)
        if room is not None and not rooms:
            return BroadcastResult(0, 0, 0)  # no room is nobody, not everybody
        try:
            result = await self._registry.outbound.broadcast(encoded, exclude, rooms, confirm)
        except BroadcastFailedError:
            await asyncio.sleep(0)
            raise
        if result.failed:
            await asyncio.sleep(0)
        return result

    # Rooms

    async def join(self, client_id: str, room: str) -> None:
        """Put a client, on whichever replica, in a room. What is published to it from now on is heard.

        Raises:
            ConnectionNotFoundError: The client is not connected.
            ConnectionLimitExceededError: It is in ``max_rooms_per_connection`` rooms.
            BackendUnavailableError: Another replica, or Redis, did not answer; it may still happen.
        """
        await self._act(client_id, {"do": "join", "room": check_room(room)})

    async def leave(self, client_id: str, room: str) -> None:
        """Take a client, on whichever replica, out of a room; a no-op when it is not in it. Raises as ``join``."""
        await self._act(client_id, {"do": "leave", "room": check_room(room)})

    async def _act(self, client_id: str, request: dict[str, Any]) -> None:
        check_client_id(client_id)
        self._registry.check_usable()
        await self._registry.requests.act(client_id, request)

    # User data, on this replica

    async def set_user_data(self, client_id: str, key: str, value: Any) -> None:
        """Keep a value with a client's newest socket on this replica, for as long as it is connected.

        Raises:
            ConnectionNotFoundError: The client is not connected to this replica; names the one that holds it.
            MemoryLimitExceededError: It does not fit; the old value is kept.
        """
        await self._registry.user_data.set(client_id, key, value)

    async def get_user_data(self, client_id: str, key: str) -> Any | None:
        """Return what ``set_user_data`` stored; None when there is nothing, or the client is not connected.

        Raises:
            ConnectionNotFoundError: The client is connected to another replica, which the error names.
        """
        return await self._registry.user_data.get(client_id, key)

    # Reconnect tokens

    def generate_reconnect_token(self, client_id: str) -> str:
        """Return a token for ``client_id``, good once, anywhere in the registry, within ``reconnect_token_ttl``.

        With ``redis_url`` its record is still on its way to Redis; ``issue_reconnect_token`` waits for it.

        Raises:
            ConfigurationError: ``enable_reconnect`` is False.
            NotStartedError, BackendUnavailableError: Before ``start()``; while Redis is known to be away.
        """
        self._registry.check_reachable()
        return self._registry.tokens.issue_now(client_id)

    async def issue_reconnect_token(self, client_id: str) -> str:
        """Return a token that can be redeemed at once. Raises as ``generate_reconnect_token``."""
        self._check_readable()
        return await self._registry.tokens.issue(client_id)

    async def validate_reconnect_token(self, token: str) -> str:
        """Redeem a token: return its client id, once.

        Raises:
            TokenExpiredError: It is genuine, and too late.
            InvalidTokenError: It is not ours, was altered, or was redeemed before.
        """
        self._check_readable()
        return await self._registry.tokens.redeem(token)

    # Who is there, in the whole registry. Raise BackendUnavailableError when Redis does not answer.

    async def is_connected(self, client_id: str) -> bool:
        """Whether a client is connected to any live replica."""
        return bool(await self.presence(client_id))

    async def presence(self, client_id: str) -> list[PresenceEntry]:
        """Return a client's connections, the newest first; empty when it is not connected."""
        check_client_id(client_id)
        self._check_readable()
        return await self._registry.directory.presence(client_id)

    async def clients(self, node: str | None = None) -> AsyncIterator[PresenceEntry]:
        """Iterate over all connections, or those of one node. One that stays throughout is seen at least once."""
        self._check_readable()
        async for entry in self._registry.directory.clients(NodeId(node) if node is not None else None):
            yield entry

    async def room_members(self, room: str, limit: int = 100, cursor: str | None = None) -> RoomPage:
        """Return up to ``limit`` members of a room; go on with ``page.cursor`` until it is None.

        Raises:
            InvalidCursorError: No page has this ``cursor``; it may come from a client's query (a ``ValueError``).
        """
        self._check_readable()
        return await self._registry.directory.room_members(check_room(room), max(1, limit), cursor)

    async def room_count(self, room: str) -> int:
        """Return how many connections are in a room."""
        self._check_readable()
        return await self._registry.directory.room_count(check_room(room))

    async def nodes(self) -> list[NodeInfo]:
        """Return every live replica."""
        self._check_readable()
        return await self._registry.directory.nodes()

    async def cluster_connection_count(self) -> int:
        """Return how many connections all live replicas have."""
        return sum(node.connections for node in await self.nodes())

    def _check_readable(self) -> None:
        if self._state.is_distributed:
            self._registry.check_usable()

    # Who is here, on this replica: synchronous, from any thread.

    def get_active_connections(self) -> list[str]:
        """Return the client ids connected to this replica."""
        return self._state.shards.client_ids()

    def get_connection_count(self) -> int:
        """Return how many connections this replica has."""
        return len(self._state.shards)

    def get_memory_usage(self) -> dict[str, int | float]:
        """Return ``total_memory`` and ``per_connection_average`` in bytes, and ``connection_count``."""
        return self._registry.connections.budget.usage()

    def statistics(self) -> Statistics:
        """Return a snapshot of every counter and every bound."""
        return snapshot(self._state)

    # Routes

    @cached_property
    def router(self) -> APIRouter:
        """``GET /livez`` and ``GET /readyz`` for load balancers; ``POST /drain`` with ``drain_secret``."""
        return health_router(self._registry)


def _check_confirm(confirm: object) -> None:
    """Raise unless ``confirm`` is None or a positive, finite number of seconds.

    Raises:
        ConfigurationError: It is something else.
    """
    if confirm is None or (isinstance(confirm, int | float) and 0 < confirm < float("inf")):
        return
    raise ConfigurationError(f"confirm must be a positive number of seconds or None, got {confirm!r}")


def _exclusions_of(connections: Connection | str | Iterable[Connection | str] | None) -> list[str]:
    """Return connections, or their ids, as an envelope's exclusions name them.

    Raises:
        InvalidNameError: One is neither a connection nor a string.
    """
    if connections is None:
        return []
    each = [connections] if isinstance(connections, Connection | str) else connections
    return [CONNECTION + _id_of(connection) for connection in each]


def _id_of(connection: Connection | str) -> str:
    if isinstance(connection, Connection):
        return connection.connection_id
    if isinstance(connection, str):
        return connection
    raise InvalidNameError(
        f"exclude_connection must be a Connection or its connection_id, got {type(connection).__name__}"
    )
