"""The bus: one subscribed connection, read by one supervised task, and publishing through the pipeline.

The desired set of channels is ours; what the connection has been told is kept beside it, so that after a
reconnect everything is subscribed again and nothing that was left comes back.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from ...exceptions import BackendUnavailableError, ConfigurationError, WireError
from ...logs import Occasionally
from ...metrics import Counters
from ...names import NodeId
from ...ports import Receive
from ...wire import Envelope, pack, pack_before_parts, pack_message, unpack
from . import scripts
from .client import Backoff, ConnectionFactory
from .command import Argument
from .duties import Channels, Commands
from .keys import Keys
from .pipeline import REDIRECTIONS
from .slots import RETRY_S, slot_of
from .sockets import abort, close

log: logging.Logger = logging.getLogger(__name__)

CHANNELS_PER_COMMAND = 512


class Subscriber:
    """Keeps one connection subscribed and hands over what it hears; reconnects for ever."""

    def __init__(
        self,
        factory: ConnectionFactory,
        counters: Counters,
        hear: Callable[[bytes, bytes], None],
        prefix: str = "",
    ) -> None:
        # "S" is sharded Pub/Sub: a command names channels of one slot only, and the server may end one itself.
        self._prefix = prefix
        self._kinds = [f"{prefix}{kind}".lower().encode() for kind in ("message", "subscribe", "unsubscribe")]
        self._factory, self._counters, self._hear = factory, counters, hear
        self._wanted: set[str] = set()
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._told: set[str] = set()  # what this connection was last told to subscribe
        # SUBSCRIBEs sent on this connection that are not confirmed yet. The confirmation of one that was
        # since revoked must not wake somebody who waits for a later one.
        self._unconfirmed: Counter[str] = Counter()
        self._changed: dict[str, None] = {}
        self._flush = asyncio.Event()
        self._connection: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.on_gap: Callable[[], None] = lambda: None
        self.pause: Callable[[], Awaitable[object] | None] = lambda: None
        self.on_moved: Callable[[redis_errors.MovedError], None] = lambda error: None

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def start(self) -> None:
        """Connect and begin to read."""
        self._connection = await self._open()
        self.serve()

    def serve(self) -> None:
        """Begin to read; connects in the background, again and again, unless ``start`` has."""
        self._flush = asyncio.Event()
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

    def reconnect(self) -> None:
        """Give up the present connection and open one where the server is now."""
        if self._connection is not None:
            abort(self._connection)

    async def subscribe(self, name: str) -> None:
        """Return when the server has confirmed.

        Raises:
            BackendUnavailableError: It did not within the timeout; the channel stays wanted.
        """
        self.want(name)
        if self._is_confirmed(name):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(name, []).append(waiter)
        try:
            async with asyncio.timeout(self._factory.timeout_s):
                await waiter
        except TimeoutError:
            raise BackendUnavailableError(
                f"Redis at {self._factory.address}: subscribe: no answer within {self._factory.timeout_s:g} s"
            ) from None

    def want(self, name: str) -> None:
        """Subscribe without waiting."""
        self._wanted.add(name)
        if not self._is_confirmed(name):
            self._change(name)

    def unsubscribe(self, name: str) -> None:
        """Stop wanting a channel; whoever still waits for it need not wait any more."""
        self._wanted.discard(name)
        self._wake(name)
        self._change(name)

    def _is_confirmed(self, name: str) -> bool:
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
                await self._tell(connection, changed)
            except (redis_errors.RedisError, OSError):
                await close(connection)

    async def _tell(self, connection: Connection, changed: Iterable[str]) -> None:
        old = [name for name in changed if name in self._told and name not in self._wanted]
        new = [name for name in changed if name in self._wanted and name not in self._told]
        self._told.difference_update(old)
        self._told.update(new)
        self._unconfirmed.update(new)
        for command, names in (("UNSUBSCRIBE", old), ("SUBSCRIBE", new)):
            for chunk in self._chunks(names):
                await connection.send_command(self._prefix + command, *chunk, check_health=False)

    def _chunks(self, names: list[str]) -> Iterator[list[str]]:
        """Return what fits into one command."""
        by_slot: dict[int, list[str]] = {}
        for name in names:
            by_slot.setdefault(slot_of(name) if self._prefix else 0, []).append(name)
        for same in by_slot.values():
            for start in range(0, len(same), CHANNELS_PER_COMMAND):
                yield same[start : start + CHANNELS_PER_COMMAND]

    async def _read_for_ever(self) -> None:
        backoff = Backoff()
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._open()
                    self._flush.set()  # what was wanted meanwhile
                    backoff.reset()
                await self._read(self._connection)
            except Exception as error:  # noqa: BLE001 - the supervisor: nothing may end listening for good
                backoff.grow()
                self._refuse_waiters(self._factory.translate("subscribe", error))
                log.warning("bus lost", extra={"error": str(error), "retry_in_s": backoff.delay_s})
                if self._connection is not None:
                    self._counters.bus_reconnects += 1
                    self.on_gap()
                await self._close()
                await asyncio.sleep(backoff.delay_s)

    async def _read(self, connection: Connection) -> None:
        message, subscribed, unsubscribed = self._kinds
        while True:
            try:
                reply = await connection.read_response()
            except REDIRECTIONS as error:
                self._try_elsewhere(error)
                continue
            if reply[0] == message:
                self._hear(reply[1], reply[2])
                if (pause := self.pause()) is not None:
                    await pause
            elif reply[0] == subscribed:
                self._confirm(reply[1].decode())
            elif reply[0] == unsubscribed:
                self._drop(reply[1].decode())

    def _drop(self, name: str) -> None:
        """Ask for a channel again that the server ended: its slot is moving away, and the answer says where."""
        if self._is_confirmed(name):
            self._told.discard(name)
            self.on_gap()
            self._change(name)

    def _try_elsewhere(self, error: redis_errors.ResponseError) -> None:
        """Have channels subscribed where the server says, or here again if nobody serves them at the moment."""
        if isinstance(error, redis_errors.MovedError):
            names = [name for name in self._told if slot_of(name) == error.slot_id]
        else:
            names = list(self._unconfirmed)
        self._told.difference_update(names)
        for name in names:
            self._unconfirmed.pop(name, None)
        if isinstance(error, redis_errors.MovedError):
            self.on_moved(error)
        asyncio.get_running_loop().call_later(RETRY_S, self._ask_again, names)

    def _ask_again(self, names: list[str]) -> None:
        for name in names:
            if name in self._wanted:
                self._change(name)

    def _refuse_waiters(self, error: Exception) -> None:
        """No right to a channel will not come by waiting; everything else is asked for again."""
        if isinstance(error, ConfigurationError):
            for waiter in [w for waiters in self._waiters.values() for w in waiters if not w.done()]:
                waiter.set_exception(error)
            self._waiters.clear()

    def _confirm(self, name: str) -> None:
        if name not in self._unconfirmed:
            return  # asked for again meanwhile
        self._unconfirmed[name] -= 1
        if not self._unconfirmed[name]:
            del self._unconfirmed[name]
            if name in self._told:
                self._wake(name)

    async def _open(self) -> Connection:
        connection = await self._factory.connect()
        self._told, self._unconfirmed = set(), Counter()
        await self._tell(connection, tuple(self._wanted))
        return connection

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)


class RedisPublishing:
    """The sending half of ``ports.Bus`` over Redis Pub/Sub."""

    def __init__(self, keys: Keys, pipeline: Commands) -> None:
        self._keys, self._pipeline = keys, pipeline

    @property
    def command(self) -> str:
        """What publishes to a channel."""
        return "PUBLISH"

    async def settle(self) -> None:
        """Wait until everything that was given to us is queued for Redis."""

    async def publish_all(self, envelope: Envelope) -> int:
        return await self._publish(self._keys.all, envelope)

    async def publish_room(self, room: str, envelope: Envelope) -> int:
        return await self._publish(self._keys.room(room), envelope)

    async def publish_node(self, node: NodeId, envelope: Envelope) -> int:
        return await self._publish(self._keys.inbox(node), envelope)

    async def _publish(self, channel: str, envelope: Envelope) -> int:
        return int(await self._queue(channel, envelope))

    def _queue(self, channel: str, envelope: Envelope) -> "asyncio.Future[int]":
        return self._pipeline.send(self.command, channel, pack(envelope), idempotent=False)

    def publish_clients(self, envelope: Envelope, top: int) -> "asyncio.Future[list[list[NodeId]]]":
        keys, arguments = direct_call(self._keys, envelope, top)
        script = scripts.CLIENTS_PUBLISH
        return self._pipeline.call(script, keys, *arguments, idempotent=False, parse=direct_reply)


def direct_call(keys: Keys, envelope: Envelope, top: int) -> tuple[list[str], list[Argument]]:
    """Return keys and arguments of ``clients_publish.lua``."""
    clients: list[str] = []
    arguments: list[Argument] = [top, keys.client_prefix_bytes, keys.inbox_prefix, keys.inbox_suffix]
    arguments.append(pack_before_parts(envelope))
    for part in envelope.parts:
        clients += map(keys.client, part.targets)
        arguments.append(pack_message(part))
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


class RoomChannels:
    """The hearing half of ``ports.Bus``."""

    _keys: Keys
    _subscriber: Channels

    async def subscribe_room(self, room: str) -> None:
        await self._subscriber.subscribe(self._keys.room(room))

    def unsubscribe_room(self, room: str) -> None:
        self._subscriber.unsubscribe(self._keys.room(room))


class RedisBus(RedisPublishing, RoomChannels):
    """``ports.Bus`` over Redis Pub/Sub."""

    def __init__(self, keys: Keys, pipeline: Commands, subscriber: Channels) -> None:
        super().__init__(keys, pipeline)
        self._subscriber = subscriber


class Ear:
    """Turns what a subscriber hears into envelopes; what cannot be read is counted and dropped."""

    def __init__(self, keys: Keys, receive: Receive, counters: Counters) -> None:
        self._prefix = len(keys.all) - len("all")
        self._receive, self._counters = receive, counters
        self._malformed = Occasionally(log)

    def hear(self, channel: bytes, data: bytes) -> None:
        self._counters.bus_messages += 1
        try:
            envelope = unpack(data)
        except WireError as error:
            self._counters.bus_malformed += 1
            self._malformed.log(
                "envelope dropped", channel=channel.decode(errors="replace"), error=str(error)
            )
            return
        self._receive(self._canonical(channel.decode()), envelope, len(data))

    def _canonical(self, channel: str) -> str:
        """Return "all", "inbox" or "room:<room>"."""
        name = channel[self._prefix :]
        return name.partition("}:")[2] if name.startswith("{") else name
