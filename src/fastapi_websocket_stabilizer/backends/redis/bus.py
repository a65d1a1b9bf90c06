"""Publish envelopes through the pipeline, subscribe to rooms, and read received envelopes."""

import asyncio
import logging
from collections.abc import Sequence
from functools import lru_cache

from ...exceptions import BackendUnavailableError, WireError
from ...names import NodeId
from ...runtime.logs import Occasionally
from ...runtime.metrics import Counters
from ...wire.channels import Channel, box_of
from ...wire.envelopes import Envelope, pack, pack_before_parts, pack_message, unpack
from ...wire.signatures import ForgedError, UnsignedError
from ..ports import Receive
from . import scripts
from .command import Argument
from .guard import Guard, ReplayedError, Signer
from .keys import Keys
from .ports import CommandConnection, Subscription

log: logging.Logger = logging.getLogger(__name__)

DROPS: dict[type[WireError], str] = {
    UnsignedError: "bus_unsigned",
    ForgedError: "bus_forged",
    ReplayedError: "bus_replayed",
}
"""The counter of each error for which an envelope is dropped; any other counts as ``bus_malformed``."""
ADVICE = {
    "bus_malformed": "envelope dropped",
    "bus_unsigned": "unsigned envelope dropped: set envelope_keys on every node and publisher",
    "bus_forged": "forged envelope dropped: give every node and publisher each key before one signs with it; "
    "if they have it, another program publishes to this Redis",
    "bus_replayed": "repeated or late envelope dropped: another program publishes to this Redis, or Redis is slow",
}
"""The log message of each counter, logged at most once a minute."""
CACHED_CHANNELS = 4096
"""Maximum number of channel names whose meaning is cached; the least recently used one is evicted."""


class RedisPublishing:
    """The sending half of ``ports.Bus`` over Redis Pub/Sub."""

    def __init__(self, keys: Keys, pipeline: CommandConnection, signer: Signer | None = None) -> None:
        self._keys, self._pipeline, self._signer = keys, pipeline, signer

    @property
    def command(self) -> str:
        """The command that publishes to a channel."""
        return "PUBLISH"

    async def settle(self) -> None:
        """Return when all messages are queued in the pipeline."""

    async def publish(self, channel: Channel, envelope: Envelope) -> int:
        return await self._publish(self._keys.channel(channel), envelope)

    def queue(self, channel: Channel, envelope: Envelope) -> "asyncio.Future[int]":
        """Publish as ``publish``. Its position in the sender's order is fixed when this returns."""
        return self._queue(self._keys.channel(channel), envelope)

    async def publish_node(self, node: NodeId, envelope: Envelope) -> int:
        # Count at most one receiver: other subscribers, such as monitoring, are not nodes.
        return min(1, await self._publish(self._keys.inbox(node), envelope))

    async def _publish(self, channel: str, envelope: Envelope) -> int:
        return int(await self._queue(channel, envelope))

    def _queue(self, channel: str, envelope: Envelope) -> "asyncio.Future[int]":
        data = pack(envelope) if self._signer is None else self._signer.pack(envelope, channel)
        return self._pipeline.send(self.command, channel, data, idempotent=False)

    def publish_clients(
        self, envelope: Envelope, top: int, but: Sequence[NodeId] = ()
    ) -> "asyncio.Future[list[list[NodeId]]]":
        try:
            keys, arguments = direct_call(self._keys, envelope, top, but, self._signer)
        except BackendUnavailableError as error:  # Redis' time is unknown, and a signature needs it
            refused: asyncio.Future[list[list[NodeId]]] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused
        script = scripts.CLIENTS_PUBLISH
        return self._pipeline.call(script, keys, *arguments, idempotent=False, parse=direct_reply)


def direct_call(
    keys: Keys, envelope: Envelope, top: int, but: Sequence[NodeId], signer: Signer | None
) -> tuple[list[str], list[Argument]]:
    """Return the keys and arguments of ``clients_publish.lua``.

    Raises:
        BackendUnavailableError: Redis' time is unknown, so the message cannot be signed.
    """
    clients: list[str] = []
    arguments: list[Argument] = [top, keys.client_prefix_bytes, keys.inbox_prefix, keys.inbox_suffix]
    arguments += [pack_before_parts(envelope), f" {' '.join(but)} "]
    for part in envelope.parts:
        clients += map(keys.client, part.targets)
        arguments.append(pack_message(part) if signer is None else signer.pack_message(envelope, part))
        arguments += [b""] * (len(part.targets) - 1)
    return clients, arguments


def direct_reply(reply: tuple[list[int], list[bytes], list[int]]) -> list[list[NodeId]]:
    """Return, for each client, the nodes that received its message."""
    places, nodes, heard = reply
    names = [NodeId(node.decode()) if count else None for node, count in zip(nodes, heard, strict=True)]
    rows: list[list[NodeId]] = [[]]
    for place in places:
        if not place:
            rows.append([])
        elif (name := names[place - 1]) is not None:
            rows[-1].append(name)
    rows.pop()
    return rows


class Subscribing:
    """The subscribing half of ``ports.Bus``."""

    _keys: Keys
    _subscriber: Subscription
    _guard: Guard | None

    async def subscribe_room(self, room: str) -> None:
        await self._subscribe(self._keys.room(room))

    def unsubscribe_room(self, room: str) -> None:
        self._unsubscribe(self._keys.room(room))

    async def subscribe_box(self, client_id: str) -> None:
        await self._subscribe(self._keys.channel(box_of(client_id)))

    def unsubscribe_box(self, client_id: str) -> None:
        self._unsubscribe(self._keys.channel(box_of(client_id)))

    async def _subscribe(self, channel: str) -> None:
        if self._guard is not None:
            self._guard.listen(channel)
        await self._subscriber.subscribe(channel)

    def _unsubscribe(self, channel: str) -> None:
        if self._guard is not None:
            self._guard.leave(channel)
        self._subscriber.unsubscribe(channel)


class RedisBus(RedisPublishing, Subscribing):
    """``ports.Bus`` over Redis Pub/Sub."""

    def __init__(
        self,
        keys: Keys,
        pipeline: CommandConnection,
        subscriber: Subscription,
        signer: Signer | None,
        guard: Guard | None,
    ) -> None:
        super().__init__(keys, pipeline, signer)
        self._subscriber, self._guard = subscriber, guard


class EnvelopeReader:
    """Reads received messages as envelopes. Malformed and untrusted ones are counted and dropped."""

    def __init__(self, keys: Keys, receive: Receive, counters: Counters, guard: Guard | None = None) -> None:
        self._receive, self._counters, self._guard = receive, counters, guard
        self._channel_of = lru_cache(CACHED_CHANNELS)(keys.channel_of)
        self._reported = {counter: Occasionally(log) for counter in ADVICE}

    def read(self, channel: bytes, data: bytes) -> None:
        """Unpack a message and pass its envelope to ``receive``."""
        self._counters.bus_messages += 1
        try:
            envelope = unpack(data) if self._guard is None else self._guard.unpack(channel, data)
        except WireError as error:
            self._drop(channel, error)
            return
        self._receive(self._channel_of(channel), envelope, len(data))

    def _drop(self, channel: bytes, error: WireError) -> None:
        counter = DROPS.get(type(error), "bus_malformed")
        setattr(self._counters, counter, getattr(self._counters, counter) + 1)
        name = channel.decode(errors="replace")
        self._reported[counter].log(ADVICE[counter], channel=name, error=str(error)[:200])
