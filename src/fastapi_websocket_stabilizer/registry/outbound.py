"""Sending: to clients, to rooms and to all connections."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from ..backends.ports import Bus
from ..exceptions import BackendUnavailableError, BroadcastFailedError
from ..local.batches import DirectMessages, Outcome, settle, took, written
from ..local.connection import Connection
from ..local.sends import TAKEN, Sent
from ..models import BroadcastResult
from ..names import NodeId
from ..wire.channels import ALL, Channel, channel_to
from ..wire.envelopes import Envelope
from ..wire.messages import Encoded
from .direct import CLIENTS_PER_CALL, Direct, Taken
from .lease import Lease
from .replies import are_names, is_report
from .state import NodeState


class Posted(NamedTuple):
    """A message to clients of this node. Its outcome is a future while it is queued behind publications."""

    client_ids: Sequence[str]
    outcome: "Outcome | asyncio.Future[Outcome]"


class Asked(NamedTuple):
    """Clients of other nodes, the number of the question about them or 0, and the nodes that received the message."""

    client_ids: Sequence[str]
    ask: int
    sent: "asyncio.Future[Taken]"


class Outbound:
    """Sends through the bus to other nodes, and to sockets of this node in the same order."""

    def __init__(self, state: NodeState, bus: Bus, lease: Lease) -> None:
        self._state, self._bus, self._lease, self._gate = state, bus, lease, lease.gate
        self._in_flight, self._replies = state.in_flight, state.replies
        self._direct = Direct(state, bus)

    def flush(self) -> None:
        """Queue the direct sends of this tick."""
        self._direct.flush()

    async def in_turn(self) -> None:
        """Wait until the lease is verified and there is room. Earlier calls continue first.

        Raises:
            BackendUnavailableError: There was no room within ``redis_timeout_s``. Under "refuse" it is raised at
                once if Redis is unavailable.
        """
        if self._gate.must_wait:
            await self._gate.wait()
        if self._in_flight.must_wait:
            self.check_reachable()
            await self._room_for_more()

    # To clients

    async def to_client(self, client_id: str, message: Encoded, confirm: float | None) -> bool:
        """Send to one client, without the cost of ``to_clients``; return whether the message was taken."""
        state = self._state
        if confirm is not None or not state.is_distributed or state.config.max_connections_per_client > 1:
            return (await self.to_clients([client_id], message, confirm))[0]
        if has_others := self._gate.must_wait or bool(self._in_flight):
            await self.in_turn()
        own = self._state.shards.newest(client_id)
        if own is None:
            self.check_reachable()
            (nodes,) = await self._direct.send((client_id,), message, 0)
            is_taken = bool(nodes)
            self._state.counters.sends_unreachable += not is_taken
        elif has_others and self._in_flight:
            is_taken = bool(await self._taken_here(self._post([client_id], message), None))
        else:
            sent = own.push(message)
            is_taken = sent is TAKEN or await self._is_taken(own, sent)
        if not is_taken:
            await asyncio.sleep(0)  # as in to_clients
        return is_taken

    async def to_clients(
        self, client_ids: Sequence[str], message: Encoded, confirm: float | None
    ) -> list[bool]:
        """Send one message to each client; return for each client whether the message was taken.

        All writes and collected sends precede the first wait, so that no later message comes in between.
        """
        await self.in_turn()
        posted = self._post([c for c in client_ids if self._state.shards.has_client(c)], message)
        with ExitStack() as questions:
            asked = self._collect(self._elsewhere(client_ids), message, confirm, questions)
            taken = await self._taken_here(posted, confirm)
            for each in asked:
                taken |= await self._taken_there(each, confirm)
        results = [c in taken for c in client_ids]
        if not all(results):
            await asyncio.sleep(0)  # so that the close of a failed socket has begun, as in release 1.1
        return results

    async def to_connection(self, connection: Connection, message: Encoded) -> str | None:
        """Send to exactly this socket of this node; return the error, if any."""
        await self.in_turn()
        if not self._in_flight:
            return await connection.settled(connection.push(message))
        outcome = await self._in_flight.follow(message, (connection.client_id,), connection)
        await settle(outcome, self._state.config)
        errors = outcome.errors
        return errors[0][1] if errors else None if outcome.succeeded else "connection has ended"

    def _post(self, client_ids: Sequence[str], message: Encoded) -> Posted:
        """Write to sockets of this node, now or behind the publications in flight. Nothing leaves the process."""
        if self._in_flight and client_ids:
            return Posted(client_ids, self._in_flight.follow(message, client_ids))
        direct = DirectMessages([(message, client_ids)])
        for _ in direct.push(self._state.shards):
            pass
        return Posted(client_ids, direct.outcome)

    async def _is_taken(self, connection: Connection, sent: Sent) -> bool:
        error = await connection.settled(sent)
        self._state.counters.messages_failed += error is not None
        return error is None

    async def _taken_here(self, posted: Posted, confirm: float | None) -> set[str]:
        """Return the clients with a socket on this node that took the message."""
        shards, counters, (client_ids, outcome) = self._state.shards, self._state.counters, posted
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        await settle(outcome, self._state.config)
        counters.messages_failed += len(outcome.errors)
        taken = {c for c in client_ids if took(shards, c, outcome)}
        if confirm is None or not taken:
            return taken
        connections = [connection for c in taken for connection in shards.of_client(c)]
        errors = await asyncio.gather(*(written(connection, confirm) for connection in connections))
        counters.messages_failed += sum(error is not None for error in errors)
        return {c.client_id for c, error in zip(connections, errors, strict=True) if error is None}

    def _elsewhere(self, client_ids: Sequence[str]) -> Sequence[str]:
        """Return the clients that may have a socket on another node."""
        if not self._state.is_distributed:
            return ()
        if self._state.config.max_connections_per_client > 1:
            return client_ids
        return [c for c in client_ids if not self._state.shards.has_client(c)]

    def check_reachable(self) -> None:
        """Under "refuse", raise at once: no message may wait behind one that cannot leave this node."""
        if not self._state.degrades:
            self._state.check_reachable()

    def _collect(
        self, client_ids: Sequence[str], message: Encoded, confirm: float | None, questions: ExitStack
    ) -> list[Asked]:
        if client_ids:
            self.check_reachable()
        asked = []
        for start in range(0, len(client_ids), CLIENTS_PER_CALL):
            chunk = client_ids[start : start + CLIENTS_PER_CALL]
            ask = 0 if confirm is None else questions.enter_context(self._replies.opened(are_names))
            asked.append(Asked(chunk, ask, self._direct.send(chunk, message, ask)))
        return asked

    async def _taken_there(self, asked: Asked, confirm: float | None) -> set[str]:
        """Return the clients with another node that took the message."""
        rows = await asked.sent
        reached = {node for row in rows for node in row}
        found = {c for c, row in zip(asked.client_ids, rows, strict=True) if row}
        is_here = self._state.shards.has_client
        unreachable = [c for c in asked.client_ids if c not in found and not is_here(c)]
        self._state.counters.sends_unreachable += len(unreachable)
        if confirm is None:
            return found
        answers = await self._replies.gather(asked.ask, len(reached), confirm)
        self._state.counters.confirmations_missing += len(reached) - len(answers)
        return {client_id for names in answers.values() for client_id in names}

    # To rooms and to all

    async def broadcast(
        self, message: Encoded, exclude: Sequence[str], rooms: Sequence[str], confirm: float | None
    ) -> BroadcastResult:
        """Publish one message. Every node, including this one, delivers it when it arrives from the bus."""
        await self.in_turn()
        self.check_reachable()
        self._state.counters.broadcasts += 1
        channel = channel_to(rooms)
        ask = self._replies.open(is_report) if confirm is not None else 0
        envelope = self._state.outgoing.broadcast(channel, message, exclude, rooms, ask)
        sequence, echo = envelope.sequence, self.expect(envelope, channel)
        try:
            nodes = await self._bus.publish(channel, envelope)
            outcome = await self.echoed(echo, sequence)
        except BaseException as error:
            self._replies.close(ask)
            self.give_up_on(sequence, error)
            raise
        if confirm is None:
            return await self._result(outcome, nodes)
        heard = outcome is not None
        return await self.confirmed([(ask, nodes)], confirm, heard=heard, names_matter=channel == ALL)

    def expect(
        self, envelope: Envelope, channel: Channel, *, is_stored: bool = False
    ) -> "asyncio.Future[Outcome | None] | None":
        """Register a publication that comes back; return its future outcome, or None if it does not."""
        sequence, size = envelope.sequence, envelope.message().size
        is_listening = self._state.is_subscribed(channel)
        if not is_listening and not self._state.has_members(channel):
            return None
        echo = self._in_flight.register(sequence, size, channel, is_stored=is_stored)
        if is_listening:
            return echo
        # A join is in progress, so the publication may come back or not.
        self._in_flight.expire(sequence, self._state.config.redis_timeout_s)
        return None

    def give_up_on(self, sequence: int, error: BaseException) -> None:
        """End a publication, but only expire that of a cancelled caller, because it may still be in flight."""
        if isinstance(error, asyncio.CancelledError):
            self._in_flight.expire(sequence, self._state.config.redis_timeout_s)
        else:
            self._in_flight.resolve(sequence, None)

    async def echoed(self, echo: "asyncio.Future[Outcome | None] | None", sequence: int) -> Outcome | None:
        """Wait until a publication was written to the sockets of this node, or is given up."""
        if echo is None:
            return None
        self._in_flight.expire(sequence, self._state.config.redis_timeout_s)
        outcome = await echo
        self._state.counters.broadcasts_unheard += outcome is None
        return outcome

    async def _result(self, outcome: Outcome | None, nodes: int) -> BroadcastResult:
        if outcome is None:
            return BroadcastResult(0, 0, 0, nodes=nodes, heard=False)
        await settle(outcome, self._state.config)
        failed = len(outcome.errors)
        self._state.counters.messages_failed += failed
        if failed and failed == outcome.total - outcome.excluded and nodes <= 1:
            raise BroadcastFailedError(f"broadcast failed for all {failed} clients: {outcome.errors[0][1]}")
        return BroadcastResult(outcome.total, outcome.succeeded, failed, outcome.errors, nodes=nodes)

    async def confirmed(
        self, asked: Sequence[tuple[int, int]], timeout_s: float, *, heard: bool, names_matter: bool
    ) -> BroadcastResult:
        """Gather the answers to each question of ``asked``, which has the number of nodes that were reached.

        Raises:
            BroadcastFailedError: Every targeted socket failed.
        """
        found = await asyncio.gather(*(self._replies.gather(ask, nodes, timeout_s) for ask, nodes in asked))
        answers = [answer for by_node in found for answer in by_node.values()]
        total, excluded, succeeded, failed = (sum(answer[i] for answer in answers) for i in range(4))
        errors = [(client_id, error) for answer in answers for client_id, error in answer[4]]
        missing = [
            name
            for by_node, (_, nodes) in zip(found, asked, strict=True)
            for name in self._missing(by_node, nodes, names_matter=names_matter)
        ]
        if failed and failed == total - excluded and not missing:
            raise BroadcastFailedError(f"broadcast failed for all {failed} clients")
        reached = max(nodes for _, nodes in asked)
        return BroadcastResult(total, succeeded, failed, errors, nodes=reached, heard=heard, missing=missing)

    def _missing(self, answers: Collection[NodeId], nodes: int, *, names_matter: bool) -> list[str]:
        """Return the names of the nodes that did not answer, and "?" for each unknown one."""
        count = nodes - len(answers)
        if count <= 0:
            return []
        self._state.counters.confirmations_missing += count
        known = self._lease.known_live() if names_matter else set()
        missing = sorted(str(node) for node in known if node not in answers)[:count]
        return missing + ["?"] * (count - len(missing))

    async def _room_for_more(self) -> None:
        try:
            async with asyncio.timeout(self._state.config.redis_timeout_s):
                await self._in_flight.room_for_more()
        except TimeoutError:
            raise BackendUnavailableError(
                f"{self._in_flight.bytes} bytes of earlier messages have not come back from Redis"
            ) from None
