"""The bus in a cluster: publish and subscribe to a channel at the primary that owns its slot.

With sharded Pub/Sub (Redis 7) a message stays on this primary. Without it, Redis copies a message to every server,
but PUBLISH returns only the receivers on its own server. So subscribers use the same primary.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from redis import exceptions as redis_errors

from ....exceptions import BackendUnavailableError
from ....names import NodeId
from ....runtime.loops import running_loop
from ....runtime.metrics import Counters
from ....wire.envelopes import Envelope, Part
from ...ports import Listening
from ..bus import RedisPublishing, Subscribing
from ..connection import ConnectionFactory
from ..guard import Guard, Signer
from ..keys import Keys, slot_of
from ..ports import CommandConnection, Listener, Subscription
from ..probes import Canaries
from ..subscriber import Subscriber
from ..urls import Address
from .slots import SlotTable, redirected_to

Taken = list[list[NodeId]]
Lookups = dict[str, "asyncio.Future[list[bytes]]"]
HoldersOf = Callable[["asyncio.Future[list[bytes]]"], list[NodeId]]


class ClusterSubscriber:
    """One ``Subscriber`` for each primary that owns the slot of a wanted channel."""

    def __init__(
        self,
        table: SlotTable,
        factory: ConnectionFactory,
        counters: Counters,
        listener: Listener,
        canaries: Canaries,
        *,
        knows_server: bool = False,
    ) -> None:
        self._table, self._factory, self._counters, self._canaries = table, factory, counters, canaries
        self._knows_server = knows_server
        self._gap_began = listener.gap_began
        # Many channels may move at once: report them as one gap.
        self._listener = replace(listener, gap_began=self._note_gap)
        self._canary_slots: dict[Address, int] = {}
        self._slots: dict[str, int] = {}  # of each wanted channel
        self._homes: dict[str, Address] = {}  # where it is subscribed
        self._subscribers: dict[Address, Subscriber] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._has_gap = False
        table.listen(self._on_change)

    @property
    def is_connected(self) -> bool:
        homes = set(self._homes.values())
        has_all = bool(homes) and len(self._homes) == len(self._slots)
        return has_all and all(self._subscribers[home].is_connected for home in homes)

    async def start(self) -> None:
        """Read the slot map. Connections are opened later, for channels. Raises as ``SlotTable.start``."""
        await self._table.start()

    def serve(self) -> None:
        """Begin to poll the slot map without waiting for an answer."""
        self._table.serve()

    async def stop(self) -> None:
        self._homes.clear()
        self._slots.clear()
        subscribers, self._subscribers = self._subscribers, {}
        self._canary_slots.clear()
        for subscriber in subscribers.values():
            self._canaries.forget(subscriber)
        await asyncio.gather(*(each.stop() for each in subscribers.values()), *self._stopping)

    async def subscribe(self, name: str) -> None:
        """Return when the owner of the channel's slot has confirmed. Raises as ``Subscriber.subscribe``."""
        slot, heard_at = self._slots.setdefault(name, slot_of(name)), None
        if not self._table.is_known:
            raise BackendUnavailableError("subscribe: no server of the cluster has answered yet")
        self._homes.setdefault(name, self._table.owner(slot))
        while (home := self._homes.get(name)) != heard_at and home is not None:
            await self._at(home).subscribe(name)  # returns unconfirmed if the channel moves
            heard_at = home

    def listening(self, name: str) -> Listening | None:
        """Return the subscription to a channel; None while the owner of its slot has not confirmed."""
        home = self._homes.get(name)
        return None if home is None else self._subscribers[home].listening(name)

    def want(self, name: str) -> None:
        """Subscribe as soon as the slot's owner is known and answers; messages until then may be missed."""
        slot = self._slots.setdefault(name, slot_of(name))
        if self._table.is_known:
            self._at(self._homes.setdefault(name, self._table.owner(slot))).want_back(name)

    def unsubscribe(self, name: str) -> None:
        self._slots.pop(name, None)
        home = self._homes.pop(name, None)
        if home is not None:
            self._at(home).unsubscribe(name)

    def _at(self, address: Address) -> Subscriber:
        subscriber = self._subscribers.get(address)
        if subscriber is None:
            prefix = "S" if self._table.is_sharded else ""
            moved = partial(self._learn, address)
            subscriber = Subscriber(
                self._factory.at(address),
                self._counters,
                self._listener,
                prefix,
                moved,
                knows_server=self._knows_server,
            )
            subscriber.serve(is_new=True)
            self._subscribers[address] = subscriber
            self._send_canaries(address)
        return subscriber

    def _send_canaries(self, address: Address) -> None:
        """Watch a connection with canaries on a channel whose slot its server owns.

        A server with few slots or none may get no canary; each refresh of the map tries again.
        """

        def is_here(channel: str) -> bool:
            return self._table.owner(slot_of(channel)) == address

        if address not in self._table.nodes:
            return
        channel = self._canaries.watch(self._subscribers[address], is_here)
        if channel is not None:
            self._canary_slots[address] = slot_of(channel)

    def _learn(self, asked: Address, error: redis_errors.MovedError) -> None:
        if (owner := redirected_to(error, asked)) is not None:
            self._table.learn(error.slot_id, owner)

    def _on_change(self, former: dict[int, Address]) -> None:
        # Compare all slots, not only ``former``, otherwise a channel that an earlier error left would stay deaf.
        moved = {n: slot for n, slot in self._slots.items() if self._homes.get(n) != self._table.owner(slot)}
        for name, slot in moved.items():
            former_home, home = self._homes.get(name), self._table.owner(slot)
            if former_home is not None:
                self._at(former_home).unsubscribe(name)
                self._counters.bus_moves += 1
            self._homes[name] = home
            self._at(home).want_back(name)
        for address, slot in tuple(self._canary_slots.items()):
            if self._table.owner(slot) != address:
                self._canaries.forget(self._subscribers[address])
                del self._canary_slots[address]
        self._end_unused()
        for address in self._subscribers.keys() - self._canary_slots.keys():
            self._send_canaries(address)
        # With classic Pub/Sub both servers may deliver the same message. Only the sequences detect it, and a gap
        # would reset them.
        if moved and self._table.is_sharded:
            self._note_gap()

    def _end_unused(self) -> None:
        for address in self._subscribers.keys() - set(self._homes.values()):
            subscriber = self._subscribers.pop(address)
            self._canaries.forget(subscriber)
            self._canary_slots.pop(address, None)
            task = asyncio.create_task(subscriber.stop(), name="bus-retire")
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    def _note_gap(self) -> None:
        if not self._has_gap:
            self._has_gap = True
            running_loop().call_soon(self._tell_gap)

    def _tell_gap(self) -> None:
        self._has_gap = False
        self._gap_began()


