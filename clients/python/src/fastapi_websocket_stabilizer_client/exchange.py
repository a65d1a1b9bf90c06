"""Traffic of a connection beside the replay: calls, confirmed messages, requests, rooms and presence.

``Exchange`` is a pure part of the machine. It outlives connections: ``begin`` and ``end`` tell it of them.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from . import writing
from .actions import Action, Asked, Authorize, PresenceChanged, RoomChanged, Send, Settle, Unasked
from .calls import MAX_OPEN, Call, Calls, Kind
from .errors import (
    ClosedError,
    InterruptedRequestError,
    NotConnectedError,
    RequestFailedError,
    RequestTimeoutError,
    StabilizerClientError,
)
from .frames import Answer, Cancel, Change, Frame, Handled, Hi, Joined, Left, Request, Snapshot
from .mailbox import Marks
from .messages import Data
from .options import Options
from .outbound import Outbound, Unconfirmed
from .presence import Presence

RENEWED_AT = 0.8
"""Part of the life of credentials after which newer ones are sent."""
RENEWED_AGAIN_S = 10.0
"""Seconds after which they are asked for again, if none could be had or the server has refused them."""
ANSWERED_S = 30.0
"""Seconds for the answer to a call of the client's own: a renewal, or a room that is joined again."""


@dataclass(frozen=True, eq=False)
class _Own:
    """The key of a call that the client makes by itself."""


