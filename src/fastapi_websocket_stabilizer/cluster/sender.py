"""Messages out of this node: to a client, to a room, to all; and what becomes of those that come in."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..exceptions import BackendUnavailableError, BroadcastFailedError
from ..local.backlog import DROPPED
from ..local.connection import Connection, settled
from ..local.fanout import Job, Tally
from ..models import BroadcastResult
from ..names import NodeId
from ..wire import Encoded, Envelope, Form, Kind
from .context import Context
from .direct import CLIENTS_PER_CALL, Direct, Taken
from .membership import Membership as Leases

MAX_REPORTED_ERRORS = 100
"""Errors that one node reports in its confirmation of a broadcast."""


Collected = tuple[Sequence[str], int, asyncio.Future[Taken]]
"""Clients, the question that asks for a word about them, and the nodes that took their message."""


class Sender:
    """Sends through the bus, or straight to a local socket when that keeps the order."""

    def __init__(self, context: Context, leases: Leases | None) -> None:
        self._context, self._leases = context, leases
        self._unheard, self._asks = context.unheard, context.asks
        self._direct = Direct(context)

    def flush(self) -> None:
        """Queue the direct sends that were collected in this tick."""
        self._direct.flush()

    # To clients

    async def to_client(self, client_id: str, message: Encoded, confirm: float | None) -> bool:
        """``to_clients`` for one, which most sends are."""
        if not self._context.is_distributed:
            return (await self.to_clients([client_id], message, confirm))[0]
        is_taken = await self._straight(client_id, message, confirm)
        if is_taken is None:
            if self._unheard.is_full:
                await self._room_for_more()
            taken = await self._answer(self._collect([client_id], message, confirm), confirm)
            is_taken = taken[client_id]
        if not is_taken:
            await asyncio.sleep(0)  # as in to_clients
        return is_taken

    async def to_clients(
        self, client_ids: Sequence[str], message: Encoded, confirm: float | None
    ) -> list[bool]:
        """Send one message to each client; say for each whether it was taken."""
        send = self._to_any_node if self._context.is_distributed else self._in_this_process
        taken = await send(client_ids, message, confirm)
        if not all(taken):
            await asyncio.sleep(0)  # so that a socket which failed has been told to close, as in release 1.1
        return taken

    async def _to_any_node(
        self, client_ids: Sequence[str], message: Encoded, confirm: float | None
    ) -> list[bool]:
        taken: dict[str, bool] = {}
        for client_id in client_ids:
            is_taken = await self._straight(client_id, message, confirm)
            if is_taken is not None:
                taken[client_id] = is_taken
        remote = [c for c in client_ids if c not in taken]
        if remote and self._unheard.is_full:
            await self._room_for_more()
        starts = range(0, len(remote), CLIENTS_PER_CALL)
        chunks = [remote[start : start + CLIENTS_PER_CALL] for start in starts]
        # All are collected before any is waited for: nothing that is sent later may come between.
        for collected in [self._collect(chunk, message, confirm) for chunk in chunks]:
            taken.update(await self._answer(collected, confirm))
        return [taken[c] for c in client_ids]

    async def _in_this_process(
        self, client_ids: Sequence[str], message: Encoded, confirm: float | None
    ) -> list[bool]:
        if not self._unheard:
            shards = self._context.shards
            return [await self._to_local(shards.of_client(c), message, confirm) for c in client_ids]
        # Behind the broadcasts that are still being fanned out.
        tally, done = Tally(), asyncio.Event()

        def finish(result: Tally) -> None:
            nonlocal tally
            tally = result
            done.set()

        self._context.fan_out.submit(Job(message, clients=tuple(client_ids), done=finish))
        await done.wait()
        await self._wait_for_pending(tally)
        return [self._took(c, tally) for c in client_ids]

    def _took(self, client_id: str, tally: Tally) -> bool:
        """Whether a socket of the client took the message: one that failed is not registered any more."""
        dropped = sum(c == client_id and error == DROPPED for c, error in tally.errors)
        return len(self._context.shards.of_client(client_id)) > dropped

    async def to_connection(self, connection: Connection, message: Encoded) -> str | None:
        """Send to exactly this socket of ours; return the error, if any.

        While something of ours is on its way through Redis, this takes the same way, not to overtake it.
        """
        await self._verified()
        if not self._unheard:
            return await connection.push_from_anywhere(message)
        if self._unheard.is_full:
            await self._room_for_more()
        sequence, _ = self._context.sequencer.next("inbox")
        own, targets = self._context.node_id, (connection.client_id, connection.connection_id)
        envelope = Envelope(
            own, sequence, 0, Kind.SOCKET, targets, (), message.form, message.payload, 0, message
        )
        echo = self._unheard.expect(sequence, message.size)
        try:
            await self._context.backend.bus.publish_node(own, envelope)
            tally = await self._echoed(echo, sequence)
        except BaseException as error:
            self._give_up_on(sequence, error)
            raise
        if tally is None:
            return "it did not come back from Redis in time"
        await self._wait_for_pending(tally)
        return tally.errors[0][1] if tally.errors else None if tally.succeeded else "connection has ended"

    async def _straight(self, client_id: str, message: Encoded, confirm: float | None) -> bool | None:
        """Write to the client's socket if it is here and nothing can be overtaken; None: it goes through Redis."""
        if self._leases is not None and self._leases.must_wait:
            await self._leases.verified()
        own = self._own_socket(client_id)
        if own is None:
            return None
        error = await own.push_from_anywhere(message)
        if confirm is not None:
            error = error or await _written(own, confirm)
        self._context.counters.messages_failed += error is not None
        return error is None

    def _own_socket(self, client_id: str) -> Connection | None:
        """The client's socket if it is ours to write to at once: nothing of ours may be overtaken by it."""
        if self._unheard or self._context.config.max_connections_per_client > 1:
            return None
        return self._context.shards.newest(client_id)

    async def _verified(self) -> None:
        if self._leases is not None and self._leases.must_wait:
            await self._leases.verified()

    async def _to_local(
        self, connections: Sequence[Connection], message: Encoded, confirm: float | None = None
    ) -> bool:
        errors = [await connection.push_from_anywhere(message) for connection in connections]
        if confirm is not None:
            errors = [e or await _written(c, confirm) for c, e in zip(connections, errors, strict=True)]
        self._context.counters.messages_failed += sum(error is not None for error in errors)
        return None in errors

    def _collect(self, client_ids: Sequence[str], message: Encoded, confirm: float | None) -> "Collected":
        ask = self._asks.open() if confirm is not None else 0
        try:
            return client_ids, ask, self._direct.send(client_ids, message, ask)
        except BaseException:
            self._asks.close(ask)
            raise

    async def _answer(self, collected: "Collected", confirm: float | None) -> dict[str, bool]:
        client_ids, ask, sent = collected
        try:
            nodes = await sent
        except BaseException:
            self._asks.close(ask)
            raise
        took = {c: bool(row) for c, row in zip(client_ids, nodes, strict=True)}
        self._context.counters.sends_unreachable += sum(not taken for taken in took.values())
        if confirm is None:
            return took
        reached = {node for row in nodes for node in row}
        written = await self._asks.gather(ask, len(reached), confirm)
        self._context.counters.confirmations_missing += len(reached) - len(written)
        names = {client_id for answer in written.values() for client_id in answer}
        return {c: c in names for c in client_ids}

    # To rooms and to all

    async def broadcast(
        self, message: Encoded, exclude: Sequence[str], rooms: Sequence[str], confirm: float | None
    ) -> BroadcastResult:
        """Publish one message; every node, this one too, delivers it when it comes back from the bus."""
        await self._verified()
        if self._unheard.is_full:
            await self._room_for_more()
        self._context.counters.broadcasts += 1
        room = rooms[0] if len(rooms) == 1 else ""
        sequence, previous = self._context.sequencer.next(f"room:{room}" if room else "all")
        ask = self._asks.open() if confirm is not None else 0
        envelope = Envelope(
            self._context.node_id, sequence, previous, Kind.BROADCAST,
            tuple(rooms), tuple(exclude), message.form, message.payload, ask, message,
        )  # fmt: skip
        is_listening = not room or room in self._context.subscribed
        echo = self._unheard.expect(sequence, message.size, room) if is_listening else None
        if echo is None and room in self._context.shards.rooms:  # being joined: it may come back, or not
            self._unheard.expect(sequence, message.size, room)
            self._unheard.expire(sequence, self._context.config.redis_timeout_s)
        try:
            bus = self._context.backend.bus
            nodes = await (bus.publish_room(room, envelope) if room else bus.publish_all(envelope))
            tally = await self._echoed(echo, sequence)
        except BaseException as error:
            self._asks.close(ask)
            self._give_up_on(sequence, error)
            raise
        if confirm is None:
            return await self._result(tally, nodes)
        return await self._confirmed(ask, nodes, confirm, heard=tally is not None, names_matter=not room)

    def _give_up_on(self, sequence: int, error: BaseException) -> None:
        """Whoever was cancelled has a message on its way: what is sent later must stay behind it."""
        if isinstance(error, asyncio.CancelledError):
            self._unheard.expire(sequence, self._context.config.redis_timeout_s)
        else:
            self._unheard.heard(sequence, None)

    async def _echoed(self, echo: "asyncio.Future[Tally | None] | None", sequence: int) -> Tally | None:
        if echo is None:
            return None
        self._unheard.expire(sequence, self._context.config.redis_timeout_s)
        tally = await echo
        self._context.counters.broadcasts_unheard += tally is None
        return tally

    async def _result(self, tally: Tally | None, nodes: int) -> BroadcastResult:
        if tally is None:
            return BroadcastResult(0, 0, 0, nodes=nodes, heard=False)
        await self._wait_for_pending(tally)
        failed = len(tally.errors)
        self._context.counters.messages_failed += failed
        if failed and failed == tally.total - tally.excluded and nodes <= 1:
            raise BroadcastFailedError(f"broadcast failed for all {failed} clients: {tally.errors[0][1]}")
        return BroadcastResult(tally.total, tally.succeeded, failed, tally.errors, nodes=nodes)

    async def _wait_for_pending(self, tally: Tally) -> None:
        if not tally.pending:
            return
        pending, tally.pending = tally.pending, []
        limits = self._context.config
        outcomes = await asyncio.gather(*(settled(outcome, limits) for _, outcome in pending))
        for (client_id, _), error in zip(pending, outcomes, strict=True):
            if error is None:
                tally.succeeded += 1
            else:
                tally.errors.append((client_id, error))

    async def _confirmed(
        self, ask: int, nodes: int, timeout_s: float, *, heard: bool, names_matter: bool
    ) -> BroadcastResult:
        answers = await self._asks.gather(ask, nodes, timeout_s)
        sums = [sum(answer[i] for answer in answers.values()) for i in range(4)]
        total, excluded, succeeded, failed = sums
        errors = [(client_id, error) for answer in answers.values() for client_id, error in answer[4]]
        missing: list[str] = []
        if len(answers) < nodes:
            self._context.counters.confirmations_missing += nodes - len(answers)
            known = self._leases.known_live() if self._leases and names_matter else set()
            missing = sorted(str(node) for node in known - set(answers))[: nodes - len(answers)]
            missing += ["?"] * (nodes - len(answers) - len(missing))
        if failed and failed == total - excluded and not missing:
            raise BroadcastFailedError(f"broadcast failed for all {failed} clients")
        return BroadcastResult(total, succeeded, failed, errors, nodes=nodes, heard=heard, missing=missing)

    async def _room_for_more(self) -> None:
        try:
            async with asyncio.timeout(self._context.config.redis_timeout_s):
                await self._unheard.room_for_more()
        except TimeoutError:
            raise BackendUnavailableError(
                f"{self._unheard.bytes} bytes of earlier messages have not come back from Redis"
            ) from None

    # What comes in

    def deliver(self, envelope: Envelope) -> None:
        """Fan messages out, then tell whoever waits for them here or on the node that asked."""
        kind, targets, is_own = envelope.kind, envelope.targets, self._context.is_own(envelope.sender)
        if kind is Kind.DIRECT:
            self._deliver_parts(envelope, is_own=is_own)
            return
        self._context.fan_out.submit(
            Job(
                envelope.message(),
                clients=targets[:1] if kind is Kind.SOCKET else None,
                connection_id=targets[1] if kind is Kind.SOCKET else None,
                rooms=targets if kind is Kind.BROADCAST else (),
                exclude=frozenset(envelope.exclude),
                done=partial(self._delivered, envelope, is_own),
            )
        )

    def _deliver_parts(self, envelope: Envelope, *, is_own: bool) -> None:
        last = len(envelope.parts) - 1
        for number, part in enumerate(envelope.parts):
            done, comes_back = None, is_own and number == last
            if part.ask or comes_back:
                question = replace(envelope, targets=tuple(part.targets), ask=part.ask, parts=())
                done = partial(self._delivered, question, comes_back)
            self._context.fan_out.submit(Job(part.message(), clients=tuple(part.targets), done=done))

    def _delivered(self, envelope: Envelope, comes_back: bool, tally: Tally) -> None:
        if comes_back:
            self._unheard.heard(envelope.sequence, tally)
        if envelope.ask:
            self._context.tasks.spawn(self._confirm(envelope, tally), "confirm")

    async def _confirm(self, envelope: Envelope, tally: Tally) -> None:
        await self._wait_for_pending(tally)
        failed = {client_id for client_id, _ in tally.errors}
        slow = [each for each in self._addressed(envelope) if each.client_id not in failed]
        # Whoever asks must hear of the others in time, so all slow ones together get half a write's deadline.
        deadline_s = self._context.config.write_timeout_s / 2
        outcomes = await asyncio.gather(*(_written(connection, deadline_s) for connection in slow))
        for connection, error in zip(slow, outcomes, strict=True):
            if error is not None:
                tally.errors.append((connection.client_id, error))
                tally.succeeded -= 1
        await self.answer(envelope.sender, envelope.ask, self._report(envelope, tally))

    def _report(self, envelope: Envelope, tally: Tally) -> Any:
        if envelope.kind is Kind.DIRECT:
            return [c for c in envelope.targets if self._took(c, tally)]
        errors = tally.errors[:MAX_REPORTED_ERRORS]
        return [tally.total, tally.excluded, tally.succeeded, len(tally.errors), errors]

    def _addressed(self, envelope: Envelope) -> list[Connection]:
        """The local sockets that still have something to write; the others were written to at once."""
        shards = self._context.shards
        if envelope.kind is Kind.DIRECT:
            found = [connection for c in envelope.targets for connection in shards.of_client(c)]
        else:
            rooms = set(envelope.targets)
            found = [
                c for c in shards if (not rooms or rooms & c.rooms) and c.client_id not in envelope.exclude
            ]
        return [connection for connection in found if connection.is_writing]

    async def answer(self, node: NodeId, ask: int, answer: Any) -> None:
        """Answer a question of another node, or of this one."""
        if self._context.is_own(node):
            self._asks.answered(ask, self._context.node_id, answer)
            return
        sequence, _ = self._context.sequencer.next("inbox")
        own = self._context.node_id
        reply = Envelope(own, sequence, 0, Kind.REPLY, form=Form.JSON, body=json.dumps(answer), ask=ask)
        await self._context.backend.bus.publish_node(node, reply)


async def _written(connection: Connection, timeout_s: float) -> str | None:
    """Wait until everything queued for a socket was written; return the error if it was not."""
    try:
        async with asyncio.timeout(timeout_s):
            return await connection.drained()
    except TimeoutError:
        return f"not written within {timeout_s:g} s"