def publish_command(table: SlotTable) -> str:
    """Return the command that publishes to a channel."""
    return "SPUBLISH" if table.is_sharded else "PUBLISH"


class _Turn(NamedTuple):
    """A call that publishes to inboxes, queued behind earlier ones and its own lookups."""

    lookups: "list[asyncio.Future[list[bytes]]]"
    act: Callable[[], None]
    answer: "asyncio.Future[Any]"


class ClusterPublishing(RedisPublishing):
    """Looks clients up, then publishes one envelope to each node that holds some of them.

    Inboxes receive messages in the order of the calls, so a slow lookup delays later ones.
    """

    def __init__(
        self, keys: Keys, pipeline: CommandConnection, table: SlotTable, signer: Signer | None = None
    ) -> None:
        super().__init__(keys, pipeline, signer)
        self._table = table
        self._turns: deque[_Turn] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def settle(self) -> None:
        if self._worker is not None:
            await asyncio.wait([self._worker])

    @property
    def command(self) -> str:
        return publish_command(self._table)

    async def publish_node(self, node: NodeId, envelope: Envelope) -> int:
        self._pipeline.flush_earlier_sends()  # may queue direct sends with earlier sequences
        if not self._turns:
            return await super().publish_node(node, envelope)
        queued: asyncio.Future[asyncio.Future[int]] = running_loop().create_future()
        channel = self._keys.inbox(node)
        self._turns.append(_Turn([], lambda: queued.set_result(self._queue(channel, envelope)), queued))
        return await (await asyncio.shield(queued))

    def publish_clients(
        self, envelope: Envelope, top: int, but: Sequence[NodeId] = ()
    ) -> "asyncio.Future[Taken]":
        names = dict.fromkeys(chain.from_iterable(part.targets for part in envelope.parts))
        lookups = {n: self._pipeline.send("HGETALL", self._keys.client(n), idempotent=True) for n in names}
        answer: asyncio.Future[Taken] = running_loop().create_future()
        found = partial(self._publish_found, envelope, partial(_holders, top, but), lookups, answer)
        self._turns.append(_Turn(list(lookups.values()), found, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="redis-direct")
        return answer

    async def _work(self) -> None:
        while self._turns:
            for lookup in self._turns[0].lookups:
                if not lookup.done():
                    await asyncio.wait([lookup])
            turn = self._turns.popleft()
            try:
                turn.act()
            except Exception as error:  # noqa: BLE001 - raised to its caller; later turns must go on
                _fail(turn.answer, error)
        self._worker = None

    def _publish_found(
        self, envelope: Envelope, holders_of: "HoldersOf", lookups: "Lookups", answer: "asyncio.Future[Taken]"
    ) -> None:
        """Publish to the nodes that were found. ``answer`` gets an error only if no node received its envelope."""
        errors = [error for lookup in lookups.values() if (error := lookup.exception()) is not None]
        holders = {name: holders_of(lookup) for name, lookup in lookups.items()}
        shares = _shares(envelope.parts, holders)
        replies = {
            node: self._queue(self._keys.inbox(node), replace(envelope, parts=tuple(parts)))
            for node, parts in shares.items()
        }

        def finish(_: object) -> None:
            errors.extend(error for reply in replies.values() if (error := reply.exception()) is not None)
            heard = {n for n, reply in replies.items() if reply.exception() is None and reply.result()}
            if errors and not heard:
                _fail(answer, errors[0])
            elif not answer.done():
                targets = chain.from_iterable(part.targets for part in envelope.parts)
                answer.set_result([[node for node in holders[name] if node in heard] for name in targets])

        asyncio.gather(*replies.values(), return_exceptions=True).add_done_callback(finish)


def _fail(answer: "asyncio.Future[Any]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # mark it as retrieved, otherwise asyncio warns if the caller was cancelled


def _holders(top: int, but: Sequence[NodeId], lookup: "asyncio.Future[list[bytes]]") -> list[NodeId]:
    """Return the nodes of a client's ``top`` newest connections without ``but``; none if the lookup failed."""
    reply = [] if lookup.exception() is not None else lookup.result()
    ranked = []
    for connection_id, value in zip(reply[::2], reply[1::2], strict=True):
        stamp, (node, dot, _) = re.match(rb"\d+", value), connection_id.rpartition(b".")
        if stamp and dot:  # else a foreign field
            ranked.append((int(stamp[0]), NodeId(node.decode(errors="replace"))))
    ranked.sort(reverse=True)
    return list(dict.fromkeys(node for _, node in ranked[:top] if node not in but))


def _shares(parts: Iterable[Part], holders: dict[str, list[NodeId]]) -> dict[NodeId, list[Part]]:
    """Return each node's share of the messages, with only its own clients as targets."""
    shares: dict[NodeId, list[Part]] = {}
    for part in parts:
        targets: dict[NodeId, list[str]] = {}
        for name in part.targets:
            for node in holders[name]:
                targets.setdefault(node, []).append(name)
        for node, names in targets.items():
            shares.setdefault(node, []).append(part._replace(targets=names))
    return shares


class ClusterBus(ClusterPublishing, Subscribing):
    """``ports.Bus`` in a cluster."""

    def __init__(
        self,
        keys: Keys,
        pipeline: CommandConnection,
        subscriber: Subscription,
        table: SlotTable,
        signer: Signer | None,
        guard: Guard | None,
    ) -> None:
        super().__init__(keys, pipeline, table, signer)
        self._subscriber, self._guard = subscriber, guard
