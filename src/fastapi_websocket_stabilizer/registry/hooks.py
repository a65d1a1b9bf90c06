"""The hooks of the application. An exception in a hook is logged and counted, and has no other effect."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ..exceptions import (
    ConfigurationError,
    ConnectionNotFoundError,
    ConnectionTimeoutError,
    SlowConsumerError,
)
from ..local.connection import Connection
from ..models import BusGap, PresenceEvent, ResumeOutcome
from ..runtime.logs import Occasionally
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters, Histogram
from ..wire.client_frames import Fault
from ..wire.client_input import MAX_NAME_CHARACTERS
from ..wire.own_json import encode_json
from .schemas import UnfitError, result_schema_of, schema_of

OnConnect = Callable[[Connection], Awaitable[None] | None]
OnDisconnect = Callable[[Connection, int, str], Awaitable[None] | None]
OnPresence = Callable[[PresenceEvent], Awaitable[None] | None]
OnMetadata = Callable[[Connection], Awaitable[None] | None]
OnResume = Callable[[Connection, ResumeOutcome], Awaitable[None] | None]
OnBusGap = Callable[[BusGap], Awaitable[None] | None]
OnMessage = Callable[[Connection, Any], Awaitable[None] | None]
OnRequest = Callable[[Connection, Any], Awaitable[Any] | Any]
OnJoin = Callable[[Connection, str], Awaitable[bool] | bool]
OnError = Callable[[Connection | None, str, BaseException], Awaitable[None] | None]
H = TypeVar("H", bound=Callable[..., Any])
R = TypeVar("R", bound=OnRequest)

FAILED = Fault("failed", "the server could not handle it")
"""Fault of a message or a request whose function raised. Its error goes to the log, and not to the client."""


EVENTS = (
    "on_connect", "on_disconnect", "on_presence", "on_metadata", "on_resume", "on_bus_gap", "on_error", "on_message",
    "on_join", "on_request",
)  # fmt: skip
"""Events that have hooks."""


class Hooks:
    """The hooks that the application registered, in the order of registration.

    Attributes:
        failed: Number of exceptions by event. Their sum is ``hooks_failed``.
        handle: ``call`` for a function for messages, which measures its duration with ``enable_metrics``.
    """

    def __init__(self, counters: Counters, log: logging.Logger, handled: Histogram | None = None) -> None:
        self._counters, self._failures, self._handled = counters, Failures(log), handled
        self.handle: Callable[..., Awaitable[None]] = self.call if handled is None else self._timed
        self.failed: dict[str, int] = dict.fromkeys(EVENTS, 0)
        self.on_connect: list[OnConnect] = []
        self.on_disconnect: list[OnDisconnect] = []
        self.on_presence: list[OnPresence] = []
        self.on_metadata: list[OnMetadata] = []
        self.on_resume: list[OnResume] = []
        self.on_bus_gap: list[OnBusGap] = []
        self.on_error: list[OnError] = []
        self.on_message: Receiver | None = None
        self.on_join: OnJoin | None = None
        self.on_request: dict[str, Responder] = {}
        self._unfit = Occasionally(log)

    async def run(self, hooks: "list[Any]", *arguments: Any) -> None:
        """Call each hook; wait for those that are coroutines."""
        for hook in hooks:
            await self.call(hook, *arguments)

    async def call(self, hook: Callable[..., Any], *arguments: Any) -> None:
        """Call one hook and await its result. An error about the end of its connection is no failure."""
        try:
            result = hook(*arguments)
            if inspect.isawaitable(result):
                await result
        except (Exception, asyncio.CancelledError) as error:
            if is_cancellation(error):
                raise
            await self.report(hook, arguments[0] if arguments else None, error)

    async def _timed(self, hook: Callable[..., Any], connection: Connection, message: Any) -> None:
        began_s = connection.loop.time()
        try:
            await self.call(hook, connection, message)
        finally:
            self.measure(connection.loop.time() - began_s)

    def measure(self, seconds: float) -> None:
        """Add the duration of a function for messages, if these are measured."""
        if self._handled is not None:
            self._handled.add(seconds)

    async def report(self, hook: Callable[..., Any], subject: object, error: BaseException) -> None:
        """Count, log and report an error of a hook, unless it only tells the end of the connection ``subject``."""
        if not _is_end_of(subject, error):
            await self._failed(hook, subject, error)

    def unfit(self, hook: Callable[..., Any], error: UnfitError) -> None:
        """Count a message that does not fit the annotation of ``hook``. The log has the reason, not the message."""
        self._counters.messages_unfit += 1
        self._unfit.log(f"a message does not fit {name_of(hook)}, and is not handled: {error}")

    def _event_of(self, hook: Callable[..., Any]) -> str:
        """Return the event of a hook. Functions for messages may be given with a route."""
        if hook in (responder.function for responder in self.on_request.values()):
            return "on_request"
        found = [event for event in EVENTS[:7] if hook in getattr(self, event)]
        if hook == self.on_join:
            found.append("on_join")
        return found[0] if found else "on_message"

    async def _failed(self, hook: Callable[..., Any], subject: object, error: BaseException) -> None:
        self._counters.hooks_failed += 1
        self.failed[self._event_of(hook)] += 1
        name, connection = name_of(hook), subject if isinstance(subject, Connection) else None
        client_id = subject.client_id if isinstance(subject, Connection | PresenceEvent) else None
        self._failures.log(name, client_id, error)
        if hook not in self.on_error:  # otherwise it would be called for its own failure
            await self.run(self.on_error, connection, name, error)


class Receiver:
    """A function for messages of clients. It gets them in the type of its second parameter."""

    def __init__(self, hooks: Hooks, function: OnMessage) -> None:
        self._hooks, self._function = hooks, function
        self._schema = schema_of("on_message", function, untyped=str | bytes)

    @property
    def for_plain_sockets(self) -> OnMessage:
        """The function for messages as they come, which drops and counts those that do not fit.

        It is the application's own if that takes any message.
        """
        return self._function if self._schema is None else self._receive

    async def _receive(self, connection: Connection, message: str | bytes) -> None:
        assert self._schema is not None
        await self._handle(connection, self._schema.parse, message)

    async def receive(self, connection: Connection, data: Any) -> Fault | None:
        """Handle decoded data of a client. Return the fault to answer with if it does not fit, or handling failed.

        A function that takes any message gets JSON as text, as from a plain socket.
        """
        began_s = connection.loop.time()
        try:
            return await self._handle(
                connection, _as_message if self._schema is None else self._schema.convert, data
            )
        finally:
            self._hooks.measure(connection.loop.time() - began_s)

    async def _handle(self, connection: Connection, convert: Callable[[Any], Any], data: Any) -> Fault | None:
        try:
            result = self._function(connection, convert(data))
            if inspect.isawaitable(result):
                await result
        except UnfitError as error:
            self._hooks.unfit(self._function, error)
            return Fault("invalid", str(error))
        except (Exception, asyncio.CancelledError) as error:
            if is_cancellation(error):
                raise
            await self._hooks.report(self._function, connection, error)
            return FAILED
        return None


class Responder:
    """A function for one kind of request of clients, with the types of its data and of its result."""

    def __init__(self, event: str, function: OnRequest) -> None:
        self.function: OnRequest = function
        self._data, self._result = schema_of(event, function), result_schema_of(event, function)

    async def respond(self, connection: Connection, data: Any) -> Any:
        """Return the result as it is sent.

        Raises:
            UnfitError: ``data`` does not fit.
            Exception: That of the function, or of pydantic if the result has another type than the function names.
        """
        result = self.function(connection, data if self._data is None else self._data.convert(data))
        if inspect.isawaitable(result):
            result = await result
        return result if self._result is None else self._result.render(result)


def _as_message(data: Any) -> str | bytes:
    return data if isinstance(data, str | bytes) else encode_json(data, "message").decode()


class Failures:
    """Logs failures of hooks, once a minute for each hook and error class, because clients may cause many."""

    EVERY_S = 60.0
    MAX_KINDS = 1000
    """Maximum number of pairs of hook and error class. With one more, all are evicted."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._kinds: dict[tuple[str, type], tuple[float, int]] = {}

    def log(self, name: str, client_id: str | None, error: BaseException) -> None:
        """Log the failure with its traceback, or count it for the next log line."""
        now_s, kind = running_loop().time(), (name, type(error))
        again_at_s, unlogged = self._kinds.get(kind, (0.0, 0))
        if now_s < again_at_s:
            self._kinds[kind] = again_at_s, unlogged + 1
            return
        if len(self._kinds) >= self.MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = now_s + self.EVERY_S, 0
        of_client = "" if client_id is None else f" for client {client_id!r}"
        more = f" ({unlogged} more times since the last such line)" if unlogged else ""
        self._log.error("hook %s failed%s%s: %r", name, of_client, more, error, exc_info=error)


