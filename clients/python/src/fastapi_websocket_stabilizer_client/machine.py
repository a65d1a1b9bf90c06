"""The machine of a client: events in, actions out.

It has no socket, no clock and no chance of its own. Times are seconds of any clock that does not go back. Each method
returns the actions in the order in which to carry them out. It may be called while earlier actions are carried out;
its actions then follow behind the earlier ones.
"""

from collections.abc import Hashable

from .actions import Action
from .closes import End
from .ends import error_of_call
from .errors import ClosedError, RequestFailedError
from .lifecycle import Lifecycle
from .messages import Data

LATE_S = 5.0
"""A timer that is later than this shows that the machine was asleep."""


class Machine(Lifecycle):
    """A client of ``stabilizer.v1``: its connections, and the calls of the application.

    A call with a key has one outcome: a ``Settle`` with the key, or the call of ``cancel``. A call that cannot even
    begin raises its error.
    """

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms of the connection."""
        return self._exchange.rooms

    # The system, and what the application wants.

    def start(self, now_s: float) -> list[Action]:
        """Connect, at first or after the client has ended. A client that has started is left alone."""
        if not self._is_started or self._is_closed:
            self._begin(now_s)
        return self._done(now_s)

    def reconnect(self, now_s: float) -> list[Action]:
        """Drop the connection, and connect at once."""
        if self._is_started and not self._is_closed:
            self._hang_up(now_s)
        self._begin(now_s)
        return self._done(now_s)

    def close(self, now_s: float) -> list[Action]:
        """End the client. Calls without an outcome end with ClosedError."""
        if self._is_started and not self._is_closed:
            self._exchange.flush(now_s)
            self._stop(ClosedError("the client was closed by the application"), now_s, is_own=True)
        return self._done(now_s)

    def offline(self, now_s: float) -> list[Action]:
        """Note that the system has no network: close the socket, and try nothing."""
        if self._is_online is not False:
            self._is_online = False
            if self._is_started and not self._is_closed:
                self._hang_up(now_s)
                self._dial_s, self._end = None, End("the system has no network", code=None)
        return self._done(now_s)

    def online(self, now_s: float) -> list[Action]:
        """Note that the system has a network: dial at once, also if a dial is under way."""
        was_online, self._is_online = self._is_online, True
        if was_online or not self._is_started or self._is_closed:
            return self._done(now_s)
        if self._link is not None:
            self._check(now_s, slept=True)
        else:
            self._abandon_attempt(now_s)
            self._dial(now_s)
        return self._done(now_s)

    def wake(self, now_s: float) -> list[Action]:
        """Check all times, because the system may have slept."""
        return self._tick(now_s, slept=True)

    def stalled(self, now_s: float) -> list[Action]:
        """Note that frames wait because the application does not take any: the silence is not the server's."""
        if self._link is not None:
            self._link.liveness.heard(now_s)
        return self._done(now_s)

    def timer(self, now_s: float) -> list[Action]:
        """Do what is due. It may be called at any time."""
        at_s = self.timer_at
        return self._tick(now_s, slept=at_s is not None and now_s - at_s > LATE_S)

    # Calls of the application: see ``Exchange``.

    def send(self, data: Data, now_s: float) -> list[Action]:
        """Send a message that is not confirmed. Raise NotConnectedError without a connection."""
        self._begin_call(now_s)
        self._exchange.send(data)
        return self._done(now_s)

    def confirm(self, key: Hashable, data: Data, deadline_s: float, now_s: float) -> list[Action]:
        """Send a message until it is confirmed. Its outcome is a ``Settle`` with the key."""
        self._begin_call(now_s)
        self._exchange.confirm(key, data, deadline_s)
        return self._done(now_s)

    def request(self, key: Hashable, name: str, data: Data, deadline_s: float, now_s: float) -> list[Action]:
        """Ask the server. The outcome is a ``Settle`` with the key."""
        self._begin_call(now_s)
        self._exchange.request(key, name, data, deadline_s)
        return self._done(now_s)

    def join(self, key: Hashable, room: str, deadline_s: float, now_s: float) -> list[Action]:
        """Join a room. The outcome is a ``Settle`` with the key."""
        self._begin_call(now_s)
        self._exchange.join(key, room, deadline_s)
        return self._done(now_s)

    def leave(self, key: Hashable, room: str, deadline_s: float, now_s: float) -> list[Action]:
        """Leave a room. The outcome is a ``Settle`` with the key."""
        self._begin_call(now_s)
        self._exchange.leave(key, room, deadline_s)
        return self._done(now_s)

    def cancel(self, key: Hashable, now_s: float) -> list[Action]:
        """Forget a call or a message. No ``Settle`` follows, except one of an earlier event."""
        self._exchange.cancel(key)
        return self._done(now_s)

    def answer(
        self, generation: int, number: int, data: Data, error: RequestFailedError | None, now_s: float
    ) -> list[Action]:
        """Answer a request of the server."""
        self._exchange.answer(generation, number, data, error)
        return self._done(now_s)

    def handled(self, id_: int, now_s: float) -> list[Action]:
        """Note that the application has handled a message of the mailbox."""
        self._exchange.mark(id_, now_s)
        return self._done(now_s)

    def watch(self, room: str, now_s: float) -> list[Action]:
        """Watch the members of a room."""
        self._exchange.watch(room, now_s)
        return self._done(now_s)

    def unwatch(self, room: str, now_s: float) -> list[Action]:
        """Stop watching the members of a room."""
        self._exchange.unwatch(room)
        return self._done(now_s)

    def _begin_call(self, now_s: float) -> None:
        if self._is_closed:
            raise error_of_call(self.error)
        self._check(now_s)
