"""Rules of the machine that are broken on purpose. Schedules must find each of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from fastapi_websocket_stabilizer_client import calls, writing
from fastapi_websocket_stabilizer_client.actions import Action, Deliver, Send
from fastapi_websocket_stabilizer_client.calls import Calls, Kind
from fastapi_websocket_stabilizer_client.closes import Do, End, Reaction
from fastapi_websocket_stabilizer_client.exchange import Exchange
from fastapi_websocket_stabilizer_client.frames import Change, Entry, Frame, Hi, LostLog, Snapshot
from fastapi_websocket_stabilizer_client.liveness import Liveness, Verdict
from fastapi_websocket_stabilizer_client.machine import Machine
from fastapi_websocket_stabilizer_client.messages import Message
from fastapi_websocket_stabilizer_client.outbound import Outbound, Unconfirmed
from fastapi_websocket_stabilizer_client.positions import Place
from fastapi_websocket_stabilizer_client.presence import Presence


class MovesAfterTheHandler(Machine):
    """Sets a position when the handler has returned."""

    _late: Entry | None = None

    def _apply(self, frame: Frame, now_s: float) -> None:
        if isinstance(frame, Entry):
            super()._apply(Entry(frame.log, 0, frame.data, frame.key), now_s)
            self._actions[-1:] = [_with_id(action, frame.id) for action in self._actions[-1:]]
            self._late = frame
        else:
            super()._apply(frame, now_s)

    def frame(self, generation: int, data: str | bytes, now_s: float) -> list[Action]:
        if self._late is not None:
            if self._late.id:
                self._place.move(self._late.log, self._late.id)
            self._late = None
        return super().frame(generation, data, now_s)


def _with_id(action: Action, id_: int) -> Action:
    if isinstance(action, Deliver) and isinstance(action.event, Message):
        return Deliver(Message(action.event.log, id_, action.event.data))
    return action


class TakesFormerSockets(Machine):
    """Takes frames of a socket that was abandoned or closed."""

    def frame(self, generation: int, data: str | bytes, now_s: float) -> list[Action]:
        return super().frame(generation if self._link is None else self._link.generation, data, now_s)


class ObeysFormerCloses(Machine):
    """Takes the close event of a former socket for one of the current."""

    def closed(self, generation: int, code: int, reason: str, now_s: float) -> list[Action]:
        return super().closed(
            generation if self._link is None else self._link.generation, code, reason, now_s
        )


class TakesBothSockets(Machine):
    """Gives what the old socket brings to the application while the next one resumes."""

    def _open(self, attempt: Any, token: str | None, now_s: float) -> None:
        super()._open(attempt, token, now_s)
        self._held = None


class GivesHeldFramesBeforeHi(Machine):
    """Gives held frames to the application, and resumes from before them."""

    def _greet(self, attempt: Any, hi: Hi, now_s: float) -> None:
        self._release(now_s)
        super()._greet(attempt, hi, now_s)


class DropsHeldFrames(Machine):
    """Drops held frames although the attempt has failed."""

    def _release(self, now_s: float) -> None:
        self._held = None


class WaitsForTheCloseEvent(Machine):
    """Pings a silent server, and waits for the close event of its socket."""

    def _check(self, now_s: float, *, slept: bool = False) -> None:
        if self._link is not None and self._link.liveness.check(now_s, slept=slept) is Verdict.PROBE:
            self._emit(Send(self._link.generation, writing.PROBE))


class WaitsForHiForEver(Machine):
    """Has no deadline for an attempt."""

    def _dial(self, now_s: float) -> None:
        super()._dial(now_s)
        if self._attempt is not None:
            self._attempt.deadline_s = 1e9

    def _open(self, attempt: Any, token: str | None, now_s: float) -> None:
        super()._open(attempt, token, now_s)
        attempt.deadline_s = 1e9


class DialsBesideADial(Machine):
    """Opens a second socket when the network is back, and forgets the first."""

    def online(self, now_s: float) -> list[Action]:
        if self._attempt is not None and self._link is None:
            self._attempt = None
        return super().online(now_s)


class SendsTooEarly(Machine):
    """Sends messages as soon as the socket is open."""

    def opened(self, generation: int, subprotocol: str | None, now_s: float) -> list[Action]:
        actions = super().opened(generation, subprotocol, now_s)
        if self._attempt is not None and self._link is None:
            self._exchange._generation = generation
        return actions


class IsKilledByItself(Machine):
    """Ends when its own next connection has replaced the current one."""

    def _dropped(self, reaction: Reaction, end: End, now_s: float, **rest: bool) -> None:
        if end.code == 4500:
            reaction, end = Reaction(Do.STOP), End(end.cause, 4499)
        super()._dropped(reaction, end, now_s, **rest)


class LeavesTheTimer(Machine):
    """Begins an attempt beside the old socket, and leaves its timer in the past."""

    def _dial(self, now_s: float) -> None:
        link = self._link
        due_s = None if link is None else link.next_handover_s
        super()._dial(now_s)
        if link is not None:
            link.next_handover_s = due_s


def begin_without_positions(self: Place, hi: Hi, *, had_cursor: bool) -> Sequence[LostLog]:
    self._session, self._t = hi.session, hi.t
    return hi.lost


def begin_without_others(self: Place, hi: Hi, *, had_cursor: bool) -> Sequence[LostLog]:
    self._at.clear()
    return _begin(self, hi, had_cursor=had_cursor)


def begin_with_new_keys(self: Place, hi: Hi, *, had_cursor: bool) -> Sequence[LostLog]:
    self._keys.clear()
    self._is_known.clear()
    return _begin(self, hi, had_cursor=had_cursor)


def lose_upwards(self: Place, lost: Sequence[LostLog]) -> None:
    for row in lost:
        self._at[row.log] = max(row.top, self._at.get(row.log, 0))


def nothing(*_: Any, **__: Any) -> None:
    return None


def never(*_: Any, **__: Any) -> bool:
    return False


def lose_in_silence(self: Machine, lost: Sequence[LostLog]) -> None:
    return None


def begin_with_old_numbers(self: Outbound, handled: int | None) -> list[Unconfirmed]:
    return _begin_outbound(self, 0 if handled is None else handled)


def begin_without_settled(self: Outbound, handled: int | None) -> list[Unconfirmed]:
    self._keep([message for message in self._messages if not message.is_settled])
    return _begin_outbound(self, handled)


def begin_as_if_sent(self: Outbound, handled: int | None) -> list[Unconfirmed]:
    confirmed = _begin_outbound(self, handled)
    self._sent = sum(message.number is not None for message in self._messages)
    return confirmed


def begin_as_if_handled(self: Outbound, handled: int | None) -> list[Unconfirmed]:
    return _begin_outbound(self, handled if handled is None else handled + 1)


def change_anyway(self: Presence, change: Change) -> bool:
    self.version = change.version - 1
    return _change(self, change)


def snapshot_of_one_page(self: Presence, page: Snapshot) -> bool:
    return _snapshot(self, Snapshot(page.room, page.version, page.members, more=False))


def never_dead(self: Liveness, now_s: float, *, slept: bool = False) -> Verdict:
    return Verdict.FINE


def answer_anybody(self: Exchange, generation: int, number: int, *rest: Any) -> None:
    self._asked.add(number)
    _answer(self, self._generation if self._generation is not None else generation, number, *rest)


def drop_nothing(self: Calls, key: Any) -> Any:
    return None


_begin, _begin_outbound = Place.begin, Outbound.begin
_change, _snapshot, _answer = Presence.change, Presence.snapshot, Exchange.answer


@dataclass(frozen=True)
class Mutation:
    """A broken rule: a machine, or a method that is replaced. ``often`` are steps that lead to where it matters."""

    name: str
    make: type[Machine] = Machine
    patch: tuple[Any, str, Any] | None = None
    often: tuple[str, ...] = ()

    @contextmanager
    def applied(self) -> Iterator[None]:
        if self.patch is None:
            yield
        else:
            with mock.patch.object(*self.patch):
                yield


def _made(make: type[Machine], *often: str) -> Mutation:
    return Mutation((make.__doc__ or "").rstrip("."), make, often=often)


def _patched(
    name: str, owner: Any, method: str, replacement: Callable[..., Any] | frozenset[Kind], *often: str
) -> Mutation:
    return Mutation(name, patch=(owner, method, replacement), often=often)


MUTATIONS = (
    _made(MovesAfterTheHandler),
    _made(TakesFormerSockets),
    _made(ObeysFormerCloses),
    _made(TakesBothSockets, "drain"),
    _made(GivesHeldFramesBeforeHi, "drain"),
    _made(DropsHeldFrames, "drain", "half_open"),
    _made(WaitsForTheCloseEvent),
    _made(WaitsForHiForEver, "half_open", "drain"),
    _made(DialsBesideADial),
    _made(SendsTooEarly),
    _made(IsKilledByItself, "drain"),
    _made(LeavesTheTimer, "drain", "half_open"),
    _patched(
        "forgets which messages came through another room", Place, "is_repeated", never, "publish_several"
    ),
    _patched(
        "forgets them with each connection",
        Place,
        "begin",
        begin_with_new_keys,
        "publish_several",
        "break_",
        "call",
    ),
    _patched("takes only larger ids for positions", Place, "lose", lose_upwards, "fail_over", "break_"),
    _patched("keeps its positions when hi comes", Place, "begin", begin_without_positions),
    _patched(
        "forgets rooms that hi does not name",
        Place,
        "begin",
        begin_without_others,
        "call",
        "expire",
        "break_",
    ),
    _patched("ignores positions without a message", Place, "move_all", nothing),
    _patched("keeps the position of a log that was lost", Place, "lose", nothing),
    _patched("does not tell of losses", Machine, "_lose", lose_in_silence),
    _patched(
        "goes on with the numbers of a former session",
        Outbound,
        "begin",
        begin_with_old_numbers,
        "confirm",
        "expire",
        "break_",
    ),
    _patched(
        "drops a numbered message that nothing waits for",
        Outbound,
        "begin",
        begin_without_settled,
        "confirm",
        "cancel",
        "break_",
    ),
    _patched("sends unconfirmed messages once", Outbound, "begin", begin_as_if_sent, "confirm", "break_"),
    _patched("takes one more message for handled", Outbound, "begin", begin_as_if_handled),
    _patched("repeats requests", calls, "REPEATED", frozenset(Kind)),
    _patched("does not forget a call that was cancelled", Calls, "drop", drop_nothing),
    _patched("answers requests of a former connection", Exchange, "answer", answer_anybody, "ask", "break_"),
    _patched("does not join rooms again", Exchange, "live", nothing, "call", "expire", "break_"),
    _patched(
        "applies changes of presence that do not follow",
        Presence,
        "change",
        change_anyway,
        "watch",
        "presence",
    ),
    _patched("takes one page of presence for the list", Presence, "snapshot", snapshot_of_one_page),
    _patched("does not ask after a gap of presence", Presence, "must_ask", never, "watch", "presence"),
    _patched("trusts silent servers", Liveness, "check", never_dead),
)
