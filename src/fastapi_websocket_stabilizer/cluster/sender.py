"""Messages out of this node: to a client, to a room, to all."""

import asyncio
from collections.abc import Sequence

from ..exceptions import BackendUnavailableError, BroadcastFailedError
from ..local.backlog import TAKEN, Sent
from ..local.connection import Connection
from ..local.jobs import Mail, Tally
from ..models import BroadcastResult
from ..wire import Encoded, Envelope, Kind
from .answers import are_names, is_report
from .context import Context
from .delivery import settle, took, written
from .direct import CLIENTS_PER_CALL, Direct, Taken
from .membership import Membership as Leases

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
        """``to_clients`` for one, which most sends are: as short as it can be."""
        if confirm is not None or not self._context.is_distributed:
            return (await self.to_clients([client_id], message, confirm))[0]
        if self._leases is not None and self._leases.must_wait:
            await self._leases.verified()
        own = self._own_socket(client_id)
        if own is not None:
            sent = own.push_or_hand_over(message)
            is_taken = sent is TAKEN or await self._is_taken(own, sent)
        else:
            self._check_reachable()
            if self._unheard.is_full:
                await self._room_for_more()
            (nodes,) = await self._direct.send((client_id,), message, 0)
            is_taken = bool(nodes)
            self._context.counters.sends_unreachable += not is_taken
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
        if remote:
            self._check_reachable()
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

        self._context.fan_out.submit(Mail([(message, client_ids)], done=finish))
        await done.wait()
        await settle(tally, self._context.config)
        return [took(self._context.shards, c, tally) for c in client_ids]

    async def to_connection(self, connection: Connection, message: Encoded) -> str | None:
        """Send to exactly this socket of ours; return the error, if any.

        While something of ours is on its way through Redis, this takes the same way, not to overtake it.
        """
        await self._verified()
        if not self._unheard:
            return await connection.push_from_anywhere(message)
        self._check_reachable()
        if self._unheard.is_full:
            await self._room_for_more()
        sequence, previous = self._context.sequencer.next("inbox")
        own, targets = self._context.node_id, (connection.client_id, connection.connection_id)
        envelope = Envelope(
            own, sequence, previous, Kind.SOCKET, targets, (), message.form, message.payload, 0, message
        )
        echo = self._unheard.expect(sequence, message.size)
        try:
            await self._context.backend.bus.publish_node(own, envelope)
            tally = await self._echoed(echo, sequence)
        except BaseException as error:
            self._give_up_on(sequence, error)
            raise
        if tally is None:  # the connection is not to blame
            raise BackendUnavailableError("it did not come back from Redis in time", outcome_unknown=True)
        await settle(tally, self._context.config)
        return tally.errors[0][1] if tally.errors else None if tally.succeeded else "connection has ended"

    async def _straight(self, client_id: str, message: Encoded, confirm: float | None) -> bool | None:
        """Write to the client's socket if it is here and nothing can be overtaken; None: it goes through Redis."""
        if self._leases is not None and self._leases.must_wait:
            await self._leases.verified()
        own = self._own_socket(client_id)
        if own is None:
            return None
        return await self._is_taken(own, own.push_or_hand_over(message), confirm)

    async def _is_taken(self, connection: Connection, sent: Sent, confirm: float | None = None) -> bool:
        error = await connection.settled(sent)
        if confirm is not None:
            error = error or await written(connection, confirm)
        self._context.counters.messages_failed += error is not None
        return error is None

    def _own_socket(self, client_id: str) -> Connection | None:
        """The client's socket if it is ours to write to at once: nothing of ours may be overtaken by it."""
        if self._unheard or self._context.config.max_connections_per_client > 1:
            return None
        return self._context.shards.newest(client_id)

    def _check_reachable(self) -> None:
        """Under "refuse" raise at once: nothing of this node is to wait behind what cannot leave it."""
        if not self._context.degrades:
            self._context.check_reachable()

    async def _verified(self) -> None:
        if self._leases is not None and self._leases.must_wait:
            await self._leases.verified()

    async def _to_local(
        self, connections: Sequence[Connection], message: Encoded, confirm: float | None = None
    ) -> bool:
        errors = [await connection.push_from_anywhere(message) for connection in connections]
        if confirm is not None:
            errors = [e or await written(c, confirm) for c, e in zip(connections, errors, strict=True)]
        self._context.counters.messages_failed += sum(error is not None for error in errors)
        return None in errors

    def _collect(self, client_ids: Sequence[str], message: Encoded, confirm: float | None) -> "Collected":
        ask = self._asks.open(are_names) if confirm is not None else 0
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
        self._check_reachable()
        if self._unheard.is_full:
            await self._room_for_more()
        self._context.counters.broadcasts += 1
        room = rooms[0] if len(rooms) == 1 else ""
        sequence, previous = self._context.sequencer.next(f"room:{room}" if room else "all")
        ask = self._asks.open(is_report) if confirm is not None else 0
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
        await settle(tally, self._context.config)
        failed = len(tally.errors)
        self._context.counters.messages_failed += failed
        if failed and failed == tally.total - tally.excluded and nodes <= 1:
            raise BroadcastFailedError(f"broadcast failed for all {failed} clients: {tally.errors[0][1]}")
        return BroadcastResult(tally.total, tally.succeeded, failed, tally.errors, nodes=nodes)

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