def name_of(hook: Callable[..., Any]) -> str:
    """Return the name under which a hook appears in the log and in ``on_error``."""
    return getattr(hook, "__qualname__", repr(hook))


def check_hook(event: str, hook: H, *parameters: str) -> H:
    """Return a hook that can be called with ``parameters``.

    Raises:
        ConfigurationError: It takes other parameters, or is not callable.
    """
    wanted = f"the {event} hook must be a function of ({', '.join(parameters)})"
    if not callable(hook):
        raise ConfigurationError(f"{wanted}, got {hook!r}")
    try:
        signature = inspect.signature(hook)
    except ValueError:  # implemented in C, without a signature
        return hook
    try:
        signature.bind(*parameters)
    except TypeError as error:
        raise ConfigurationError(f"{wanted}, got {name_of(hook)}: {error}") from None
    return hook


class HookDecorators:
    """The decorators that add hooks, such as ``@manager.on_connect``. Each returns its function unchanged."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks: Hooks = hooks

    def on_connect(self, hook: OnConnect) -> OnConnect:
        """Call ``hook(connection)`` when a socket was registered here."""
        self._hooks.on_connect.append(check_hook("on_connect", hook, "connection"))
        return hook

    def on_disconnect(self, hook: OnDisconnect) -> OnDisconnect:
        """Call ``hook(connection, code, reason)`` when a socket of this replica has ended."""
        self._hooks.on_disconnect.append(check_hook("on_disconnect", hook, "connection", "code", "reason"))
        return hook

    def on_resume(self, hook: OnResume) -> OnResume:
        """Call ``hook(connection, outcome)`` when a client of ``stabilizer.v1`` comes back, before its first frame.

        ``outcome`` is a ``ResumeOutcome``. Messages of the hook follow those that the client missed. The hook may
        close the connection. Clients wait 10 s for their first frame, so it should not take long.
        """
        self._hooks.on_resume.append(check_hook("on_resume", hook, "connection", "outcome"))
        return hook

    def on_presence(self, hook: OnPresence) -> OnPresence:
        """Call ``hook(event)`` for the presence events of this replica's sockets, and of replicas that it sweeps."""
        self._hooks.on_presence.append(check_hook("on_presence", hook, "event"))
        return hook

    def on_metadata(self, hook: OnMetadata) -> OnMetadata:
        """Call ``hook(connection)`` when ``update_metadata`` has changed a connection of this replica."""
        self._hooks.on_metadata.append(check_hook("on_metadata", hook, "connection"))
        return hook

    def on_bus_gap(self, hook: OnBusGap) -> OnBusGap:
        """Call ``hook(gap)`` after a gap in which this replica may have missed messages."""
        self._hooks.on_bus_gap.append(check_hook("on_bus_gap", hook, "gap"))
        return hook

    def on_message(self, hook: OnMessage) -> OnMessage:
        """Call ``hook(connection, message)`` for messages of sockets that have no handler of their own.

        The annotation of ``message`` decides. Without one, or with ``str | bytes``, it gets each message as it came.
        With another type, such as a pydantic model, the JSON text of the message is validated. A message that does
        not fit is dropped (``messages_unfit``), or answered with ``invalid`` if the client waits for an answer.
        """
        check_hook("on_message", hook, "connection", "message")
        self._hooks.on_message = Receiver(self._hooks, hook)
        return hook

    def on_request(self, name: str) -> Callable[[R], R]:
        """Answer requests of this name by ``function(connection, data)``: ``@manager.on_request("rename")``.

        ``data`` is validated by its annotation, and the result by that of the function. An ``HTTPException`` becomes
        an error of the answer: its code by status, ``detail`` as message. Any other exception is reported as of a
        hook, and answered with ``failed``. Requests of one connection run concurrently, up to 64. One that is
        cancelled, or whose connection ends, is cancelled.

        Raises:
            ConfigurationError: The name is no text of 1 to 128 characters, or has a function already. Or the function
                has other parameters, or an annotation that cannot be used.
        """
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARACTERS:
            raise ConfigurationError(
                f"on_request takes a name of 1 to {MAX_NAME_CHARACTERS} characters, got {name!r:.200}: "
                'write @manager.on_request("rename")'
            )
        event = f"on_request({name!r})"

        def decorate(function: R) -> R:
            check_hook(event, function, "connection", "data")
            if name in self._hooks.on_request:
                other = name_of(self._hooks.on_request[name].function)
                raise ConfigurationError(f"{event} has a function already: {other}; each name has one")
            self._hooks.on_request[name] = Responder(event, function)
            return function

        return decorate

    def on_join(self, hook: OnJoin) -> OnJoin:
        """Let ``hook(connection, room)`` decide whether a client may enter a room by itself: True or False.

        Without it no client may. It is not asked about joins by the application.

        Raises:
            ConfigurationError: There is such a hook already, or it has other parameters.
        """
        if self._hooks.on_join is not None:
            raise ConfigurationError(
                f"on_join has a function already: {name_of(self._hooks.on_join)}; one decides about all rooms"
            )
        self._hooks.on_join = check_hook("on_join", hook, "connection", "room")
        return hook

    def on_error(self, hook: OnError) -> OnError:
        """Call ``hook(connection, name, error)`` when a hook raises. ``connection`` is None for events.

        ``name`` is the function that raised. The log shows it once a minute for each hook and class of error;
        ``on_error`` is called each time. It may close the connection. If it raises itself, that is only logged.
        """
        self._hooks.on_error.append(check_hook("on_error", hook, "connection", "name", "error"))
        return hook


def is_cancellation(error: BaseException) -> bool:
    """Whether this task was cancelled, and not something that it awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and bool(task.cancelling())


def _is_end_of(subject: object, error: BaseException) -> bool:
    """Whether the error only reports the end of the hook's own connection."""
    is_about_an_end = isinstance(error, ConnectionNotFoundError | ConnectionTimeoutError | SlowConsumerError)
    return is_about_an_end and isinstance(subject, Connection) and subject.ended is not None
