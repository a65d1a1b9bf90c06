"""The connections of a client, one after the other: attempts, resumes, drains and ends."""

from collections.abc import Callable, Sequence

from . import frames, writing
from .actions import Abandon, Action, Authorize, Close, Deliver, Dial, Send, StatusChanged
from .closes import BROKEN, REPLACED, Do, End, Reaction, describe, react
from .ends import error_of, other_subprotocol
from .errors import ClosedError, IncompatibleServerError, InvalidDataError
from .exchange import Exchange
from .frames import (
    Change,
    Entry,
    Frame,
    FrameError,
    Go,
    Hi,
    Joined,
    Left,
    Live,
    Losses,
    LostLog,
    Positions,
    Probe,
    Resumed,
    Snapshot,
    Time,
)
from .handshake import SUBPROTOCOL, VERSION, offer
from .links import Attempt, Link
from .liveness import Liveness, Verdict
from .messages import Lost, Message, Status, StatusChange
from .options import Options
from .positions import Place
from .retry import Retry

_RETRY = Reaction(Do.RETRY)
_OWN_SESSIONS = 16
_HELD = (Entry, Positions, Losses, Joined, Left, Snapshot, Change)


class Lifecycle:
    """The part of the machine that decides about connections.

    Args:
        chance: Returns random numbers from 0 up to 1.
        options: Bounds.

    Attributes:
        client_id: The id that the server has given this client, "" before the first connection.
        error: The reason for the end of the client, or None.
    """

    def __init__(self, chance: Callable[[], float], options: Options | None = None) -> None:
        self._options = options or Options()
        self._actions: list[Action] = []
        self._retry = Retry(chance)
        self._place = Place()
        self._exchange = Exchange(self._options, self._actions.append)
        self._generation = 0
        self._attempt: Attempt | None = None
        self._link: Link | None = None
        self._held: list[Frame] | None = None
        self._dial_s: float | None = None
        self._is_online: bool | None = None
        self._is_started = self._is_closed = False
        self._sessions: list[str] = []
        self._replaced: tuple[str, End] | None = None
        self._end = End(code=None)
        self._status = Status.IDLE
        self._emit = self._actions.append
        self.client_id: str = ""
        self.error: ClosedError | None = None

    @property
    def status(self) -> Status:
        """The state of the client."""
        if not self._is_started:
            return Status.IDLE
        if self._is_closed:
            return Status.CLOSED
        if self._link is not None:
            return Status.CATCHING_UP if self._link.live_since_s is None else Status.LIVE
        if self._attempt is not None:
            return Status.CONNECTING
        return Status.OFFLINE if self._is_online is False else Status.WAITING

    @property
    def cursor(self) -> str | None:
        """The cursor of the next attempt, or None before the first connection."""
        return self._place.cursor()

    @property
    def timer_at(self) -> float | None:
        """The time at which to call ``timer``, or None."""
        times = [self._dial_s, self._exchange.timer_at]
        if self._attempt is not None:
            times.append(self._attempt.deadline_s)
        if self._link is not None:
            times += [self._link.liveness.deadline_s, self._link.next_handover_s]
        return min((time for time in times if time is not None), default=None)

    # Credentials and sockets.

    def authorized(self, generation: int, token: str | None, now_s: float) -> list[Action]:
        """Open a socket with the credentials of an attempt."""
        attempt = self._attempt
        if attempt is not None and attempt.generation == generation and not attempt.is_dialed:
            self._open(attempt, token, now_s)
        return self._done(now_s)

    def unauthorized(self, generation: int, cause: str, now_s: float) -> list[Action]:
        """Note that the credentials of an attempt could not be had."""
        if self._attempt is not None and self._attempt.generation == generation:
            self._refused(_RETRY, End(cause), now_s)
        return self._done(now_s)

    def renew(self, generation: int, token: str, now_s: float) -> list[Action]:
        """Send newer credentials on the connection that asked for them."""
        self._exchange.renew(generation, token, now_s)
        return self._done(now_s)

    def opened(self, generation: int, subprotocol: str | None, now_s: float) -> list[Action]:
        """Note that a socket is open, and which subprotocol the server selected."""
        attempt = self._attempt
        if attempt is None or attempt.generation != generation:
            return [Abandon(generation)]
        if subprotocol != SUBPROTOCOL:
            self._stop(IncompatibleServerError(other_subprotocol(subprotocol)), now_s)
        else:
            attempt.is_open = True
            if attempt.is_cursor_first and attempt.cursor is not None:
                self._emit(Send(generation, writing.resume(attempt.cursor)))
        return self._done(now_s)

    def closed(self, generation: int, code: int, reason: str, now_s: float) -> list[Action]:
        """Note that a socket was closed, or that it could not be opened (1006)."""
        reaction, end = react(code, reason, self._sessions), End(describe(code, reason), code, reason)
        if self._attempt is not None and self._attempt.generation == generation:
            was_opened = self._attempt.is_open or code != BROKEN
            self._refused(reaction, end if was_opened else End(f"no connection: {reason}"), now_s)
        elif self._link is not None and self._link.generation == generation:
            self._dropped(reaction, end, now_s)
        return self._done(now_s)

    def frame(self, generation: int, data: str | bytes, now_s: float) -> list[Action]:
        """Handle a frame. Frames of former sockets change nothing."""
        if self._link is not None and self._link.generation == generation:
            self._link.liveness.heard(now_s)
            try:
                self._take(self._link, frames.read(data), now_s)
            except FrameError as error:
                self._emit(Abandon(generation))
                self._dropped(_RETRY, End(str(error)), now_s, is_fault=True)
        elif self._attempt is not None and self._attempt.generation == generation and self._attempt.is_open:
            self._take_first(self._attempt, data, now_s)
        return self._done(now_s)

    # Attempts.

    def _begin(self, now_s: float) -> None:
        """Dial at once, because the application asks for it."""
        self._is_started, self._is_closed, self.error = True, False, None
        self._retry.reset()
        self._end, self._replaced = End(code=None), None
        self._is_online = None  # an attempt shows whether there is a network
        self._dial(now_s)

    def _dial(self, now_s: float) -> None:
        """Begin an attempt. During a drain, the connection goes on beside it."""
        self._generation += 1
        self._dial_s = None
        if self._link is not None:
            self._link.next_handover_s = None
        self._attempt = Attempt(self._generation, now_s + self._options.attempt_timeout_s)
        if self._options.has_auth:
            self._emit(Authorize(self._generation))
        else:
            self._open(self._attempt, None, now_s)

    def _open(self, attempt: Attempt, token: str | None, now_s: float) -> None:
        """Take the cursor. From now on the frames of an older socket that move positions wait."""
        attempt.cursor = self._place.cursor()
        try:
            items, attempt.is_cursor_first = offer(attempt.cursor, token, later=self._retry.is_later)
        except InvalidDataError as error:
            self._stop(ClosedError(str(error)), now_s)
            return
        attempt.is_dialed, attempt.deadline_s = True, now_s + self._options.attempt_timeout_s
        if self._link is not None:
            self._held = []
        self._emit(Dial(attempt.generation, items))

    def _take_first(self, attempt: Attempt, data: str | bytes, now_s: float) -> None:
        try:
            frame = frames.read(data)
        except FrameError as error:
            self._give_up(attempt, str(error), now_s)
            return
        if not isinstance(frame, Hi):
            self._give_up(attempt, f"the first frame is not hi: {type(frame).__name__}", now_s)
        elif frame.version != VERSION:
            cause = (
                f"the server speaks version {frame.version} of {SUBPROTOCOL}, this client version {VERSION}"
            )
            self._stop(IncompatibleServerError(f"{cause}: upgrade the client"), now_s)
        else:
            self._greet(attempt, frame, now_s)

    def _greet(self, attempt: Attempt, hi: Hi, now_s: float) -> None:
        """Go on with a new connection. The held frames of the old one are replayed, or their logs are lost."""
        self._attempt = self._held = None
        replaced, self._replaced = self._replaced, None
        if replaced is not None and replaced[0] != hi.session:
            self._emit(Close(attempt.generation))
            self._stop(error_of(replaced[1]), now_s)
            return
        if self._link is not None:
            self._exchange.end()
            self._emit(Close(self._link.generation))
        self._retry.greeted()
        self._end = End(code=None)
        self.client_id = hi.client
        self._sessions = [*self._sessions, hi.session][-_OWN_SESSIONS:]
        self._link = Link(attempt.generation, Liveness(hi.ping_s, now_s), hi.outcome == "later")
        self._lose(self._place.begin(hi, had_cursor=attempt.cursor is not None))
        self._exchange.begin(attempt.generation, hi, now_s)

    def _give_up(self, attempt: Attempt, cause: str, now_s: float) -> None:
        self._emit(Abandon(attempt.generation))
        self._refused(_RETRY, End(cause), now_s)

    def _refused(self, reaction: Reaction, end: End, now_s: float) -> None:
        """Decide what follows an attempt that ended before ``hi``."""
        was_dialed = self._attempt is not None and self._attempt.is_dialed
        self._attempt = self._replaced = None
        self._end = end
        self._release(now_s)
        if self._link is not None:
            self._link.next_handover_s = now_s + self._retry.pause()
            self._link.may_replace_itself |= was_dialed
        elif self._retry.is_hopeless(reaction, can_renew=self._options.can_renew):
            self._stop(error_of(end), now_s)
        else:
            self._dial_s = now_s + self._retry.refused(reaction)

    # Connections.

    def _take(self, link: Link, frame: Frame, now_s: float) -> None:
        if self._held is not None and isinstance(frame, _HELD):
            self._hold(self._held, frame, now_s)
            return
        match frame:
            case Live():
                self._take_live(link, now_s)
            case Resumed():
                link.awaits_outcome = False
            case Time(t):
                self._place.hear(t)
            case Probe():
                self._emit(Send(link.generation, writing.ALIVE))
            case Go():
                self._take_go(now_s)
            case _:
                self._apply(frame, now_s)

    def _take_live(self, link: Link, now_s: float) -> None:
        if link.live_since_s is None and not link.awaits_outcome:
            link.live_since_s = now_s
            self._exchange.live(now_s)

    def _take_go(self, now_s: float) -> None:
        if self._attempt is None:
            self._dial(now_s)

    def _hold(self, held: list[Frame], frame: Frame, now_s: float) -> None:
        held.append(frame)
        if len(held) > self._options.max_held and self._attempt is not None:
            self._give_up(self._attempt, f"{len(held)} frames came before the next socket was ready", now_s)

    def _release(self, now_s: float) -> None:
        """Take the held frames: no connection follows that replays them."""
        held, self._held = self._held, None
        for frame in held or ():
            self._apply(frame, now_s)

    def _apply(self, frame: Frame, now_s: float) -> None:
        """Set positions, then tell the application: its handler may end the connection."""
        match frame:
            case Entry(log, id_, data, key):
                if id_:
                    self._place.move(log, id_)
                if not (key and self._place.is_repeated(key)):
                    self._emit(Deliver(Message(log, id_, data)))
            case Positions():
                self._place.move_all(frame)
            case Losses(lost):
                self._place.lose(lost)
                self._lose(lost)
            case Joined(room, at):
                self._place.join(room, at)
                self._exchange.take(frame, now_s)
            case Left(room):
                self._place.leave(room)
                self._exchange.take(frame, now_s)
            case _:
                self._exchange.take(frame, now_s)

    def _lose(self, lost: Sequence[LostLog]) -> None:
        for row in lost:
            self._emit(Deliver(Lost(row.log, row.top, row.code)))

    def _dropped(self, reaction: Reaction, end: End, now_s: float, *, is_fault: bool = False) -> None:
        """Decide what follows a connection that ended."""
        link, self._link, self._end = self._link, None, end
        assert link is not None
        self._exchange.end()
        attempt = self._attempt
        if end.code == REPLACED and link.may_replace_itself:
            reaction = _RETRY
        elif end.code == REPLACED and attempt is not None and attempt.is_dialed:
            self._replaced = reaction.by, end  # perhaps by the attempt: its ``hi`` will tell
            return
        if self._retry.is_hopeless(reaction, can_renew=self._options.can_renew):
            self._stop(error_of(end), now_s)
        elif attempt is None:
            live_s = 0.0 if link.live_since_s is None else now_s - link.live_since_s
            self._dial_s = now_s + self._retry.dropped(reaction, live_s, is_fault=is_fault)

    def _check(self, now_s: float, *, slept: bool = False) -> None:
        """Ping a server that is silent, and drop the connection if nothing comes."""
        link = self._link
        verdict = Verdict.FINE if link is None else link.liveness.check(now_s, slept=slept)
        if link is None or verdict is Verdict.FINE:
            return
        if verdict is Verdict.PROBE:
            self._emit(Send(link.generation, writing.PROBE))
        else:
            self._emit(Abandon(link.generation))
            self._dropped(_RETRY, End("the server sent nothing, and did not answer a ping"), now_s)

    # Ends.

    def _stop(self, error: ClosedError, now_s: float, *, is_own: bool = False) -> None:
        self._hang_up(now_s)
        self._is_closed, self.error = True, None if is_own else error
        self._end = End(str(error), error.code, error.reason)
        self._exchange.close(error)

    def _hang_up(self, now_s: float) -> None:
        """End the attempt and the connection."""
        self._dial_s = None
        self._abandon_attempt(now_s)
        if self._link is not None:
            self._emit(Close(self._link.generation))
            self._link = None
            self._exchange.end()

    def _abandon_attempt(self, now_s: float) -> None:
        if self._attempt is not None:
            self._emit(Abandon(self._attempt.generation))
            self._attempt = self._replaced = None
        self._release(now_s)

    # Times.

    def _tick(self, now_s: float, *, slept: bool) -> list[Action]:
        attempt = self._attempt
        if attempt is not None and now_s >= attempt.deadline_s:
            missing = "hi" if attempt.is_open else "a socket" if attempt.is_dialed else "credentials"
            self._give_up(attempt, f"{missing} did not come in {self._options.attempt_timeout_s:g} s", now_s)
        self._check(now_s, slept=slept)
        if _is_due(self._dial_s, now_s) or (
            self._link is not None and self._attempt is None and _is_due(self._link.next_handover_s, now_s)
        ):
            self._dial(now_s)
        self._exchange.timer(now_s)
        return self._done(now_s)

    def _done(self, now_s: float) -> list[Action]:
        """Return the actions of an event."""
        status = self.status
        if status is not self._status:
            wait_s = None if self._dial_s is None else max(0.0, self._dial_s - now_s)
            end, failures = self._end, self._retry.failures
            change = StatusChange(self._status, status, end.cause, end.code, failures, wait_s, self.error)
            self._status = status
            self._emit(StatusChanged(change))
        actions = self._actions.copy()
        self._actions.clear()
        return actions


def _is_due(time_s: float | None, now_s: float) -> bool:
    return time_s is not None and now_s >= time_s
