"""Open requests of one connection, in both directions. Pure: numbers, bounds, and one outcome for each request.

The first event ends a request, and later ones are ignored. That is the answer, the cancellation, or the end of the
connection. A request of the server has a deadline as well.

Each method changes the state before it calls a function. So that function may call the same object again.
"""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from ..wire.client_frames import Fault
from ..wire.client_input import Answer, ErrorAnswer

MAX_OPEN_REQUESTS = 64
"""Open requests of a connection in each direction."""


class Unanswered(Enum):
    """Reason why a request of the server has no answer. The values go from node to node."""

    TIMEOUT = "timeout"
    """Its deadline has passed."""
    CANCELLED = "cancelled"
    """Its caller was cancelled, or another socket has answered."""
    ENDED = "ended"
    """The connection has ended."""
    LIMIT = "limit"
    """The connection has ``MAX_OPEN_REQUESTS``, so it was not sent."""
    PLAIN = "plain"
    """The connection does not speak ``stabilizer.v1``, so it was not sent."""
    ABSENT = "absent"
    """There is no connection."""


Outcome = Answer | ErrorAnswer | Unanswered
Resolve = Callable[[Outcome], None]


class Asked:
    """Requests of the server to one client."""

    __slots__ = ("_has_ended", "_last", "_open")

    def __init__(self) -> None:
        self._open: dict[int, tuple[float, Resolve]] = {}
        self._last = 0
        self._has_ended = False

    def ask(self, resolve: Resolve, deadline_s: float) -> int | None:
        """Return the number of a new request. ``resolve`` is called once, with its outcome.

        None means that the request cannot be sent, and that it already has its outcome.
        """
        if self._has_ended or len(self._open) >= MAX_OPEN_REQUESTS:
            resolve(Unanswered.ENDED if self._has_ended else Unanswered.LIMIT)
            return None
        self._last += 1
        self._open[self._last] = deadline_s, resolve
        return self._last

    def answered(self, answer: Answer | ErrorAnswer) -> bool:
        """End a request by its answer. Return False if no request waits for it."""
        return self._end(answer.number, answer)

    def cancel(self, number: int) -> bool:
        """End a request, since its caller waits no longer. Return whether the client is to be told."""
        return self._end(number, Unanswered.CANCELLED)

    def expire(self, now_s: float) -> list[int]:
        """End the requests whose deadline has passed. Return their numbers, of which the client is to be told."""
        late = [number for number, (deadline_s, _) in self._open.items() if deadline_s <= now_s]
        return [number for number in late if self._end(number, Unanswered.TIMEOUT)]

    def end(self) -> None:
        """End all requests, since the connection has ended. Later ones end at once."""
        self._has_ended = True
        for number in list(self._open):
            self._end(number, Unanswered.ENDED)

    @property
    def deadline_s(self) -> float | None:
        """The next deadline, None without open requests."""
        return min((deadline_s for deadline_s, _ in self._open.values()), default=None)

    def _end(self, number: int, outcome: Outcome) -> bool:
        found = self._open.pop(number, None)
        if found is None:
            return False
        found[1](outcome)
        return True


class FirstAnswer:
    """One request to several sockets: the first answer counts. It is over as well when none can answer any more.

    Attributes:
        answer: The first answer, None before that.
        reasons: Why sockets have not answered.
    """

    __slots__ = ("_done", "_is_over", "_open", "answer", "reasons")

    def __init__(self, done: Callable[[], None]) -> None:
        self.answer: Answer | ErrorAnswer | None = None
        self.reasons: set[Unanswered] = set()
        self._done, self._is_over = done, False
        self._open = 1  # until all_asked

    @property
    def is_over(self) -> bool:
        """Whether ``done`` was called."""
        return self._is_over

    def expect(self) -> Resolve:
        """Return the function for the outcome at one more socket. It is called once."""
        self._open += 1
        return self.resolve

    def all_asked(self) -> None:
        """Note that no more sockets follow. Without any, there is no connection."""
        self.resolve(Unanswered.ABSENT)

    def resolve(self, outcome: Outcome) -> None:
        """Take an outcome. Those after the end are ignored."""
        self._open -= 1
        if self._is_over:
            return
        if isinstance(outcome, Unanswered):
            self.reasons.add(outcome)
            self._is_over = self._open == 0
        else:
            self.answer, self._is_over = outcome, True
        if self._is_over:
            self._done()


class Work(Protocol):
    """The task of one request of the client."""

    def cancel(self) -> object:
        """Stop. Called at most once."""
        ...


class Answering:
    """Requests of one client to the server.

    A request holds its place until its work has ended, also after it was cancelled. Otherwise work that is slow to
    stop would have no bound.
    """

    __slots__ = ("_awaited", "_bytes", "_has_ended", "_unfinished")

    def __init__(self) -> None:
        self._awaited: dict[int, Work] = {}
        self._unfinished: dict[Work, int] = {}  # and the bytes of its request
        self._bytes = 0
        self._has_ended = False

    def refusal(self, number: int, max_bytes: int) -> Fault | None:
        """Return the fault to answer a new request with, or None if it may begin.

        It may not while requests of ``max_bytes`` or more are open. So the last one may exceed the bound.
        """
        if number in self._awaited:
            return Fault("invalid", f"request {number} is still open: number each request anew")
        if len(self._unfinished) >= MAX_OPEN_REQUESTS:
            text = f"{MAX_OPEN_REQUESTS} requests of this connection are open"
            return Fault("limit", text, is_temporary=True)
        if self._bytes >= max_bytes:
            text = f"requests of {max_bytes} bytes or more are open"
            return Fault("limit", text, is_temporary=True)
        return None

    def begin(self, number: int, work: Work, size: int) -> None:
        """Add a request of ``size`` bytes that was not refused. After the end of the connection it is cancelled."""
        self._unfinished[work] = size
        self._bytes += size
        if self._has_ended:
            work.cancel()
        else:
            self._awaited[number] = work

    def finish(self, number: int, work: Work) -> bool:
        """Remove a request whose work has ended. Return whether it is to be answered."""
        self._bytes -= self._unfinished.pop(work, 0)
        if self._awaited.get(number) is not work:
            return False
        del self._awaited[number]
        return True

    def cancel(self, number: int) -> bool:
        """Cancel a request. Return False if there is none with this number."""
        work = self._awaited.pop(number, None)
        if work is None:
            return False
        work.cancel()
        return True

    def end(self) -> int:
        """Cancel all requests, since the connection has ended. Return their number."""
        self._has_ended = True
        return sum(self.cancel(number) for number in list(self._awaited))

    def __len__(self) -> int:
        return len(self._unfinished)
