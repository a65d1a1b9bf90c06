"""Direct sends: those of one event-loop tick share a script call, and one envelope for each receiving node."""

import asyncio
from collections.abc import Sequence
from functools import partial

from ..backends.ports import Bus
from ..names import NodeId
from ..runtime.loops import running_loop
from ..wire.envelopes import Part, part_size
from ..wire.messages import Encoded
from .state import NodeState

CLIENTS_PER_CALL = 500
"""Maximum number of clients in one script call, during which Redis executes nothing else."""
BYTES_PER_CALL = 1024 * 1024
"""Maximum bytes in one script call. A longer message has a call of its own."""

Taken = list[list[NodeId]]
"""For each client, the nodes that received its message."""


class DirectBatch:
    """The direct sends of one script call."""

    __slots__ = ("answers", "bytes", "clients", "numbers", "parts")

    def __init__(self, numbers: tuple[int, int]) -> None:
        self.numbers: tuple[int, int] = numbers
        self.parts: list[Part] = []
        self.answers: list[asyncio.Future[Taken]] = []
        self.clients: int = 0
        self.bytes: int = 0

    def has_room(self, clients: int, size: int) -> bool:
        return self.clients + clients <= CLIENTS_PER_CALL and self.bytes + size <= BYTES_PER_CALL

    def add(self, part: Part, size: int) -> "asyncio.Future[Taken]":
        answer: asyncio.Future[Taken] = running_loop().create_future()
        self.parts.append(part)
        self.answers.append(answer)
        self.clients += len(part.targets)
        self.bytes += size
        return answer

    def resolve(self, taken: Taken) -> None:
        """Give each caller its part of the reply, except callers that were cancelled."""
        start = 0
        for part, answer in zip(self.parts, self.answers, strict=True):
            end = start + len(part.targets)
            if not answer.done():
                answer.set_result(taken[start:end])
            start = end

    def reject(self, error: BaseException) -> None:
        for answer in self.answers:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # mark it as retrieved: the caller may be cancelled before it looks


class Direct:
    """Collects direct sends to clients of other nodes.

    Collected sends are queued before any later command. This node is excluded, because messages to its own sockets
    do not leave the process.
    """

    def __init__(self, state: NodeState, bus: Bus) -> None:
        self._state, self._bus = state, bus
        self._batch: DirectBatch | None = None

    def send(self, client_ids: Sequence[str], message: Encoded, ask: int) -> "asyncio.Future[Taken]":
        """Collect a message. Cancelling the future does not withdraw it.

        Raises:
            MessageError: It is too large for an envelope; nothing was sent.
        """
        size, batch = part_size(message, client_ids), self._batch
        if batch is None or not batch.has_room(len(client_ids), size):
            batch = self._open()
        return batch.add(Part.of(message, client_ids, ask), size)

    def _open(self) -> DirectBatch:
        if self._batch is None:
            running_loop().call_soon(self.flush)
        self.flush()
        # Number it now: every later envelope flushes this batch before it is queued.
        self._batch = DirectBatch(self._state.outgoing.reserve_direct())
        return self._batch

    def flush(self) -> None:
        """Queue the collected sends."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        state = self._state
        state.counters.direct_batches += 1
        envelope = state.outgoing.direct(batch.parts, batch.numbers)
        top = state.config.max_connections_per_client
        reply = self._bus.publish_clients(envelope, top, state.own_ids)
        reply.add_done_callback(partial(_published, batch))


def _published(batch: DirectBatch, reply: "asyncio.Future[Taken]") -> None:
    error = reply.exception()
    if error is not None:
        batch.reject(error)
    else:
        batch.resolve(reply.result())
