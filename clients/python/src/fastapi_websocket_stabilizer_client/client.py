"""The client of an application on asyncio."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from inspect import iscoroutinefunction
from ssl import SSLContext
from types import TracebackType
from typing import Any, Literal, Self

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from . import actions as do
from .dispatch import Dispatcher, Event, logger
from .errors import ClosedError, InvalidDataError, NotConnectedError, RequestFailedError
from .frames import Request
from .machine import Machine
from .messages import EVERYBODY, MAILBOX, Data, Log, Message, Status, StatusChange
from .options import Options
from .rooms import Handlers, LostHandler, MessageHandler, Room
from .runner import Auth, Runner, now
from .sockets import Endpoint

RequestHandler = Callable[[Data], Awaitable[Data]]
StatusHandler = Callable[[StatusChange], None]

_NAMES: dict[Log, str] = {MAILBOX: "the mailbox", EVERYBODY: "the log of everybody"}


class Client:
    """A client of ``fastapi-websocket-stabilizer`` that comes back by itself and misses nothing.

    ::

        async with Client("wss://example.org/ws", auth=fetch_token) as client:
            async for event in client:
                ...  # a Message or Lost

    Iterating yields all messages without a handler, each once and in the order of its log. Before the first message
    behind a gap, it yields ``Lost``. The iteration ends after ``close()``, and raises ``ClosedError`` if the server
    has ended the client. A client is used once, on one event loop.

    If 1,000 events wait for the application, reading stops until some are taken or a call waits for an answer.

    Args:
        url: The endpoint, ``ws://…`` or ``wss://…``.
        auth: A token, or a function that returns one, with or without async. It is called before each attempt, and
            before the token expires.
        headers: Headers of the handshake, such as cookies.
        ssl: The TLS settings. By default, those of the system.
        proxy: The URL of a proxy, None for no proxy, True for the one in the environment.
        open_timeout: Seconds until ``async with`` gives up, None for no limit.
        max_message_bytes: Longest message or request that is sent. The server has a limit as well.
        max_frame_bytes: Longest frame that is received.
        max_waiting: Events that may wait for the application.
        max_unconfirmed: Messages that are kept until the server confirms them.
        max_unconfirmed_bytes: Their data in bytes.

    Raises:
        ValueError: The URL is none of a WebSocket, or a bound is no whole number above 0.
        TypeError: ``auth`` is neither a token nor a function.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: Auth | None = None,
        headers: Mapping[str, str] | None = None,
        ssl: SSLContext | None = None,
        proxy: str | Literal[True] | None = True,
        open_timeout: float | None = 30.0,
        max_message_bytes: int = 1_000_000,
        max_frame_bytes: int = 16_777_216,
        max_waiting: int = 1000,
        max_unconfirmed: int = 1000,
        max_unconfirmed_bytes: int = 1_048_576,
    ) -> None:
        try:
            parse_uri(url)
        except InvalidURI as error:
            raise ValueError(f"url must be ws://… or wss://…: {error}") from None
        if auth is not None and not isinstance(auth, str) and not callable(auth):
            raise TypeError(f"auth must be a token or a function that returns one, got {auth!r:.80}")
        bounds = {
            "max_message_bytes": max_message_bytes,
            "max_frame_bytes": max_frame_bytes,
            "max_waiting": max_waiting,
            "max_unconfirmed": max_unconfirmed,
            "max_unconfirmed_bytes": max_unconfirmed_bytes,
        }
        for name, bound in bounds.items():
            if type(bound) is not int or bound < 1:
                raise ValueError(f"{name} must be a whole number above 0, got {bound!r:.80}")
        options = Options(
            has_auth=auth is not None,
            can_renew=auth is not None and not isinstance(auth, str),
            max_message_bytes=max_message_bytes,
            max_unconfirmed=max_unconfirmed,
            max_unconfirmed_bytes=max_unconfirmed_bytes,
        )
        endpoint = Endpoint(
            url=url, headers=dict(headers or {}), ssl=ssl, proxy=proxy, max_frame_bytes=max_frame_bytes
        )
        self._open_timeout = open_timeout
        self._machine = Machine(random.random, options)
        self._dispatcher = Dispatcher(max_waiting, self._handled)
        self._runner = Runner(self._machine, endpoint, auth, tell=self._tell, dispatcher=self._dispatcher)
        self._others = Handlers()
        self._rooms: dict[str, Room] = {}
        self._requests: dict[str, RequestHandler] = {}
        self._answers: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._statuses: list[StatusHandler] = []
        self._status_changed = asyncio.Event()
        self._dispatching: asyncio.Task[None] | None = None
        self._cause = ""

    async def __aenter__(self) -> Self:
        """Connect, and return when the client is live for the first time.

        Raises:
            ClosedError: The server does not want this client.
            NotConnectedError: The client was not live in ``open_timeout`` seconds.
        """
        self._dispatching = asyncio.create_task(self._dispatcher.run(), name="stabilizer dispatcher")
        try:
            self._runner.run(self._machine.start)
            async with asyncio.timeout(self._open_timeout):
                await self.wait_for(Status.LIVE, Status.CLOSED)
            if self._machine.error is not None:
                raise self._machine.error
        except TimeoutError:
            cause = self._cause or "the server did not answer"
            await self._end()
            raise NotConnectedError(f"not connected in {self._open_timeout:g} s: {cause}") from None
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._dispatcher.next()) is not None:
            yield event
        if self._machine.error is not None:
            raise self._machine.error

    @property
    def status(self) -> Status:
        """The state of the client."""
        return self._machine.status

    @property
    def client_id(self) -> str:
        """The id that the server has given this client, "" before the first connection."""
        return self._machine.client_id

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms of the connection."""
        return self._machine.rooms

    @property
    def error(self) -> ClosedError | None:
        """Why the client has ended, or None. It is None as well if the application has closed it."""
        return self._machine.error

    # Handlers.

    def room(self, name: str) -> Room:
        """Return the handlers of a room, always the same object for a name. It joins nothing."""
        if name not in self._rooms:
            run, machine = self._runner.run, self._machine
            self._rooms[name] = Room(
                name, lambda room: run(machine.watch, room), lambda room: run(machine.unwatch, room)
            )
        return self._rooms[name]

    def on(self, handler: MessageHandler) -> MessageHandler:
        """Call a function with each message that no room handles. Iterating then yields none of them."""
        return self._others.on(handler)

    def on_lost(self, handler: LostHandler) -> LostHandler:
        """Call a function when messages are missing for which the room has no ``on_lost``.

        It needs a handler of messages: without one, iterating over the client yields messages and losses.
        """
        return self._others.on_lost(handler)

    def on_request(self, name: str) -> Callable[[RequestHandler], RequestHandler]:
        """Answer requests of the server with an async function of their data.

        It runs in a task of its own, and is cancelled when the server does not wait any more. ``RequestFailedError``
        is answered with its code. Other exceptions are logged, and answered with the code "failed".
        """

        def register(handler: RequestHandler) -> RequestHandler:
            self._requests[name] = handler
            return handler

        return register

    def on_status(self, handler: StatusHandler) -> StatusHandler:
        """Call a function at once when the state changes. It must not wait.

        Raises:
            TypeError: It is an async function, which nothing would wait for.
        """
        if iscoroutinefunction(handler):
            raise TypeError(f"on_status needs a function without async, got {handler!r:.80}")
        self._statuses.append(handler)
        return handler

    def off(self, handler: Callable[..., Any]) -> None:
        """Do not call a function any more, whatever it handles. A handler of a room is removed with ``room.off``.

        Events that wait for it still reach it.
        """
        self._others.off(handler)
        self._statuses = [each for each in self._statuses if each != handler]
        self._requests = {name: each for name, each in self._requests.items() if each != handler}

    # Calls.

    async def send(self, data: Data, *, confirm: bool = False, timeout: float = 30.0) -> None:
        """Send a message: text, bytes, or what becomes JSON.

        Without ``confirm`` it is lost if the connection breaks. With it, the message is sent again on the next
        connections until the server has handled it: at least once.

        Raises:
            NotConnectedError: No connection is open, and ``confirm`` is false.
            RequestTimeoutError: No confirmation came in ``timeout`` seconds. The message may have been handled.
            RequestFailedError: The server has refused the message.
            LimitError: Too many messages are unconfirmed.
            InvalidDataError: The data is no JSON, too large or too deep.
            ClosedError: The client has ended.
        """
        if confirm:
            await self._call(lambda key: self._runner.run(self._machine.confirm, key, data, now() + timeout))
        else:
            self._runner.run(self._machine.send, data)
            await self._runner.drain()

    async def request(self, name: str, data: Data = None, *, timeout: float = 10.0) -> Data:
        """Ask the server, and return the answer. Without a connection, the request waits for one.

        Raises:
            RequestFailedError: The answer is an error.
            RequestTimeoutError: No answer came in ``timeout`` seconds.
            InterruptedRequestError: The connection ended first. The request may have been carried out.
            LimitError: Too many requests wait.
            InvalidDataError: The name or the data cannot be sent.
            ClosedError: The client has ended.
        """
        return await self._call(
            lambda key: self._runner.run(self._machine.request, key, name, data, now() + timeout)
        )

    async def join(self, room: str, *, timeout: float = 10.0) -> None:
        """Join a room. The client joins it again on each connection, until ``leave``.

        Raises:
            RequestFailedError: The application of the server does not allow it.
            RequestTimeoutError: No answer came in ``timeout`` seconds.
            InvalidDataError: No room can be called so.
            ClosedError: The client has ended.
        """
        await self._call(lambda key: self._runner.run(self._machine.join, key, room, now() + timeout))

    async def leave(self, room: str, *, timeout: float = 10.0) -> None:
        """Leave a room. The errors are those of ``join``."""
        await self._call(lambda key: self._runner.run(self._machine.leave, key, room, now() + timeout))

    # The connection.

    async def wait_for(self, *statuses: Status) -> Status:
        """Wait until the client has one of these states, and return it."""
        while (status := self.status) not in statuses:
            await self._status_changed.wait()
        return status

    async def wait_closed(self) -> None:
        """Wait until the client has ended.

        Raises:
            ClosedError: Another reason than ``close()`` has ended it.
        """
        await self.wait_for(Status.CLOSED)
        if self._machine.error is not None:
            raise self._machine.error

    def reconnect(self) -> None:
        """Drop the connection and dial at once, also if the server has ended the client."""
        self._runner.run(self._machine.reconnect)

    def offline(self) -> None:
        """Note that the system has no network: nothing is tried until ``online``."""
        self._runner.run(self._machine.offline)

    def online(self) -> None:
        """Note that the system has a network: dial at once."""
        self._runner.run(self._machine.online)

    async def close(self) -> None:
        """End the client, and wait for the closing handshake.

        Calls that wait end with ClosedError, requests that were sent with InterruptedRequestError.
        """
        self._runner.run(self._machine.close)
        await self._runner.end()

    async def _end(self) -> None:
        try:
            await self.close()
        finally:
            tasks = [*self._answers.values(), *([self._dispatching] if self._dispatching is not None else [])]
            for task in tasks:
                task.cancel()

    async def _call(self, begin: Callable[[asyncio.Future[Data]], None]) -> Data:
        future: asyncio.Future[Data] = asyncio.get_running_loop().create_future()
        with self._dispatcher.call():
            begin(future)
            try:
                return await future
            finally:
                if future.cancelled():
                    self._runner.run(self._machine.cancel, future)

    # Actions of the machine.

    def _tell(self, action: do.Action) -> None:
        match action:
            case do.Deliver(event):
                self._deliver(event)
            case do.Settle(key, value, error):
                _settle(key, value, error)
            case do.Asked(generation, request):
                self._asked(generation, request)
            case do.Unasked(generation, number):
                if (task := self._answers.pop((generation, number), None)) is not None:
                    task.cancel()
            case do.StatusChanged(change):
                self._changed(change)
            case do.RoomChanged() | do.PresenceChanged():
                self._room_changed(action)

    def _deliver(self, event: Event) -> None:
        """Choose the handlers of a message, and those of a loss in the same place."""
        room = self._rooms.get(event.room or "", self._others)
        target = room if room.messages else self._others
        if not target.messages:
            self._dispatcher.stream(event)
        elif isinstance(event, Message):
            self._dispatcher.put(tuple(target.messages), event)
        elif losses := target.losses or self._others.losses:
            self._dispatcher.put(tuple(losses), event)
        else:
            name = _NAMES.get(event.log, event.log)
            logger.warning("messages of %s are missing (%s): load the state in on_lost", name, event.code)

    def _handled(self, event: Event) -> None:
        position = event.id if isinstance(event, Message) else event.top
        if event.log == MAILBOX and position:
            self._runner.run(self._machine.handled, position)

    def _asked(self, generation: int, request: Request) -> None:
        key = (generation, request.number)
        task = asyncio.create_task(
            self._answer(generation, request), name=f"stabilizer request {request.name}"
        )
        self._answers[key] = task
        task.add_done_callback(lambda _: self._answers.pop(key, None))

    async def _answer(self, generation: int, request: Request) -> None:
        data, error = await self._result_of(request)
        try:
            self._runner.run(self._machine.answer, generation, request.number, data, error)
        except InvalidDataError as invalid:
            logger.error("the answer to the request %s cannot be sent: %s", request.name, invalid)
            failed = RequestFailedError("failed", "the answer cannot be sent")
            self._runner.run(self._machine.answer, generation, request.number, None, failed)

    async def _result_of(self, request: Request) -> tuple[Data, RequestFailedError | None]:
        handler = self._requests.get(request.name)
        if handler is None:
            return None, RequestFailedError("not_found", f"this client has no request {request.name!r}")
        try:
            return await handler(request.data), None
        except RequestFailedError as error:
            return None, error
        except Exception:  # noqa: BLE001 - a handler of the application may raise anything
            logger.exception("the handler of the request %s raised an exception", request.name)
            return None, RequestFailedError("failed", "the handler raised an exception")

    def _changed(self, change: StatusChange) -> None:
        self._cause = change.cause
        changed, self._status_changed = self._status_changed, asyncio.Event()
        changed.set()
        self._dispatcher.finish(is_over=change.new is Status.CLOSED)
        logger.info("%s, was %s%s", change.new, change.old, change.cause and f": {change.cause}")
        for handler in self._statuses:
            try:
                handler(change)
            except Exception:  # noqa: BLE001 - a handler of the application may raise anything
                logger.exception("a handler raised an exception for %r", change)

    def _room_changed(self, action: do.RoomChanged | do.PresenceChanged) -> None:
        room = self._rooms.get(action.room)
        if isinstance(action, do.PresenceChanged):
            if room is not None:
                room.members = action.members
                self._dispatcher.put(tuple(room.presences), action.members)
        elif not action.is_member:
            if action.error is not None:
                logger.warning("the room %s could not be joined again: %s", action.room, action.error)
            if room is not None:
                self._dispatcher.put(tuple(room.leaves), action.error)


def _settle(key: object, value: Data, error: Exception | None) -> None:
    assert isinstance(key, asyncio.Future)
    if key.done():
        return  # cancelled a moment ago
    if error is None:
        key.set_result(value)
    else:
        key.set_exception(error)
