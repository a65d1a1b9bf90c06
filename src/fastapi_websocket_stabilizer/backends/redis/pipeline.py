"""All Redis commands of one event-loop tick in one pipeline on one connection, in order.

The connection belongs to the pipeline's own task, and a caller waits only for a future. So a cancelled request
handler never leaves half a reply for the next caller to read (CVE-2023-28858).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from ...exceptions import BackendUnavailableError
from ...runtime.logs import Occasionally
from ...runtime.loops import running_loop
from ...runtime.metrics import Counters
from .command import Argument, Command, join
from .connection import Backoff, ConnectionFactory, check_server, fence_former_connection, is_lost
from .scripts import Script
from .sockets import abort, close, read_reply

log: logging.Logger = logging.getLogger(__name__)

LIMIT_BYTES = 64 * 1024 * 1024
"""Maximum bytes of queued commands; a command beyond it is rejected."""
BATCH = 1000
"""Maximum commands in one pipeline; the replies of a longer one would block the event loop."""
GROWS_TO_BYTES = 8192
"""Bytes of an HSET from which on no more fields are added to it; about a hundred fields."""

REDIRECTIONS = (  # the command was not executed
    redis_errors.AskError,
    redis_errors.TryAgainError,
    redis_errors.ClusterDownError,
)

WATCHES = 20
"""Number of checks for expired commands within one timeout."""

Redirected = list[tuple[Command, redis_errors.ResponseError]]


def no_earlier_sends() -> None:
    """Flush nothing: the connection carries no direct sends that were collected before."""


def not_measured(_: float) -> None:
    """Do nothing with the time that a batch of commands took."""


class Pipeline:
    """One owned connection. ``run_id`` changes after a restart or failover of the server.

    ``call`` and ``send`` may re-enter this object. Before they queue their command, they call
    ``flush_earlier_sends``, which may ``call`` a script for the direct sends of this tick. So no later message
    overtakes those.

    In a cluster, ``after_batch`` is called between two batches with the redirected commands. Without it, their errors
    go to the callers. ``answered_after`` is called with the seconds from the write of a batch to its last answer.
    """

    is_ordered = True
    """Commands are executed in the order of the calls, whatever their keys."""

    def __init__(
        self,
        factory: ConnectionFactory,
        counters: Counters,
        name: str,
        flush_earlier_sends: Callable[[], None],
        after_batch: Callable[[Redirected], None] | None = None,
        answered_after: Callable[[float], None] = not_measured,
    ) -> None:
        self._factory, self._counters, self._name = factory, counters, name
        self._after_batch, self._answered_after = after_batch, answered_after
        self.flush_earlier_sends: Callable[[], None] = flush_earlier_sends
        self._queue: deque[Command] = deque()
        self._wanted = asyncio.Event()
        self._backoff = Backoff()
        self._trouble = Occasionally(log)
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._in_flight: list[Command] = []
        self._growing: dict[str, Command] = {}  # queued HSETs, by key
        self._watchdog: asyncio.TimerHandle | None = None
        self._redirected: Redirected = []
        self._refusal: Exception | None = None  # why there is no connection
        self.queued_bytes: int = 0
        self.run_id: str = ""
        self.is_lasting: bool = True
        self._client = 0  # client id of the connection on the server

    def run_id_of(self, _: str) -> str:
        """Return the identity of the only server."""
        return self.run_id

    async def start(self) -> None:
        """Connect, and begin to send.

        Raises:
            BackendUnavailableError, ConfigurationError: As ``ConnectionFactory.connect``.
        """
        self._connection = await self._connect()
        self.serve()

    def serve(self) -> None:
        """Begin to send. Connects, with retries, if there is no connection."""
        self._wanted = asyncio.Event()
        if self._connection is None:
            self._backoff.grow()
            self._wanted.set()
        self._task = asyncio.create_task(self._serve(), name=f"redis-{self._name}")

    async def stop(self) -> None:
        """Send queued commands until their deadlines, then close. The rest fails with BackendUnavailableError."""
        if self._task is not None:
            while (waiting := self._queue or self._in_flight) and not self._task.done():
                await asyncio.wait([waiting[-1].reply])  # ends, because the watchdog expires commands
                await asyncio.sleep(0)
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        await self._disconnect()
        self._reject(self._queue, BackendUnavailableError("the connection to Redis was closed"))
        self._queue.clear()
        self._growing.clear()
        self.queued_bytes = 0
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def call(
        self,
        script: Script,
        keys: Iterable[str],
        *arguments: Argument,
        idempotent: bool,
        parse: Callable[[Any], Any] | None = None,
    ) -> "asyncio.Future[Any]":
        """Queue a script; return the future of its reply, converted by ``parse``.

        If the connection is lost, only an ``idempotent`` script is sent again.
        """
        keys = tuple(keys)
        return self._submit((len(keys), *keys, *arguments), script, idempotent=idempotent, parse=parse)

    def send(self, *arguments: Argument, idempotent: bool) -> "asyncio.Future[Any]":
        """Queue a command; return the future of its reply.

        If the connection is lost, only an ``idempotent`` command is sent again.
        """
        return self._submit(arguments, None, idempotent=idempotent)

    def set_field(self, key: str, field: str, value: str) -> "asyncio.Future[int]":
        """Queue HSET of one field; return the future of its reply, which other fields of the key may share.

        While the last HSET of a key is queued, further fields are added to it. So a field may be set before commands
        that were queued earlier. Call ``separate`` before commands that remove fields of the key, and never cancel
        the future.
        """
        command, deadline_s = self._growing.get(key), running_loop().time() + self._factory.timeout_s
        if command is not None and self._may_grow(command, deadline_s):
            before = command.size
            command.extend(field, value)
            self.queued_bytes += command.size - before
            return command.reply
        reply = self.send("HSET", key, field, value, idempotent=True)
        if self._queue and self._queue[-1].reply is reply:
            self._growing[key] = self._queue[-1]
        return reply

    def separate(self, key: str) -> None:
        """Set later fields of a key behind the commands that are queued so far."""
        self._growing.pop(key, None)

    def _may_grow(self, command: Command, deadline_s: float) -> bool:
        """Whether a queued HSET may take one more field, which must not end much earlier than this deadline."""
        return command.size < GROWS_TO_BYTES and deadline_s - command.deadline_s < self._interval_s

    def _submit(
        self,
        arguments: tuple[Argument, ...],
        script: Script | None,
        *,
        idempotent: bool,
        parse: Callable[[Any], Any] | None = None,
    ) -> "asyncio.Future[Any]":
        self.flush_earlier_sends()
        deadline_s = running_loop().time() + self._factory.timeout_s
        command = Command(arguments, script, is_idempotent=idempotent, deadline_s=deadline_s, parse=parse)
        self.submit(command)
        return command.reply

    def submit(self, command: Command) -> None:
        """Queue a command, or reject it if the pipeline is stopped or the queue is full."""
        if self._task is None or self._task.done():
            command.reject(BackendUnavailableError(f"{command.name}: the connection to Redis was closed"))
        elif self._queue and self.queued_bytes + command.size > LIMIT_BYTES:
            self._counters.redis_rejected += 1
            command.reject(
                BackendUnavailableError(f"{command.name}: {LIMIT_BYTES} bytes are already queued for Redis")
            )
        else:
            self._queue.append(command)
            self.queued_bytes += command.size
            self._wanted.set()
            if self._watchdog is None:
                self._watch()

    @property
    def is_busy(self) -> bool:
        """Whether commands are in flight."""
        return bool(self._in_flight)

    def take(self, slots: Container[int] | None = None) -> list[Command]:
        """Remove and return unsent commands: all of them, or those of ``slots``."""
        self._growing.clear()
        taken = [c for c in self._queue if slots is None or c.slot in slots]
        self._queue = deque([c for c in self._queue if slots is not None and c.slot not in slots])
        self.queued_bytes -= sum(command.size for command in taken)
        return taken

    def check(self) -> None:
        """Send PING if the pipeline is idle, so that a restart of the server is detected without traffic."""
        if not self._queue and not self._in_flight:
            self.send("PING", idempotent=True)

    def abort(self) -> None:
        """Abort the connection; commands in flight end as if the server had closed it."""
        if self._connection is not None:
            abort(self._connection)

    def _watch(self) -> None:
        """Schedule the next check for expired commands, which is cheaper than a timer for each command."""
        self._watchdog = running_loop().call_later(self._interval_s, self._expire)

    @property
    def _interval_s(self) -> float:
        return self._factory.timeout_s / WATCHES

    def _expire(self) -> None:
        next_s = (
            running_loop().time() + self._interval_s
        )  # expire commands up to one interval early rather than late
        for command in self._in_flight:
            if command.deadline_s < next_s:
                self._give_up_on(command, TimeoutError(), is_sent=True)
        while self._queue and self._queue[0].deadline_s < next_s:
            command = self._queue.popleft()
            self._growing.clear()
            self.queued_bytes -= command.size
            self._give_up_on(command, self._too_late(), is_sent=False)
        self._watchdog = None
        if self._queue or self._in_flight:
            self._watch()

    def _too_late(self) -> Exception:
        """Return the error of an expired command: a timeout, or the reason of the last failed connect."""
        return TimeoutError() if self._refusal is None else BackendUnavailableError(str(self._refusal))

    async def _serve(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._queue or self._backoff.delay_s:
                if self._backoff.delay_s and not await self._is_back():
                    continue
                self._growing.clear()
                self._in_flight = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                self.queued_bytes -= sum(command.size for command in self._in_flight)
                try:
                    if self._in_flight:
                        await self._exchange(self._in_flight)
                except asyncio.CancelledError:
                    error = BackendUnavailableError(
                        "the connection to Redis was closed", outcome_unknown=True
                    )
                    self._reject(self._in_flight, error)
                    raise
                finally:
                    self._in_flight = []
                if self._after_batch is not None:
                    redirected, self._redirected = self._redirected, []
                    self._after_batch(redirected)

    async def _is_back(self) -> bool:
        """Try once to reconnect, even with an empty queue. Queued commands expire at their own deadlines."""
        await asyncio.sleep(self._backoff.delay_s)
        try:
            self._connection = self._connection or await self._connect()
        except Exception as error:  # noqa: BLE001 - every error is retried
            self._trouble.log("Redis does not answer", error=str(error))
            self._backoff.grow()
            self._refusal = error
            return False
        self._backoff.reset()
        self._refusal = None
        return True

    async def _exchange(self, batch: list[Command]) -> None:
        self._counters.redis_batches += 1
        self._counters.redis_commands += len(batch)
        answered, is_sent = 0, False
        unknown_scripts: list[Command] = []
        try:
            async with asyncio.timeout_at(max(command.deadline_s for command in batch)):
                if self._connection is not None and is_lost(self._connection):
                    await self._disconnect()
                if self._connection is None:
                    self._connection = await self._connect()
                connection = self._connection
                is_sent, began_s = True, running_loop().time()
                await connection.send_packed_command(join(batch), check_health=False)
                for command in batch:
                    await self._read_reply(connection, command, unknown_scripts)
                    answered += 1
            self._answered_after(running_loop().time() - began_s)
            self._backoff.reset()
        except Exception as error:  # noqa: BLE001 - after any error, replies may be out of step
            self._backoff.grow()
            await self._disconnect()
            self._give_up(batch[answered:], error, is_sent=is_sent)
        self._requeue(unknown_scripts)

    async def _read_reply(
        self, connection: Connection, command: Command, unknown_scripts: list[Command]
    ) -> None:
        try:
            if command.asks is not None:
                await read_reply(connection)  # to ASKING
            command.resolve(await read_reply(connection))
        except redis_errors.NoScriptError:
            unknown_scripts.append(command)
        except REDIRECTIONS as error:
            self._redirect(command, error)
        except redis_errors.ReadOnlyError as error:
            command.reject(self._factory.translate(command.name, error))
            raise  # a demoted primary: reconnect, which may find the new one
        except redis_errors.ResponseError as error:
            command.reject(self._factory.translate(command.name, error))

    def _redirect(self, command: Command, error: redis_errors.ResponseError) -> None:
        if self._after_batch is None:
            command.reject(self._factory.translate(command.name, error))
        else:
            self._redirected.append((command, error))

    def _give_up(self, batch: list[Command], error: Exception, *, is_sent: bool) -> None:
        now_s = running_loop().time()
        again = [c for c in batch if c.is_idempotent and c.deadline_s > now_s and not c.reply.done()]
        for command in batch:
            if command not in again:
                self._give_up_on(command, error, is_sent=is_sent)
        self._requeue(again)

    def _give_up_on(self, command: Command, error: Exception, *, is_sent: bool) -> None:
        self._counters.redis_failures += not command.reply.done()
        command.reject(self._factory.translate(command.name, error, outcome_unknown=is_sent))

    def _requeue(self, commands: list[Command]) -> None:
        self._queue.extendleft(reversed(commands))
        self.queued_bytes += sum(command.size for command in commands)

    async def _connect(self) -> Connection:
        connection = await self._factory.connect()
        try:
            with self._factory.translated("greeting"):
                async with asyncio.timeout(self._factory.timeout_s):
                    run_id, self.is_lasting = await check_server(
                        connection, self._factory.address, is_in_cluster=self._factory.is_in_cluster
                    )
                    # Client ids are unique within one server run. After a restart the old id may be another client's.
                    former = self._client if run_id == self.run_id else 0
                    self._client, self.run_id = await fence_former_connection(connection, former), run_id
        except BaseException:
            await close(connection)
            raise
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)

    def _reject(self, commands: Iterable[Command], error: Exception) -> None:
        for command in commands:
            self._counters.redis_failures += not command.reply.done()
            command.reject(error)
