"""Delivery of inbound messages to the application, in the task of a handler or without one ("parked").

A parked socket needs no task, and none of the objects of its ASGI application. The server keeps the socket, and
passes incoming events to its inbox.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket

from .. import close_codes
from ..local.connection import Connection
from ..local.transport import NativeSocket
from ..names import check_client_id
from ..registry.hooks import OnMessage, Receiver
from ..registry.registry import Registry
from . import handlers


async def register(
    registry: Registry, websocket: WebSocket, client_id: str, metadata: Mapping[str, Any] | None, state: Any
) -> Connection:
    """Register a socket for the calling handler. Raises the errors of ``WebSocketConnectionManager.connect``."""
    check_client_id(client_id)
    registry.check_usable()
    connection = await registry.connections.connect(client_id, websocket, metadata, state)
    handlers.remember(registry, connection)
    return connection


async def serve(registry: Registry, connection: Connection, receiver: Receiver | None, *, park: bool) -> None:
    """Pass messages to ``receiver`` until the socket is closed. With ``park``, return at once where possible."""
    handle = None if receiver is None else receiver.for_plain_sockets
    native = connection.native
    if park and native is not None and connection.ended is None:
        connection.park(Inbox(registry, connection, native, handle))
        return
    async for message in connection:
        if handle is not None:
            await registry.state.hooks.call(handle, connection, message)


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
                await self._receive(event)
            if not events:
                self._native.resume_reading()  # may put the next event at once
        self._events = None

    async def _receive(self, event: AsgiEvent) -> None:
        message = event.get("text")
        if message is None:
            message = event.get("bytes") or b""
        if self._handle is not None and not self._connection.is_pong(message):
            await self._registry.state.hooks.call(self._handle, self._connection, message)

    async def _hang_up(self, event: AsgiEvent) -> None:
        self._connection.hung_up(event.get("code") or close_codes.NO_STATUS, event.get("reason") or "")
        await self._connection.close()
