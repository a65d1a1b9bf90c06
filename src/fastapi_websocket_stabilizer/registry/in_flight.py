"""Own publications in flight through Redis, and messages to own sockets that are queued behind them."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from ..local.batches import Broadcast, DirectMessages, Outcome
from ..local.connection import Connection
from ..runtime.loops import running_loop
from ..runtime.turnstile import Turnstile
from ..wire.channels import ALL, Channel
from ..wire.envelopes import Envelope
from ..wire.messages import Encoded

IN_FLIGHT_LIMIT_BYTES = 4 * 1024 * 1024
"""Bytes of own messages in flight, or queued behind one, above which the next sender waits."""
LATE_S = 0.1
"""Seconds after which an expired deadline shows that the process was suspended. It is extended by as much."""
OVERDUE_FOR_S = 10.0
"""Seconds for which a publication may still arrive after its deadline."""
MAX_OVERDUE = 64
"""Maximum number of remembered publications after their deadline. The oldest is evicted first."""


class Publication:
    """One own publication in flight.

    Attributes:
        followers: Messages to own sockets that were sent after it and before the next publication.
        is_over: It was delivered here or given up.
        is_stored: It comes back even if the bus loses it, and in the order of its log only.
    """

    __slots__ = (
        "channel", "deadline", "followers", "is_over", "is_prolonged", "is_stored", "kept", "outcome", "sequence",
        "size",
    )  # fmt: skip

    def __init__(self, sequence: int, size: int, channel: Channel, *, is_stored: bool) -> None:
        self.outcome: asyncio.Future[Outcome | None] = running_loop().create_future()
        self.sequence: int = sequence
        self.size: int = size
        self.channel: Channel = channel
        self.followers: list[DirectMessages] = []
        self.deadline: asyncio.TimerHandle | None = None
        self.kept: tuple[Channel, Envelope] | None = None
        self.is_over: bool = False
        self.is_stored: bool = is_stored
        self.is_prolonged: bool = False


class InFlight:
    """Own publications that Redis returns to this node, and the messages to own sockets between them.

    A message to a socket of this node never leaves the process. If own publications are in flight, it waits for the
    last of them and is fanned out right behind it.
    """

    def __init__(self, submit: Callable[[Broadcast | DirectMessages], None]) -> None:
        self._submit = submit
        self._waiting: dict[int, Publication] = {}  # until they are written to the sockets
        self._line: deque[Publication] = deque()  # until they arrive, in the order of their sequences
        self._held = 0  # own messages behind others, and waiting senders
        self._overdue: dict[int, set[str]] = {}  # with the clients that later messages were sent to
        self._fullness: asyncio.Future[None] | None = None
        self._turnstile = Turnstile(self._full)
        self.bytes: int = 0

    def __bool__(self) -> bool:
        """Whether a message to an own socket would overtake another message of this node."""
        return bool(self._waiting) or self._held > 0 or bool(self._overdue)

    # Publications

    def register(
        self, sequence: int, size: int, channel: Channel = ALL, *, is_stored: bool = False
    ) -> "asyncio.Future[Outcome | None]":
        """Return a future of this node's outcome, which is None if the message does not come back."""
        publication = self._waiting[sequence] = Publication(sequence, size, channel, is_stored=is_stored)
        self._line.append(publication)
        self.bytes += size
        return publication.outcome

    def expire(self, sequence: int, timeout_s: float) -> None:
        """Give the publication up after ``timeout_s``. Until then, later messages queue behind it."""
        publication = self._waiting.get(sequence)
        if publication is not None:
            if publication.deadline is not None:
                publication.deadline.cancel()
            due_s = running_loop().time() + timeout_s
            publication.deadline = running_loop().call_at(due_s, self._missed, publication, due_s)

    def _missed(self, publication: Publication, due_s: float) -> None:
        """Give the publication up. After a suspension of the process, extend once: it may have arrived unread."""
        if running_loop().time() - due_s > LATE_S and not publication.is_prolonged:
            publication.is_prolonged = True
            self.expire(publication.sequence, LATE_S)
        else:
            self._overdue[publication.sequence] = set()
            if len(self._overdue) > MAX_OVERDUE:
                del self._overdue[next(iter(self._overdue))]
            running_loop().call_later(OVERDUE_FOR_S, self._overdue.pop, publication.sequence, None)
            self.resolve(publication.sequence, None)

    def arrived(self, sequence: int, *parts: Broadcast | DirectMessages, is_stored: bool = False) -> None:
        """Fan out the parts of a publication that came back, and then the messages that are queued behind it.

        After its deadline, it excludes clients that later messages were sent to; see ``Broadcast.exclude_later``.
        """
        if self._overdue:
            later = self._overdue.pop(sequence, set())
            for part in parts:
                part.exclude_later(later, is_stored=is_stored)
        while self._line and self._line[0].sequence < sequence:
            self._release(self._line.popleft())  # overtaken: it never comes, or has no order with this one
        for part in parts:
            self._submit(part)
        if self._line and self._line[0].sequence == sequence:
            self._release(self._line.popleft())
        self._advance()

    def resolve(self, sequence: int, outcome: Outcome | None) -> None:
        """End a publication with its outcome here, or with None if it will not come back."""
        publication = self._waiting.pop(sequence, None)
        if publication is not None:
            publication.is_over = True
            self._free(publication.size)
            if publication.deadline is not None:
                publication.deadline.cancel()
            if not publication.outcome.done():
                publication.outcome.set_result(outcome)
            self._advance()

    def _advance(self) -> None:
        while self._line and self._line[0].is_over:
            self._release(self._line.popleft())

    def keep(self, channel: Channel, envelope: Envelope) -> None:
        """Keep the envelope of a publication that is expected back."""
        publication = self._waiting.get(envelope.sequence)
        if publication is not None:
            publication.kept = channel, envelope

    def kept(self) -> list[tuple[Channel, Envelope]]:
        """Return the publications in flight, in order."""
        return [publication.kept for publication in self._waiting.values() if publication.kept is not None]

    def give_up_published(self) -> None:
        """Give up the publications that Redis accepted before the bus was lost. Later ones may still come back."""
        for sequence, publication in tuple(self._waiting.items()):
            if publication.deadline is not None and not publication.is_stored:  # set when Redis has answered
                self.resolve(sequence, None)

    def give_up(self, channel: Channel | None = None) -> None:
        """Give up all publications, or those to one channel."""
        if channel is None:
            self._overdue.clear()
        for sequence, publication in tuple(self._waiting.items()):
            if channel is None or channel == publication.channel:
                self.resolve(sequence, None)

    # Messages to own sockets

    def follow(
        self, message: Encoded, client_ids: Sequence[str], connection: Connection | None = None
    ) -> "asyncio.Future[Outcome]":
        """Fan a message out behind the last own publication. The future has its outcome when it is written.

        With ``connection``, that one is the only target.
        """
        written: asyncio.Future[Outcome] = running_loop().create_future()
        done = partial(self._followed, message.size, written)
        direct = DirectMessages([(message, client_ids)], connection, done)
        self._held += 1
        self.bytes += message.size
        if self._line:
            self._line[-1].followers.append(direct)
        else:  # all publications have arrived and are being written
            self._hand_over(direct)
        return written

    def _release(self, publication: Publication) -> None:
        for direct in publication.followers:
            self._hand_over(direct)

    def _hand_over(self, direct: DirectMessages) -> None:
        for later in self._overdue.values():
            later.update(*(client_ids for _, client_ids in direct.messages))
        self._submit(direct)

    def _followed(self, size: int, written: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
        self._held -= 1
        self._free(size)
        if not written.done():
            written.set_result(outcome)

    # The bound

    @property
    def must_wait(self) -> bool:
        """Whether more than ``IN_FLIGHT_LIMIT_BYTES`` are in flight, or an earlier sender waits."""
        return self.bytes > IN_FLIGHT_LIMIT_BYTES or not self._turnstile.is_free

    async def room_for_more(self) -> None:
        """Wait while ``must_wait``. Senders continue in the order of arrival."""
        self._held += 1  # no message may overtake a waiting sender
        try:
            await self._turnstile.passed()
        finally:
            self._held -= 1

    def _full(self) -> "asyncio.Future[None] | None":
        if self.bytes <= IN_FLIGHT_LIMIT_BYTES:
            return None
        if self._fullness is None:
            self._fullness = running_loop().create_future()
        return self._fullness

    def _free(self, size: int) -> None:
        self.bytes -= size
        if self._fullness is not None and self.bytes <= IN_FLIGHT_LIMIT_BYTES:
            self._fullness.set_result(None)
            self._fullness = None
