"""Requests on one connection of ``stabilizer.v1``, in both directions.

Each request of the client is carried out by a task of its own, so it delays neither messages nor other requests.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from ..exceptions import LOSSES, ConnectionLimitExceededError, MessageError
from ..local.connection import Connection
from ..local.lifecycle import Limits
from ..local.requests import Answering, Asked, Resolve
from ..models import Identity
from ..registry.hooks import FAILED, Hooks, Responder, is_cancellation
from ..registry.schemas import UnfitError
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters
from ..runtime.tasks import Tasks
from ..wire import client_frames as frames
from ..wire.client_frames import Fault
from ..wire.client_input import Answer, Cancel, ErrorAnswer, Join, Leave, Renewal, Request

Identify = Callable[[str], Awaitable[Identity]]
"""Function that identifies a client by a token, as its handshake does. It raises what the application raises."""

RENEWAL_INTERVAL_S = 1.0
"""Seconds from the start of one renewal of a connection to the next one. Each asks the application about a token."""

FORBIDDEN = Fault("forbidden", "clients may not enter this room by themselves")
NOT_A_MEMBER = Fault("not_found", "the connection is not in this room")
NO_RENEWAL = Fault("not_found", "this connection takes no newer credentials")
REFUSED = Fault("forbidden", "the token was refused")
"""The answer to each token that does not renew, whatever is wrong with it. So no client learns which are valid."""
TOO_MANY_RENEWALS = Fault(
    "limit", f"a connection has one renewal at a time, and one in {RENEWAL_INTERVAL_S:g} s", is_temporary=True
)
UNKNOWN = Fault("not_found", "there is no request of this name")
UNAVAILABLE = Fault("failed", "the registry cannot be reached", is_temporary=True)


class ExchangeNode(Protocol):
    """The node, as the requests of a connection need it."""

    counters: Counters
    hooks: Hooks
    tasks: Tasks

    def limits(self) -> Limits:
        """The settings in force now."""
        ...

    @property
    def fault_of(self) -> Callable[[BaseException], Fault | None]:
        """Function from an exception of the application to the fault that it stands for; None if it is a failure."""
        ...

    async def enter(self, connection: Connection, room: str) -> None:
        """Add a connection to a room that its client has asked for."""
        ...


async def refusal(node: ExchangeNode, connection: Connection, room: str) -> Fault | None:
    """Ask the application whether a client may enter a room by itself. Return None if it may."""
    hook = node.hooks.on_join
    if hook is None:
        return FORBIDDEN
    try:
        may_join = hook(connection, room)
        if inspect.isawaitable(may_join):
            may_join = await may_join
    except (Exception, asyncio.CancelledError) as error:
        if is_cancellation(error):
            raise
        return await _fault(node, connection, hook, error)
    return None if may_join else FORBIDDEN


async def _fault(
    node: ExchangeNode, connection: Connection, function: Callable[..., Any], error: BaseException
) -> Fault:
    """Return the fault for an exception of the application, which is reported unless it is meant as an answer."""
    fault = node.fault_of(error)
    if fault is None:
        await node.hooks.report(function, connection, error)
    return fault or FAILED


class _Work:
    """The task of one request of the client."""

    __slots__ = ("_task",)

    def __init__(self, task: "asyncio.Task[str]") -> None:
        self._task = task

    def cancel(self) -> None:
        # A function that closes its own connection goes on.
        if self._task is not asyncio.current_task():
            self._task.cancel()


class Exchange:
    """The open requests of one connection.

    Args:
        send: Sends a frame to the client, in order with everything else.
    """

    __slots__ = (
        "_answering", "_asked", "_connection", "_is_renewing", "_moves", "_node", "_renews_at_s", "_send", "_timer",
    )  # fmt: skip

    def __init__(self, node: ExchangeNode, connection: Connection, send: Callable[[str], None]) -> None:
        self._node, self._connection, self._send = node, connection, send
        self._asked, self._answering = Asked(), Answering()
        self._timer: asyncio.TimerHandle | None = None  # of the next deadline
        self._moves: dict[str, asyncio.Task[str]] = {}  # the last join or leave of each room
        self._is_renewing = False  # also while a cancelled renewal has not stopped
        self._renews_at_s = 0.0  # when the next one may begin, in the time of the loop

    def end(self) -> None:
        """End all requests, because the connection has ended."""
        if self._connection.loop is not running_loop():
            with suppress(RuntimeError):  # that loop is closed
                self._connection.loop.call_soon_threadsafe(self.end)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._node.counters.requests_cancelled += self._answering.end()
        self._asked.end()

    # Requests of the server

    def ask(self, name: str, text: str, resolve: Resolve, deadline_s: float) -> int | None:
        """Send a request whose data is the JSON ``text``. See ``Asked.ask``."""
        number = self._asked.ask(resolve, deadline_s)
        if number is not None:
            self._node.counters.requests_sent += 1
            self._send(frames.request(number, name, text))
            self._set_timer()
        return number

    def withdraw(self, number: int) -> None:
        """Tell the client that an open request needs no answer any more."""
        if self._asked.cancel(number):
            self._send(frames.cancel(number))

    def answered(self, answer: Answer | ErrorAnswer) -> None:
        """Take the client's answer to a request."""
        self._node.counters.answers_ignored += not self._asked.answered(answer)

    def _set_timer(self) -> None:
        deadline_s = self._asked.deadline_s
        if deadline_s is None:
            return
        if self._timer is not None:
            if self._timer.when() <= deadline_s:
                return
            self._timer.cancel()
        self._timer = running_loop().call_at(deadline_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for number in self._asked.expire(running_loop().time()):
            self._send(frames.cancel(number))
        self._set_timer()

    # Requests of the client

    def cancel(self, frame: Cancel) -> None:
        """Cancel a request of the client, which is then not answered."""
        was_open = self._answering.cancel(frame.number)
        self._node.counters.requests_cancelled += was_open
        self._node.counters.answers_ignored += not was_open

    def request(self, frame: Request, size: int) -> None:
        """Carry out a request, whose frame has ``size`` bytes or characters, and answer it."""
        responder = self._node.hooks.on_request.get(frame.name)
        if responder is None:
            self._refuse(frame.number, UNKNOWN)
        else:
            self._start(frame.number, self._respond(frame, responder), size)

    def join(self, frame: Join) -> None:
        """Add the connection to a room, if the application allows it, and answer."""
        if self._node.hooks.on_join is None and frame.room not in self._connection.rooms:
            self._refuse(frame.number, FORBIDDEN)
        else:
            self._move(frame)

    def leave(self, frame: Leave) -> None:
        """Remove the connection from a room, and answer."""
        self._move(frame)

    def _refuse(self, number: int, fault: Fault) -> None:
        self._node.counters.requests_received += 1
        self._node.counters.requests_refused += 1
        self._send(frames.error_answer(number, fault))

    def _start(
        self, number: int, work: Coroutine[Any, Any, str], size: int = 0, fault: Fault | None = None
    ) -> "asyncio.Task[str] | None":
        """Start the work on a request, which returns the answer. Return None if the request is refused.

        ``fault`` refuses it, unless it breaks a bound of all requests.
        """
        fault = self._answering.refusal(number, self._node.limits().max_message_size) or fault
        if fault is not None:
            work.close()
            self._refuse(number, fault)
            return None
        self._node.counters.requests_received += 1
        task = self._node.tasks.spawn(work, f"request-{self._connection.connection_id}")
        held = _Work(task)
        self._answering.begin(number, held, size)
        task.add_done_callback(lambda done: self._finish(number, held, done))
        return task

    def _finish(self, number: int, work: _Work, task: "asyncio.Task[str]") -> None:
        if self._answering.finish(number, work):
            has_answer = not task.cancelled() and task.exception() is None
            self._send(task.result() if has_answer else frames.error_answer(number, FAILED))

    async def _respond(self, frame: Request, responder: Responder) -> str:
        number = frame.number
        try:
            result = await responder.respond(self._connection, frame.data)
            return _limited(frames.answer(number, result), self._node.limits().max_message_size)
        except UnfitError as error:
            self._node.counters.requests_refused += 1
            return frames.error_answer(number, Fault("invalid", str(error)))
        except (Exception, asyncio.CancelledError) as error:
            if is_cancellation(error):
                raise
            return frames.error_answer(
                number, await _fault(self._node, self._connection, responder.function, error)
            )

    # Credentials

    def renew(self, frame: Renewal, identify: Identify | None) -> None:
        """Identify the client by a newer token, and answer with the time for which that holds."""
        if identify is None:
            self._refuse(frame.number, NO_RENEWAL)
        else:
            now_s, fault = running_loop().time(), None
            if self._is_renewing or now_s < self._renews_at_s:
                self._node.counters.renewals_deferred += 1
                fault = TOO_MANY_RENEWALS
            task = self._start(frame.number, self._renew(frame, identify), len(frame.token), fault)
            if task is not None:
                self._is_renewing, self._renews_at_s = True, now_s + RENEWAL_INTERVAL_S
                task.add_done_callback(self._renewed)

    def _renewed(self, _: "asyncio.Task[str]") -> None:
        self._is_renewing = False

    async def _renew(self, frame: Renewal, identify: Identify) -> str:
        connection, number = self._connection, frame.number
        try:
            identity = await identify(frame.token)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancellation(error):
                raise
            self._node.counters.requests_refused += 1
            return frames.error_answer(number, await _fault(self._node, connection, identify, error))
        if identity.client_id != connection.client_id:
            self._node.counters.requests_refused += 1
            return frames.error_answer(number, REFUSED)
        connection.expires(identity.expires_at)
        expires_s = connection.expires_in_s
        return frames.answer(number, {} if expires_s is None else {"exp": expires_s})

    # Rooms

    def _move(self, frame: Join | Leave) -> None:
        room, before = frame.room, self._moves.get(frame.room)
        task = self._start(frame.number, self._carry_out(frame, before))
        if task is not None:
            self._moves[room] = task
            task.add_done_callback(lambda done: self._moved(room, done))

    def _moved(self, room: str, task: "asyncio.Task[str]") -> None:
        if self._moves.get(room) is task:
            del self._moves[room]

    async def _carry_out(self, frame: Join | Leave, before: "asyncio.Task[str] | None") -> str:
        """Join or leave a room. Those of one room follow one another in the order of the client."""
        if before is not None:
            await asyncio.wait([before])
        fault = await (self._enter(frame.room) if isinstance(frame, Join) else self._exit(frame.room))
        if fault is None:
            return frames.answer(frame.number, None)
        self._node.counters.requests_refused += 1
        return frames.error_answer(frame.number, fault)

    async def _enter(self, room: str) -> Fault | None:
        if room in self._connection.rooms:
            return None
        fault = await refusal(self._node, self._connection, room)
        if fault is not None:
            return fault
        try:
            await self._node.enter(self._connection, room)
        except ConnectionLimitExceededError as error:
            return Fault("limit", f"a connection may be in {error.limit} rooms")
        except LOSSES:
            return UNAVAILABLE
        return None

    async def _exit(self, room: str) -> Fault | None:
        if room not in self._connection.rooms:
            return NOT_A_MEMBER
        try:
            await self._connection.leave(room)
        except LOSSES:  # the connection has left, and each beat tries to write it down
            return UNAVAILABLE
        return None


def _limited(text: str, limit: int) -> str:
    if len(text) > limit:
        raise MessageError(f"answer has {len(text)} characters, max_message_size is {limit}")
    return text
