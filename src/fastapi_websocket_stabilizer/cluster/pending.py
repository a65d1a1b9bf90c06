"""What this node waits for: its own messages coming back, and answers of other nodes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..local.jobs import Tally
from ..loops import running_loop
from ..names import NodeId
from ..wire import Envelope

UNHEARD_LIMIT_BYTES = 4 * 1024 * 1024
"""Bytes of own messages on their way through Redis; the next sender waits."""


class Expected:
    """One own publication on its way."""

    __slots__ = ("deadline", "kept", "room", "size", "tally")

    def __init__(self, room: str) -> None:
        self.tally: asyncio.Future[Tally | None] = running_loop().create_future()
        self.room: str = room
        self.size: int = 0
        self.deadline: asyncio.TimerHandle | None = None
        self.kept: tuple[str, Envelope] | None = None


class Unheard:
    """Own publications that Redis will bring back to this node."""

    def __init__(self) -> None:
        self._waiting: dict[int, Expected] = {}
        self._senders: list[asyncio.Future[None]] = []
        self.bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def expect(self, sequence: int, size: int, room: str = "") -> "asyncio.Future[Tally | None]":
        """Return what will be this node's tally, or None when the message will not be heard.

        Messages that share an envelope are expected under one sequence.
        """
        expected = self._waiting.get(sequence)
        if expected is None:
            expected = self._waiting[sequence] = Expected(room)
        expected.size += size
        self.bytes += size
        return expected.tally

    def expire(self, sequence: int, timeout_s: float) -> None:
        """Wait for it no longer than ``timeout_s``, but so long keep what is sent later behind it."""
        expected = self._waiting.get(sequence)
        if expected is not None:
            if expected.deadline is not None:
                expected.deadline.cancel()
            expected.deadline = running_loop().call_later(timeout_s, self.heard, sequence, None)

    def heard(self, sequence: int, tally: Tally | None) -> None:
        """It came back and was fanned out; or, with None, it will not."""
        expected = self._waiting.pop(sequence, None)
        if expected is not None:
            self.bytes -= expected.size
            self._wake_senders()
            if expected.deadline is not None:
                expected.deadline.cancel()
            if not expected.tally.done():
                expected.tally.set_result(tally)

    def keep(self, channel: str, envelope: Envelope) -> None:
        """Remember what is on its way, if it is expected back."""
        expected = self._waiting.get(envelope.sequence)
        if expected is not None:
            expected.kept = channel, envelope

    def kept(self) -> list[tuple[str, Envelope]]:
        """Return what is on its way, in order, with its channels."""
        return [expected.kept for expected in self._waiting.values() if expected.kept is not None]

    def give_up_published(self) -> None:
        """The bus was lost: what Redis took before will not come. What it has not taken yet still may."""
        for sequence, expected in tuple(self._waiting.items()):
            if expected.deadline is not None:  # set when Redis has answered
                self.heard(sequence, None)

    def give_up(self, room: str | None = None) -> None:
        """Nothing more will be heard, or nothing of one room."""
        for sequence, expected in tuple(self._waiting.items()):
            if room is None or room == expected.room:
                self.heard(sequence, None)

    @property
    def is_full(self) -> bool:
        """Whether ``UNHEARD_LIMIT_BYTES`` are on their way."""
        return self.bytes > UNHEARD_LIMIT_BYTES

    async def room_for_more(self) -> None:
        """Wait until less than ``UNHEARD_LIMIT_BYTES`` are on their way."""
        while self.is_full:
            sender: asyncio.Future[None] = running_loop().create_future()
            self._senders.append(sender)
            await sender

    def _wake_senders(self) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            if not sender.done():
                sender.set_result(None)


@dataclass(slots=True)
class Answers:
    """What came so far for one question.

    Attributes:
        is_answer: Whether something has the form of an answer; nothing else is taken.
    """

    is_answer: Callable[[Any], bool]
    expected: int | None = None
    by_node: dict[NodeId, Any] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self) -> None:
        if self.expected is not None and len(self.by_node) >= self.expected:
            self.complete.set()


class Asks:
    """Questions to other nodes and their answers."""

    def __init__(self) -> None:
        self._open: dict[int, Answers] = {}
        self._last = 0

    def open(self, is_answer: Callable[[Any], bool]) -> int:
        """Name a question before it is sent: its answer may come before the send has returned."""
        self._last += 1
        self._open[self._last] = Answers(is_answer)
        return self._last

    def answered(self, ask: int, node: NodeId, answer: Any) -> None:
        """An answer arrived; one that nobody waits for any more is dropped.

        Raises:
            ValueError: It has the wrong form.
        """
        answers = self._open.get(ask)
        if answers is not None:
            if not answers.is_answer(answer):
                raise ValueError("answer of a wrong form")
            answers.by_node[node] = answer
            answers.check()

    async def gather(self, ask: int, expected: int, timeout_s: float) -> dict[NodeId, Any]:
        """Return the answers that came in time; at most ``expected``."""
        answers = self._open[ask]
        answers.expected = expected
        answers.check()
        try:
            async with asyncio.timeout(timeout_s):
                await answers.complete.wait()
        except TimeoutError:
            pass
        finally:
            self.close(ask)
        return answers.by_node

    def close(self, ask: int) -> None:
        """Nobody waits any more."""
        self._open.pop(ask, None)