class Exchange:
    """Calls and requests. Each call has one outcome.

    Args:
        options: Limits.
        emit: Takes the actions.
    """

    def __init__(self, options: Options, emit: Callable[[Action], None]) -> None:
        self._options, self._emit = options, emit
        self._generation: int | None = None
        self._rooms: set[str] = set()
        self._wanted: set[str] = set()
        self._asked: set[int] = set()
        self._calls = Calls()
        self._outbound = Outbound(options.max_unconfirmed, options.max_unconfirmed_bytes)
        self._presence: dict[str, Presence] = {}
        self._marks = Marks()
        self._renewal_s: float | None = None

    # Connections.

    def begin(self, generation: int, hi: Hi, now_s: float) -> None:
        """Send what waits for a connection."""
        self._generation = generation
        self._rooms = set(hi.at.rooms)
        for message in self._outbound.begin(hi.handled):
            self._emit(Settle(message.key))
        self._schedule_renewal(hi.expires_s, now_s)
        self._send(self._outbound.ready())
        self._send(self._calls.ready())
        self._presence = {room: presence for room, presence in self._presence.items() if presence.is_watched}
        for room, presence in self._presence.items():
            presence.interrupt()
            if room in self._rooms:
                self._ask(room, now_s)

    def live(self, now_s: float) -> None:
        """Join the rooms again that the application joined, and that the server does not know any more."""
        for room in sorted(self._wanted - self._rooms - self._calls.rooms(Kind.JOIN)):
            self._call(Call(_Own(), Kind.JOIN, room, now_s + ANSWERED_S))

    def end(self) -> None:
        """End the connection. Calls whose effect may have happened end with it."""
        generation, self._generation, self._renewal_s = self._generation, None, None
        if generation is None:
            return
        for call in self._calls.interrupt():
            self._settle(call, error=InterruptedRequestError("the connection ended before the answer came"))
        self._outbound.interrupt()
        for number in sorted(self._asked):
            self._emit(Unasked(generation, number))
        self._asked.clear()

    def close(self, error: ClosedError) -> None:
        """End all calls and messages, because no connection follows."""
        self.end()
        for call in self._calls.end():
            self._settle(call, error=error)
        for message in self._outbound.end():
            self._emit(Settle(message.key, error=error))

    def timer(self, now_s: float) -> None:
        """Do what is due."""
        for call in self._calls.overdue(now_s):
            self._forget(call.key)
            self._settle(
                call, error=RequestTimeoutError(f"no answer to {call.kind.value} {call.subject!r} in time")
            )
        for message in self._outbound.overdue(now_s):
            self._outbound.settle(message.key)
            self._emit(
                Settle(message.key, error=RequestTimeoutError("no confirmation of the message in time"))
            )
        self._mark(now_s)
        if self._renewal_s is not None and now_s >= self._renewal_s and self._generation is not None:
            self._renewal_s = now_s + RENEWED_AGAIN_S
            self._emit(Authorize(self._generation, is_renewal=True))

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms of the connection, or of the last one."""
        return frozenset(self._rooms)

    @property
    def timer_at(self) -> float | None:
        """The time at which ``timer`` has something to do, or None."""
        marks_s = self._marks.deadline_s if self._generation is not None else None
        times = (self._calls.soonest_s, self._outbound.soonest_s, self._renewal_s, marks_s)
        return min((time for time in times if time is not None), default=None)

    # Frames of the server.

    def take(self, frame: Frame, now_s: float) -> None:
        """Handle a frame of the connection."""
        match frame:
            case Answer():
                self._answered(frame, now_s)
            case Handled():
                self._handled(frame)
            case Request():
                self._requested(frame)
            case Cancel(number):
                self._cancelled(number)
            case Joined(room):
                self._joined(room, now_s)
            case Left(room):
                self._left(room)
            case Snapshot() | Change():
                self._present(frame, now_s)

    def _answered(self, answer: Answer, now_s: float) -> None:
        call = self._calls.answered(answer.number)
        if call is None:
            return
        error = answer.error
        if call.kind is Kind.LEAVE and call.is_repeated and error is not None and error.code == "not_found":
            error = None  # the former connection has left the room
        if error is None:
            self._succeeded(call, answer.data, now_s)
        self._settle(call, answer.data, error)
        self._send(self._calls.ready())

    def _succeeded(self, call: Call, data: Data, now_s: float) -> None:
        match call.kind:
            case Kind.JOIN:
                self._wanted.add(call.subject)
            case Kind.LEAVE:
                self._wanted.discard(call.subject)
            case Kind.RENEWAL:
                expires_s = data.get("exp") if isinstance(data, dict) else None
                self._schedule_renewal(expires_s if isinstance(expires_s, int | float) else None, now_s)

    def _handled(self, handled: Handled) -> None:
        messages = self._outbound.handled(handled.number)
        for message in messages:
            failed = handled.error is not None and message.number == handled.number
            self._emit(Settle(message.key, error=handled.error if failed else None))

    def _requested(self, request: Request) -> None:
        if self._generation is None or request.number in self._asked:
            return
        if len(self._asked) >= MAX_OPEN:
            error = RequestFailedError("limit", f"{MAX_OPEN} requests are open", retry=True)
            self._send([writing.error_answer(request.number, error)])
            return
        self._asked.add(request.number)
        self._emit(Asked(self._generation, request))

    def _cancelled(self, number: int) -> None:
        if number in self._asked and self._generation is not None:
            self._asked.discard(number)
            self._emit(Unasked(self._generation, number))

    def _joined(self, room: str, now_s: float) -> None:
        self._rooms.add(room)
        self._emit(RoomChanged(room, is_member=True))
        if self._is_watched(room):
            self._ask(room, now_s)

    def _left(self, room: str) -> None:
        self._rooms.discard(room)
        self._wanted.discard(room)
        self._emit(RoomChanged(room, is_member=False))
        if room in self._presence:
            self._presence[room].clear()
        if self._is_watched(room):
            self._emit(PresenceChanged(room, {}))

    def _present(self, frame: Snapshot | Change, now_s: float) -> None:
        presence = self._presence.get(frame.room)
        if presence is None:
            return
        if isinstance(frame, Snapshot):
            is_new = presence.snapshot(frame)
        else:
            is_new = presence.change(frame)
            if not is_new and presence.must_ask(now_s):
                self._ask(frame.room, now_s)
        if is_new and presence.is_watched:
            self._emit(PresenceChanged(frame.room, presence.members))

    # Calls of the application.

    def send(self, data: Data) -> None:
        """Send a message that is not confirmed and not repeated.

        Raises:
            InvalidDataError: It cannot be sent.
            NotConnectedError: No connection is open.
        """
        writing.check_data(data, self._options.max_message_bytes)
        if self._generation is None:
            raise NotConnectedError(
                "no connection is open: wait for the status live, or send with confirm=True"
            )
        self._send([writing.message(data)])

    def confirm(self, key: Hashable, data: Data, deadline_s: float) -> None:
        """Send a message until it is confirmed, also on the next connections.

        Raises:
            InvalidDataError: It cannot be sent.
            LimitError: Too much is unconfirmed.
        """
        size = writing.check_data(data, self._options.max_message_bytes)
        self._outbound.add(Unconfirmed(key, data, size, deadline_s))
        if self._generation is not None:
            self._send(self._outbound.ready())

    def request(self, key: Hashable, name: str, data: Data, deadline_s: float) -> None:
        """Ask the server, now or when a connection is open.

        Raises:
            InvalidDataError: The name or the data cannot be sent.
            LimitError: Too many requests wait.
        """
        writing.check_name(name)
        writing.check_data(data, self._options.max_message_bytes)
        self._call(Call(key, Kind.REQUEST, name, deadline_s, data))

    def join(self, key: Hashable, room: str, deadline_s: float) -> None:
        """Join a room, on this connection and the next ones."""
        writing.check_room(room)
        self._call(Call(key, Kind.JOIN, room, deadline_s))

    def leave(self, key: Hashable, room: str, deadline_s: float) -> None:
        """Leave a room."""
        writing.check_room(room)
        self._call(Call(key, Kind.LEAVE, room, deadline_s))
        self._wanted.discard(room)

    def renew(self, generation: int, token: str, now_s: float) -> None:
        """Send newer credentials, if the connection that asked for them is still open."""
        if generation == self._generation:
            self._call(Call(_Own(), Kind.RENEWAL, token, now_s + ANSWERED_S))

    def cancel(self, key: Hashable) -> None:
        """Forget a call or a message. It may be carried out all the same."""
        if not self._forget(key):
            self._outbound.settle(key)

    def answer(self, generation: int, number: int, data: Data, error: RequestFailedError | None) -> None:
        """Answer a request of the server, if the server still waits.

        Raises:
            InvalidDataError: The data cannot be sent. The request is still open.
        """
        if generation != self._generation or number not in self._asked:
            return
        if error is None:
            writing.check_data(data, self._options.max_message_bytes)
        frame = writing.answer(number, data) if error is None else writing.error_answer(number, error)
        self._asked.discard(number)
        self._send([frame])

    def mark(self, id_: int, now_s: float) -> None:
        """Note that a message of the mailbox was handled."""
        self._marks.handled(id_)
        self._mark(now_s)

    def flush(self, now_s: float) -> None:
        """Send the mark of the mailbox now, because the connection is about to be closed."""
        self._mark(now_s, at_once=True)

    def watch(self, room: str, now_s: float) -> None:
        """Ask for the presence of a room, on this connection and the next ones."""
        writing.check_room(room)
        was_watched, presence = self._is_watched(room), self._presence.setdefault(room, Presence())
        presence.is_watched = True
        if presence.version:
            self._emit(PresenceChanged(room, presence.members))
        if room in self._rooms and not was_watched:
            self._ask(room, now_s)

    def unwatch(self, room: str) -> None:
        """Ask for no more presence of a room."""
        if self._is_watched(room):
            self._presence[room].is_watched = False
            if room in self._rooms:
                self._send([writing.watch(room, None)])

    # Helpers.

    def _send(self, frames: Iterable[writing.Frame]) -> None:
        if self._generation is not None:
            for frame in frames:
                self._emit(Send(self._generation, frame))

    def _call(self, call: Call) -> None:
        self._calls.add(call)
        if self._generation is not None:
            self._send(self._calls.ready())

    def _settle(self, call: Call, value: Data = None, error: StabilizerClientError | None = None) -> None:
        if not isinstance(call.key, _Own):
            self._emit(Settle(call.key, value, error))
        elif call.kind is Kind.JOIN and error is not None:
            self._wanted.discard(call.subject)
            self._emit(RoomChanged(call.subject, is_member=False, error=error))

    def _forget(self, key: Hashable) -> bool:
        """Remove a call, and return whether it was waiting."""
        dropped = self._calls.drop(key)
        if dropped is not None and dropped[1] is not None:
            self._send([writing.cancel(dropped[1]), *self._calls.ready()])
        return dropped is not None

    def _mark(self, now_s: float, *, at_once: bool = False) -> None:
        id_ = self._marks.due(now_s, at_once=at_once) if self._generation is not None else None
        if id_ is not None:
            self._send([writing.mailbox_read(id_)])

    def _is_watched(self, room: str) -> bool:
        return room in self._presence and self._presence[room].is_watched

    def _ask(self, room: str, now_s: float) -> None:
        presence = self._presence[room]
        presence.asked(now_s)
        self._send([writing.watch(room, presence.version)])

    def _schedule_renewal(self, expires_s: float | None, now_s: float) -> None:
        can_renew = self._options.can_renew and expires_s is not None
        self._renewal_s = now_s + (expires_s or 0.0) * RENEWED_AT if can_renew else None
