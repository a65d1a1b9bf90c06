"""The bus: one subscribed connection, read by one supervised task.

The set of wanted channels is kept apart from the set that the connection has subscribed. So a reconnect subscribes
to all wanted channels and to no other.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from ...exceptions import BackendUnavailableError, ConfigurationError
from ...runtime.logs import Occasionally
from ...runtime.metrics import Counters
from ..ports import Listening
from .connection import Backoff, ConnectionFactory, count_bytes, server_info
from .keys import slot_of
from .pipeline import REDIRECTIONS
from .ports import Listener, OnMessage
from .sockets import close, read_reply

log: logging.Logger = logging.getLogger(__name__)

CHANNELS_PER_COMMAND = 512
RETRY_S = 0.05
"""Seconds until the next attempt for a channel that no server accepts."""


class Subscriber:
    """Keeps one connection subscribed and passes its messages on. Reconnects until ``stop``."""

    def __init__(
        self,
        factory: ConnectionFactory,
        counters: Counters,
        listener: Listener,
        prefix: str = "",
        moved: Callable[[redis_errors.MovedError], None] | None = None,
        *,
        knows_server: bool = False,
    ) -> None:
        # "S" is sharded Pub/Sub: a command has channels of one slot only, and the server may unsubscribe them.
        self._prefix = prefix
        self._kinds = [f"{prefix}{kind}".lower().encode() for kind in ("message", "subscribe", "unsubscribe")]
        self._factory, self._counters = factory, counters
        self._listener, self._moved, self._knows_server = listener, moved, knows_server
        self._run_id = ""  # of the server, if ``knows_server``
        self._breaks = 0  # times that a subscription ended otherwise than by ``unsubscribe``
        self._on_message_of: dict[bytes, OnMessage] = {}
        self._wanted: set[str] = set()
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._told: set[str] = set()  # subscribed, or sent, on this connection
        # SUBSCRIBEs sent on this connection and not confirmed yet. A count, because the confirmation of one
        # that was revoked must not wake a waiter for a later one.
        self._unconfirmed: Counter[str] = Counter()
        self._changed: dict[str, None] = {}
        self._flush = asyncio.Event()
        self._connection: Connection | None = None
        self._limit: asyncio.Timeout | None = None  # of the current read; ``reconnect`` ends it
        self._tasks: list[asyncio.Task[None]] = []
        self._lost_at_s: float | None = None  # None when everything is subscribed
        self._trouble = Occasionally(log)
        self._backoff = Backoff()
        self.bytes_read: int = 0
        self.is_paused: bool = False

    @property
    def is_connected(self) -> bool:
        """Whether all wanted channels are subscribed and no loss was detected."""
        return bool(self._tasks) and self._lost_at_s is None

    async def start(self) -> None:
        """Connect and begin to read."""
        self._lost_at_s = None
        self._connection = await self._open()
        self.serve()

    def want_back(self, name: str) -> None:
        """Like ``want``, and report a gap: messages may have been missed on this channel."""
        self._note_loss()
        self.want(name)

    def serve(self, *, is_new: bool = False) -> None:
        """Begin to read. Connects, with retries, if there is no connection.

        If it ``is_new``, no channel was subscribed before, so the connect is not reported as a gap.
        """
        if self._connection is None and not is_new:
            self._note_loss()
        self._flush = asyncio.Event()
        self._flush.set()
        self._tasks = [
            asyncio.create_task(self._read_for_ever(), name="bus-read"),
            asyncio.create_task(self._tell_changes(), name="bus-subscribe"),
        ]

    async def stop(self) -> None:
        """Close the connection. Waiting ``subscribe`` calls raise BackendUnavailableError."""
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
            BackendUnavailableError: There was no confirmation within the timeout; the channel stays wanted.
        """
        self.want(name)
        if self.is_confirmed(name):
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
        """Subscribe without waiting, as soon as there is a connection."""
        self._wanted.add(name)
        if not self.is_confirmed(name):
            self._change(name)

    def unsubscribe(self, name: str) -> None:
        """Unsubscribe without waiting. Waiting ``subscribe`` calls for the channel return."""
        self._wanted.discard(name)
        self._wake(name)
        self._change(name)

    def listen(self, name: str, on_message: OnMessage) -> None:
        """Hand the messages of one channel to ``on_message`` instead of the listener."""
        self._on_message_of[name.encode()] = on_message

    def listen_no_more(self, name: str) -> None:
        """Undo ``listen``."""
        self._on_message_of.pop(name.encode(), None)

    def subscribe_again(self, name: str) -> None:
        """Send SUBSCRIBE once more for a subscribed channel, which the server confirms again."""
        self._told.discard(name)
        self._change(name)

    def listening(self, name: str) -> Listening | None:
        """Return the subscription to a channel; None while it is not confirmed."""
        if self._connection is None or name not in self._wanted or not self.is_confirmed(name):
            return None  # also while UNSUBSCRIBE is not sent yet
        return Listening(self._run_id, self._breaks)

    def is_confirmed(self, name: str) -> bool:
        """Whether the server has confirmed every SUBSCRIBE for a channel."""
        return name in self._told and not self._unconfirmed[name]

    def _wake(self, name: str) -> None:
        for waiter in self._waiters.pop(name, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _change(self, name: str) -> None:
        self._changed[name] = None
        self._flush.set()

    async def _tell_changes(self) -> None:
        """Send the changes of each tick. The reader, not this task, replaces a lost connection."""
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
            except Exception:  # noqa: BLE001 - after any error the reader reconnects
                self.reconnect()

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
        """Yield the channels of each command."""
        by_slot: dict[int, list[str]] = {}
        for name in names:
            by_slot.setdefault(slot_of(name) if self._prefix else 0, []).append(name)
        for same in by_slot.values():
            for start in range(0, len(same), CHANNELS_PER_COMMAND):
                yield same[start : start + CHANNELS_PER_COMMAND]

    def reconnect(self) -> None:
        """Replace the current connection, even if it is not known to be dead."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0)

    async def _read_for_ever(self) -> None:
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._open()
                    self._flush.set()  # channels that were wanted during the connect
                async with asyncio.timeout(None) as self._limit:
                    await self._read(self._connection)
            except Exception as error:  # noqa: BLE001 - the supervisor: no error may end the reading
                self._backoff.grow()
                await self._lose(error)
                await asyncio.sleep(self._backoff.delay_s)

    async def _lose(self, error: Exception) -> None:
        self._limit = None
        connection, self._connection = self._connection, None
        self._breaks += 1
        self._refuse_waiters(self._factory.translate("subscribe", error))
        self._trouble.log("bus lost", error=str(error) or type(error).__name__)
        self._note_loss()
        if connection is None:
            return  # the connect failed
        await close(connection)
        self._counters.bus_reconnects += 1
        self._tell_whom_it_concerns(self._listener.gap_began)

    def _note_loss(self) -> None:
        if self._lost_at_s is None:
            self._lost_at_s = asyncio.get_running_loop().time()

    def _has_returned(self) -> None:
        if self._lost_at_s is not None and not self._unconfirmed:
            seconds, self._lost_at_s = asyncio.get_running_loop().time() - self._lost_at_s, None
            self._tell_whom_it_concerns(self._listener.gap_ended, seconds)

    def _tell_whom_it_concerns(self, listener: Callable[..., None], *arguments: float) -> None:
        try:
            listener(*arguments)
        except Exception:  # must not end the reading
            log.exception("bus: a listener failed")

    async def _read(self, connection: Connection) -> None:
        message, subscribed, unsubscribed = self._kinds
        while True:
            try:
                reply = await read_reply(connection)
            except REDIRECTIONS as error:
                self._try_elsewhere(error)
                continue
            if reply[0] == message:
                self._on_message_of.get(reply[1], self._listener.on_message)(reply[1], reply[2])
                if (pause := self._listener.pause()) is not None:
                    self.is_paused = True
                    await pause
                    self.is_paused = False
            elif reply[0] == subscribed:
                self._confirm(reply[1].decode())
            elif reply[0] == unsubscribed:
                self._drop(reply[1].decode())

    def _drop(self, name: str) -> None:
        """Subscribe again to a channel that the server has ended because its slot moves; the reply has the target."""
        if self.is_confirmed(name):
            self._told.discard(name)
            self._breaks += 1
            self._note_loss()
            self._tell_whom_it_concerns(self._listener.gap_began)
            self._change(name)

    def _try_elsewhere(self, error: redis_errors.ResponseError) -> None:
        """Subscribe to the redirected channels at their new owner; without one, here again after a delay."""
        if isinstance(error, redis_errors.MovedError):
            names = [name for name in self._told if slot_of(name) == error.slot_id]
        else:
            names = list(self._unconfirmed)
        self._told.difference_update(names)
        self._breaks += 1
        for name in names:
            self._unconfirmed.pop(name, None)
        if isinstance(error, redis_errors.MovedError) and self._moved is not None:
            self._moved(error)
        asyncio.get_running_loop().call_later(RETRY_S, self._ask_again, names)

    def _ask_again(self, names: list[str]) -> None:
        for name in names:
            if name in self._wanted:
                self._change(name)

    def _refuse_waiters(self, error: Exception) -> None:
        """Raise a missing permission in waiting ``subscribe`` calls; other errors are retried."""
        if isinstance(error, ConfigurationError):
            for waiter in [w for waiters in self._waiters.values() for w in waiters if not w.done()]:
                waiter.set_exception(error)
            self._waiters.clear()

    def _confirm(self, name: str) -> None:
        self._backoff.reset()  # not at connect: a busy server, or one without permissions, accepts connections
        if name not in self._unconfirmed:
            return  # redirected already, and subscribed again later
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
                if self._knows_server:
                    self._run_id = (await server_info(connection, "server")).get("run_id", "")
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
