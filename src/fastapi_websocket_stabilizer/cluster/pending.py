"""What this node waits for: its own messages coming back, and answers of other nodes."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from ..local.fanout import Tally
from ..names import NodeId

UNHEARD_LIMIT_BYTES = 4 * 1024 * 1024
"""Bytes of own messages on their way through Redis; the next sender waits."""


class Unheard:
    """Own publications that Redis will bring back to this node."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[asyncio.Future[Tally | None], int, str]] = {}
        self._senders: list[asyncio.Future[None]] = []
        self.bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def expect(self, sequence: int, size: int, room: str = "") -> "asyncio.Future[Tally | None]":
        """Return what will be this node's tally, or None when the message will not be heard.

        Messages that share an envelope are expected under one sequence.
        """
        future, others, _ = self._waiting.get(sequence, (None, 0, ""))
        if future is None:
            future = asyncio.get_running_loop().create_future()
        self._waiting[sequence] = (future, others + size, room)
        self.bytes += size
        return future

    def expire(self, sequence: int, timeout_s: float) -> None:
        """Wait for it no longer than ``timeout_s``, but so long keep what is sent later behind it."""
        asyncio.get_running_loop().call_later(timeout_s, self.heard, sequence, None)

    def heard(self, sequence: int, tally: Tally | None) -> None:
        """It came back and was fanned out; or, with None, it will not."""
        future, size, _ = self._waiting.pop(sequence, (None, 0, ""))
        if future is not None:
            self.bytes -= size
            self._wake_senders()
            if not future.done():
                future.set_result(tally)

    def give_up(self, room: str | None = None) -> None:
        """Nothing more will be heard, or nothing of one room."""
        for sequence, (_, _, of_room) in tuple(self._waiting.items()):
            if room is None or room == of_room:
                self.heard(sequence, None)

    @property
    def is_full(self) -> bool:
        """Whether ``UNHEARD_LIMIT_BYTES`` are on their way."""
        return self.bytes > UNHEARD_LIMIT_BYTES

    async def room_for_more(self) -> None:
        """Wait until less than ``UNHEARD_LIMIT_BYTES`` are on their way."""
        while self.is_full:
            sender: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._senders.append(sender)
            await sender

    def _wake_senders(self) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            if not sender.done():
                sender.set_result(None)


@dataclass(slots=True)
class Answers:
    """What came so far for one question."""

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

    def open(self) -> int:
        """Name a question before it is sent: its answer may come before the send has returned."""
        self._last += 1
        self._open[self._last] = Answers()
        return self._last

    def answered(self, ask: int, node: NodeId, answer: Any) -> None:
        """An answer arrived; one that nobody waits for any more is dropped."""
        answers = self._open.get(ask)
        if answers is not None:
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
