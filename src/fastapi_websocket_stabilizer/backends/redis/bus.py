"""The bus: one subscribed connection, read by one supervised task, and publishing through the pipeline.

The desired set of channels is ours; what the connection has been told is kept beside it, so that after a
reconnect everything is subscribed again and nothing that was left comes back.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from redis.asyncio import Connection

from ...exceptions import BackendUnavailableError, ConfigurationError, WireError
from ...logs import Occasionally
from ...metrics import Counters
from ...names import NodeId
from ...ports import Receive
from ...signing import ForgedError, UnsignedError
from ...wire import Envelope, pack, pack_before_parts, pack_message, unpack
from . import scripts
from .client import Backoff, ConnectionFactory, close, count_bytes
from .guard import Guard, ReplayedError, Signer
from .keys import Keys
from .pipeline import Argument, Pipeline

log: logging.Logger = logging.getLogger(__name__)

CHANNELS_PER_COMMAND = 512

DROPS: dict[type[WireError], str] = {
    UnsignedError: "bus_unsigned",
    ForgedError: "bus_forged",
    ReplayedError: "bus_replayed",
}
"""The counter of what is dropped because of its signature."""
ADVICE = {
    "bus_malformed": "envelope dropped",
    "bus_unsigned": "unsigned envelope dropped: set envelope_keys on every node and publisher",
    "bus_forged": "forged envelope dropped: give every node and publisher each key before one signs with it; "
    "if they have, somebody else publishes to this Redis",
    "bus_replayed": "repeated or late envelope dropped: somebody else publishes to this Redis, or it is far behind",
}
"""What is logged, at most once a minute each."""


class Subscriber:
    """Keeps one connection subscribed and hands over what it hears; reconnects for ever."""

    def __init__(
        self, factory: ConnectionFactory, counters: Counters, hear: Callable[[bytes, bytes], None]
    ) -> None:
        self._factory, self._counters = factory, counters
        self.hear: Callable[[bytes, bytes], None] = hear
        self._wanted: set[str] = set()
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._told: set[str] = set()  # what this connection was last told to subscribe
        # SUBSCRIBEs sent on this connection that are not confirmed yet. The confirmation of one that was
        # since revoked must not wake somebody who waits for a later one.
        self._unconfirmed: Counter[str] = Counter()
        self._changed: dict[str, None] = {}
        self._flush = asyncio.Event()
        self._connection: Connection | None = None
        self._limit: asyncio.Timeout | None = None  # of the reading that is under way
        self._tasks: list[asyncio.Task[None]] = []
        self._lost_at_s: float | None = None  # until everything is subscribed again
        self._trouble = Occasionally(log)
        self.bytes_read: int = 0
        self.is_paused: bool = False
        self.on_gap: Callable[[], None] = lambda: None
        self.on_return: Callable[[float], None] = lambda _: None
        self.pause: Callable[[], Awaitable[object] | None] = lambda: None

    @property
    def is_connected(self) -> bool:
        """Whether everything that is wanted is subscribed, as far as we know."""
        return self._connection is not None and self._lost_at_s is None

    async def start(self) -> None:
        """Connect and begin to read."""
        self._lost_at_s = None
        self._connection = await self._open()
        self.serve()

    def want(self, name: str) -> None:
        """Subscribe as soon as there is a connection."""
        self._wanted.add(name)
        self._change(name)

    def serve(self) -> None:
        """Begin to read; without a connection, open one as soon as Redis answers."""
        if self._connection is None:
            self._lost_at_s = asyncio.get_running_loop().time()
        self._flush = asyncio.Event()
        self._flush.set()
        self._tasks = [
            asyncio.create_task(self._read_for_ever(), name="bus-read"),
            asyncio.create_task(self._tell_changes(), name="bus-subscribe"),
        ]

    async def stop(self) -> None:
        """Unsubscribe from everything by closing the connection; whoever waits for a channel gets an error."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        await self._close()
        self._wanted.clear()
        for waiter in [w for waiters in self._waiters.values() for w in waiters if not w.done()]:
            waiter.set_exception(BackendUnavailableError("the connection to Redis was closed"))
        self._waiters.clear()

    async def subscribe(self, name: str) -> None:
        """Return when the server has confirmed.

        Raises:
            BackendUnavailableError: It did not within the timeout; the channel stays wanted.
        """
        self._wanted.add(name)
        if self.is_confirmed(name):
            return
        self._change(name)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(name, []).append(waiter)
        try:
            async with asyncio.timeout(self._factory.timeout_s):
                await waiter
        except TimeoutError:
            raise BackendUnavailableError(
                f"Redis at {self._factory.address}: subscribe: no answer within {self._factory.timeout_s:g} s"
            ) from None

    def unsubscribe(self, name: str) -> None:
        """Stop wanting a channel; whoever still waits for it need not wait any more."""
        self._wanted.discard(name)
        self._wake(name)
        self._change(name)

    def subscribe_again(self, name: str) -> None:
        """Ask for a channel that we have: the server confirms it once more."""
        self._told.discard(name)
        self._change(name)

    def is_confirmed(self, name: str) -> bool:
        """Whether the server has answered the last word about a channel."""
        return name in self._told and not self._unconfirmed[name]

    def _wake(self, name: str) -> None:
        for waiter in self._waiters.pop(name, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _change(self, name: str) -> None:
        self._changed[name] = None
        self._flush.set()

    async def _tell_changes(self) -> None:
        """Tell the server once per tick what changed. A lost connection is the reader's to mend."""
        while True:
            await self._flush.wait()
            self._flush.clear()
            connection = self._connection
            if connection is None:
                continue  # everything wanted is subscribed on reconnect
            changed, self._changed = self._changed, {}
            try:
                async with asyncio.timeout(self._factory.timeout_s):
                    await self._tell(connection, changed)
            except Exception:  # noqa: BLE001 - whatever broke, the reader opens another connection
                self.reconnect()

    async def _tell(self, connection: Connection, changed: Iterable[str]) -> None:
        old = [name for name in changed if name in self._told and name not in self._wanted]
        new = [name for name in changed if name in self._wanted and name not in self._told]
        self._told.difference_update(old)
        self._told.update(new)
        self._unconfirmed.update(new)
        for command, names in (("UNSUBSCRIBE", old), ("SUBSCRIBE", new)):
            for start in range(0, len(names), CHANNELS_PER_COMMAND):
                chunk = names[start : start + CHANNELS_PER_COMMAND]
                await connection.send_command(command, *chunk, check_health=False)

    def reconnect(self) -> None:
        """Give up the present connection, whether or not it knows that it is dead."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0)

    async def _read_for_ever(self) -> None:
        backoff = Backoff()
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._open()
                    self._flush.set()  # what was wanted meanwhile
                    backoff.reset()
                async with asyncio.timeout(None) as self._limit:
                    await self._read(self._connection)
            except Exception as error:  # noqa: BLE001 - the supervisor: nothing may end listening for good
                backoff.grow()
                await self._lose(error)
                await asyncio.sleep(backoff.delay_s)

    async def _lose(self, error: Exception) -> None:
        self._limit = None
        connection, self._connection = self._connection, None
        self._refuse_waiters(self._factory.translate("subscribe", error))
        self._trouble.log("bus lost", error=str(error) or type(error).__name__)
        if connection is None:
            return  # it was never there
        await close(connection)
        self._counters.bus_reconnects += 1
        if self._lost_at_s is None:
            self._lost_at_s = asyncio.get_running_loop().time()
        self._tell_whom_it_concerns(self.on_gap)

    def _has_returned(self) -> None:
        if self._lost_at_s is not None and not self._unconfirmed:
            seconds, self._lost_at_s = asyncio.get_running_loop().time() - self._lost_at_s, None
            self._tell_whom_it_concerns(self.on_return, seconds)

    def _tell_whom_it_concerns(self, listener: Callable[..., None], *arguments: float) -> None:
        try:
            listener(*arguments)
        except Exception:  # its trouble must not end listening
            log.exception("bus: a listener failed")

    async def _read(self, connection: Connection) -> None:
        while True:
            reply = await connection.read_response()
            if reply[0] == b"message":
                self.hear(reply[1], reply[2])
                if (pause := self.pause()) is not None:
                    self.is_paused = True
                    await pause
                    self.is_paused = False
            elif reply[0] == b"subscribe":
                self._confirm(reply[1].decode())

    def _refuse_waiters(self, error: Exception) -> None:
        """No right to a channel will not come by waiting; everything else is asked for again."""
        if isinstance(error, ConfigurationError):
            for waiter in [w for waiters in self._waiters.values() for w in waiters if not w.done()]:
                waiter.set_exception(error)
            self._waiters.clear()

    def _confirm(self, name: str) -> None:
        self._unconfirmed[name] -= 1
        if not self._unconfirmed[name]:
            del self._unconfirmed[name]
            if name in self._told:
                self._wake(name)
            self._has_returned()

    async def _open(self) -> Connection:
        connection = await self._factory.connect()
        count_bytes(connection, self._count)
        self._told, self._unconfirmed, self.is_paused = set(), Counter(), False
        try:
            async with asyncio.timeout(self._factory.timeout_s):
                await self._tell(connection, tuple(self._wanted))
        except BaseException:
            await close(connection)
            raise
        return connection

    def _count(self, size: int) -> None:
        self.bytes_read += size

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)


class RedisPublishing:
    """The sending half of ``ports.Bus`` over Redis Pub/Sub."""

    def __init__(self, keys: Keys, pipeline: Pipeline, signer: Signer | None = None) -> None:
        self._keys, self._pipeline, self._signer = keys, pipeline, signer

    async def publish_all(self, envelope: Envelope) -> int:
        return await self._publish(self._keys.all, envelope)

    async def publish_room(self, room: str, envelope: Envelope) -> int:
        return await self._publish(self._keys.room(room), envelope)

    async def publish_node(self, node: NodeId, envelope: Envelope) -> int:
        # Somebody who listens in is no node.
        return min(1, await self._publish(self._keys.inbox(node), envelope))

    async def _publish(self, channel: str, envelope: Envelope) -> int:
        data = pack(envelope) if self._signer is None else self._signer.pack(envelope, channel)
        return int(await self._pipeline.send("PUBLISH", channel, data, idempotent=False))

    def publish_clients(self, envelope: Envelope, top: int) -> "asyncio.Future[list[list[NodeId]]]":
        try:
            keys, arguments = direct_call(self._keys, envelope, top, self._signer)
        except BackendUnavailableError as error:  # no signature without Redis' time
            refused: asyncio.Future[list[list[NodeId]]] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused
        script = scripts.CLIENTS_PUBLISH
        return self._pipeline.call(script, keys, *arguments, idempotent=False, parse=direct_reply)


def direct_call(
    keys: Keys, envelope: Envelope, top: int, signer: Signer | None = None
) -> tuple[list[str], list[Argument]]:
    """Return keys and arguments of ``clients_publish.lua``."""
    clients: list[str] = []
    arguments: list[Argument] = [top, keys.client_prefix_bytes, keys.inbox_prefix, keys.inbox_suffix]
    arguments.append(pack_before_parts(envelope))
    for part in envelope.parts:
        clients += map(keys.client, part.targets)
        arguments.append(pack_message(part) if signer is None else signer.pack_message(envelope, part))
        arguments += [b""] * (len(part.targets) - 1)
    return clients, arguments


def direct_reply(reply: tuple[list[int], list[bytes], list[int]]) -> list[list[NodeId]]:
    """Return, for each client, the nodes that took its messages."""
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


class RedisBus(RedisPublishing):
    """``ports.Bus`` over Redis Pub/Sub."""

    def __init__(
        self,
        keys: Keys,
        pipeline: Pipeline,
        subscriber: Subscriber,
        signer: Signer | None,
        guard: Guard | None,
    ) -> None:
        super().__init__(keys, pipeline, signer)
        self._subscriber, self._guard = subscriber, guard

    async def subscribe_room(self, room: str) -> None:
        if self._guard is not None:
            self._guard.listen(self._keys.room(room))
        await self._subscriber.subscribe(self._keys.room(room))

    def unsubscribe_room(self, room: str) -> None:
        if self._guard is not None:
            self._guard.leave(self._keys.room(room))
        self._subscriber.unsubscribe(self._keys.room(room))


class Ear:
    """Turns what a subscriber hears into envelopes; what cannot be read or trusted is counted and dropped."""

    def __init__(self, keys: Keys, receive: Receive, counters: Counters, guard: Guard | None = None) -> None:
        self._prefix = len(keys.all) - len("all")
        self._receive, self._counters, self._guard = receive, counters, guard
        self._reported = {counter: Occasionally(log) for counter in ADVICE}

    def hear(self, channel: bytes, data: bytes) -> None:
        self._counters.bus_messages += 1
        try:
            envelope = unpack(data) if self._guard is None else self._guard.unpack(channel, data)
        except WireError as error:
            self._drop(channel, error)
            return
        self._receive(self._canonical(channel.decode()), envelope, len(data))

    def _drop(self, channel: bytes, error: WireError) -> None:
        counter = DROPS.get(type(error), "bus_malformed")
        setattr(self._counters, counter, getattr(self._counters, counter) + 1)
        name = channel.decode(errors="replace")
        self._reported[counter].log(ADVICE[counter], channel=name, error=str(error)[:200])

    def _canonical(self, channel: str) -> str:
        """Return "all", "inbox" or "room:<room>"."""
        name = channel[self._prefix :]
        return name.partition("}:")[2] if name.startswith("{") else name
