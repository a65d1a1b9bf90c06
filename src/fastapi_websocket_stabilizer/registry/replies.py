"""Questions to other nodes, and the validation of their answers.

An answer arrives over the bus, so another program may have sent it.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ..names import NodeId


@dataclass(slots=True)
class Answers:
    """The answers to one question so far.

    Attributes:
        validate: Function that returns whether a value has the form of an answer. Other values are rejected.
        take: Function that gets the first answer of each node when it arrives.
        repeats: Whether ``take`` gets the later ones of a node, too. None of them is kept then.
    """

    validate: Callable[[Any], bool]
    take: Callable[[NodeId, Any], None] | None = None
    repeats: bool = False
    expected: int | None = None
    by_node: dict[NodeId, Any] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self) -> None:
        if self.expected is not None and len(self.by_node) >= self.expected:
            self.complete.set()


class PendingReplies:
    """The open questions to other nodes."""

    def __init__(self) -> None:
        self._open: dict[int, Answers] = {}
        self._last = 0

    def open(
        self,
        validate: Callable[[Any], bool],
        take: Callable[[NodeId, Any], None] | None = None,
        *,
        repeats: bool = False,
    ) -> int:
        """Return the number of a new question, to be opened before the send: an answer may arrive during it."""
        self._last += 1
        self._open[self._last] = Answers(validate, take, repeats)
        return self._last

    @contextmanager
    def opened(
        self,
        validate: Callable[[Any], bool],
        take: Callable[[NodeId, Any], None] | None = None,
        *,
        repeats: bool = False,
    ) -> Iterator[int]:
        """``open`` a question, and ``close`` it at the end of the block."""
        ask = self.open(validate, take, repeats=repeats)
        try:
            yield ask
        finally:
            self.close(ask)

    def resolve(self, ask: int, node: NodeId, answer: Any) -> None:
        """Record an answer. An answer to a closed question is dropped.

        Raises:
            ValueError: The answer has the wrong form.
        """
        answers = self._open.get(ask)
        if answers is not None:
            if not answers.validate(answer):
                raise ValueError("answer of a wrong form")
            is_taken = answers.repeats or node not in answers.by_node
            if not answers.repeats:
                answers.by_node[node] = answer
                answers.check()
            if is_taken and answers.take is not None:
                answers.take(node, answer)

    async def gather(self, ask: int, expected: int, timeout_s: float) -> dict[NodeId, Any]:
        """Wait for ``expected`` answers, and return those that arrived in time."""
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
        """Close a question: no caller waits for its answers any more."""
        self._open.pop(ask, None)


def is_outcome(answer: Any) -> bool:
    """Whether an answer is a number of connections, or an error as class, text and values."""
    match answer:
        case [str(), str(), dict() as values]:
            return all(map(is_value, values.values()))
        case _:
            return _is_count(answer)


def is_value(value: object) -> bool:
    """Whether the attribute of an error can be part of an answer."""
    return value is None or isinstance(value, str | int)


def are_names(answer: Any) -> bool:
    """Whether an answer is a list of clients."""
    return isinstance(answer, list) and all(isinstance(name, str) for name in answer)


def is_report(answer: Any) -> bool:
    """Whether an answer is the report of a broadcast: four numbers, and errors with their clients."""
    return (
        isinstance(answer, list)
        and len(answer) == 5
        and all(map(_is_count, islice(answer, 4)))
        and isinstance(answer[4], list)
        and all(map(_is_error, answer[4]))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int


def _is_error(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)
