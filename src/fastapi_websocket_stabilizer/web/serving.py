"""Delivery of inbound messages to the application, in the task of a handler or without one ("parked").

A parked socket needs no task, and none of the objects of its ASGI application. The server keeps the socket, and
passes incoming events to its inbox.
"""

from collections import deque

from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket

from .. import close_codes
from ..exceptions import WebSocketStabilizerError
from ..local.connection import Connection
from ..local.session import Session
from ..local.transport import NativeSocket, size_of
from ..models import Identity
from ..names import check_client_id
from ..registry.arrivals import Arrival
from ..registry.hooks import OnMessage, Receiver
from ..registry.registry import Registry
from ..runtime.loops import running_loop
from ..sessions.incoming import Backlog
from ..sessions.sessions import Newcomer
from ..wire.client_input import Message as ClientMessage
from . import handlers


async def register(
    registry: Registry, websocket: WebSocket, identity: Identity, newcomer: Newcomer | None = None
) -> Connection:
    """Register a socket for the calling handler. Raises the errors of ``WebSocketConnectionManager.connect``."""
    state, began_s = registry.state, running_loop().time()
    try:
        client_id = check_client_id(identity.client_id)
        registry.check_usable()
        record, open_session = newcomer or (None, None)
        connection = await registry.connections.connect(
            client_id, websocket, identity.metadata, identity.state, session=record, open_session=open_session
        )
    except WebSocketStabilizerError as error:
        state.arrivals.refused(error)
        raise
    state.arrivals.note(Arrival.ACCEPTED)
    state.histograms.handshake.add(running_loop().time() - began_s)
    connection.expires(identity.expires_at)
    handlers.remember(registry, connection)
    return connection


async def serve(registry: Registry, connection: Connection, receiver: Receiver | None, *, park: bool) -> None:
    """Pass messages to ``receiver`` until the socket is closed. With ``park``, return at once where possible."""
    native, session = connection.native, connection.session
    handle = None if receiver is None else receiver.for_plain_sockets
    if park and native is not None and connection.ended is None:
        connection.park(
            Inbox(registry, connection, native, handle)
            if session is None
            else SessionInbox(registry, connection, native, session, receiver)
        )
    elif session is not None:
        while (numbered := await session.next_message()) is not None:
            await receive(connection, session, numbered, receiver)
    else:
        async for message in connection:
            if handle is not None:
                await registry.state.hooks.handle(handle, connection, message)


async def receive(
    connection: Connection, session: Session, message: ClientMessage, receiver: Receiver | None
) -> None:
    """Pass a message of ``stabilizer.v1`` to ``receiver``, and confirm it."""
    fault = None if receiver is None else await receiver.receive(connection, message.data)
    session.handled(message, fault)


class Inbox:
    """Passes inbound messages of a parked socket to the application, in order, one at a time.

    The application's code runs with the context variables of the handler that parked the socket. A task exists
    only while there are events. Their number is bounded by one read: the server reads no more until all are handled.
    """

    __slots__ = ("_connection", "_events", "_handle", "_native", "_registry", "_variables")

    def __init__(
        self, registry: Registry, connection: Connection, native: NativeSocket, handle: OnMessage | None
    ) -> None:
        self._registry, self._connection, self._native, self._handle = registry, connection, native, handle
        self._variables = handlers.surroundings()
        self._events: deque[AsgiEvent] | None = None  # not None while a task is running

    def put_nowait(self, event: AsgiEvent) -> None:
        """Queue an event of the socket, and start a task for it if none is running."""
        if event["type"] == "websocket.receive":
            self._connection.received(size_of(event), is_text=event.get("text") is not None)
        if self._events is not None:
            self._events.append(event)
            return
        self._events = deque((event,))
        name = f"on-message-{self._connection.connection_id}"
        variables = None if self._variables is None else self._variables.copy()
        self._registry.state.tasks.spawn(self._hand_over(self._events), name, variables)

    async def _hand_over(self, events: deque[AsgiEvent]) -> None:
        handlers.remember(self._registry, self._connection)
        while events:
            event = events.popleft()
            if event["type"] == "websocket.disconnect":
                await self._hang_up(event)
                return  # no event follows a disconnect
            if self._connection.is_heard:
                text = event.get("text")
                await self._receive(event.get("bytes") or b"" if text is None else text)
            if not events:
                self._native.resume_reading()  # may put the next event at once
        self._events = None

    async def _receive(self, message: str | bytes) -> None:
        if self._handle is not None and not self._connection.is_pong(message):
            await self._registry.state.hooks.handle(self._handle, self._connection, message)

    async def _hang_up(self, event: AsgiEvent) -> None:
        self._connection.hung_up(event.get("code") or close_codes.NO_STATUS, event.get("reason") or "")
        await self._connection.close()


class SessionInbox(Inbox):
    """The inbox of a parked socket of ``stabilizer.v1``.

    The first task handles messages. While it does, another one reads the frames that arrive, and ends.
    """

    __slots__ = ("_backlog", "_is_handling", "_is_paused", "_last", "_receiver", "_session")

    def __init__(
        self,
        registry: Registry,
        connection: Connection,
        native: NativeSocket,
        session: Session,
        receiver: Receiver | None,
    ) -> None:
        super().__init__(registry, connection, native, None)
        self._session, self._receiver = session, receiver
        self._backlog = Backlog()
        self._is_handling = False
        self._is_paused = False  # the socket is not read, because the backlog is full
        self._last: AsgiEvent | None = None  # the disconnect, which follows the last message

    async def _hand_over(self, events: deque[AsgiEvent]) -> None:
        handlers.remember(self._registry, self._connection)  # also for the tasks of requests
        while events:
            event = events.popleft()
            if event["type"] == "websocket.disconnect":
                self._last = self._last or event  # another one follows when the transport is closed
            elif self._connection.is_heard:
                self._read(event)
            if not events:
                self._is_paused = self._backlog.is_full
                if not self._is_paused:
                    self._native.resume_reading()  # may put the next event at once
        self._events = None
        if not self._is_handling:
            await self._handle_waiting()

    def _read(self, event: AsgiEvent) -> None:
        text = event.get("text")
        data = event.get("bytes") or b"" if text is None else text
        message = self._session.read(data)
        if message is not None:
            self._backlog.put(message, len(data))

    async def _handle_waiting(self) -> None:
        self._is_handling = True
        try:
            while (message := self._backlog.take()) is not None:
                if self._connection.is_heard and self._session.is_new(message):
                    await receive(self._connection, self._session, message, self._receiver)
                if self._is_paused and not self._backlog.is_full:
                    self._is_paused = False
                    self._native.resume_reading()
        finally:
            self._is_handling = False
        if self._last is not None:
            await self._hang_up(self._last)
