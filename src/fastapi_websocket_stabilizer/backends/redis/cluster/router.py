"""Commands in a cluster: one pipeline per primary, and commands of one slot in the order of the calls.

A redirected command was not executed, so even one that is not idempotent is sent again. Three rules keep the order
of a slot. Redirected commands of a batch are handled before the next batch. While a server has commands in flight,
slots that moved from it are *held*: new commands still go there. While a slot has *parked* commands, new commands
queue behind them.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

from redis import exceptions as redis_errors

from ....exceptions import BackendUnavailableError
from ....runtime.loops import running_loop
from ....runtime.metrics import Counters
from ..command import Argument, Command
from ..connection import ConnectionFactory
from ..keys import slot_of
from ..pipeline import LIMIT_BYTES, Pipeline, Redirected, no_earlier_sends, not_measured
from ..scripts import Script
from ..urls import Address
from .slots import RETRY_S, SlotTable, redirected_to

LEASES = "{nodes}"
"""A key in the slot of the leases."""
PATIENCE_S = 0.25
"""Seconds that a server without slots gets to answer commands sent earlier."""


class Router:
    """The ``CommandConnection`` of a cluster."""

    is_ordered = False

    def __init__(
        self,
        table: SlotTable,
        factory: ConnectionFactory,
        counters: Counters,
        name: str,
        flush_earlier_sends: Callable[[], None],
        keys: Iterable[str] = (),
        answered_after: Callable[[float], None] = not_measured,
    ) -> None:
        self._table, self._factory, self._counters, self._name = table, factory, counters, name
        self._keys, self._answered_after = tuple(keys), answered_after
        self._pipelines: dict[Address, Pipeline] = {}
        self._held: dict[int, Address] = {}
        self._parked: dict[int, deque[Command]] = {}
        self._parked_bytes = 0
        self._retry: asyncio.TimerHandle | None = None
        self._refusal = "no server has returned a slot map yet"
        self._leaving: set[Address] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._is_open = False
        self.flush_earlier_sends: Callable[[], None] = flush_earlier_sends
        table.listen(self._on_change)

    async def start(self) -> None:
        """Connect to the primaries of ``keys``, or, if there are none, to all that answer.

        Raises:
            BackendUnavailableError, ConfigurationError: As ``Pipeline.start``.
        """
        await self._table.start()
        self._is_open = True
        wanted = {self._table.owner(slot_of(key)) for key in self._keys}
        pipelines = [
            self._pipelines.setdefault(each, self._make(each)) for each in wanted or self._table.nodes
        ]
        outcomes = await asyncio.gather(*(each.start() for each in pipelines), return_exceptions=True)
        errors = [error for error in outcomes if error is not None]
        for error in errors:
            if wanted or len(errors) == len(outcomes) or not isinstance(error, BackendUnavailableError):
                raise error
        for pipeline, outcome in zip(pipelines, outcomes, strict=True):
            if outcome is not None:  # unavailable: it reconnects while the others serve their slots
                pipeline.serve()

    def serve(self) -> None:
        """Begin to send. Until there is a slot map, commands wait up to their deadlines."""
        self._table.serve()
        self._is_open = True

    async def stop(self) -> None:
        """Send queued commands until their deadlines, then close. The rest fails with BackendUnavailableError."""
        for parked in tuple(chain.from_iterable(self._parked.values())):
            await asyncio.wait([parked.reply])  # ends, because each has a deadline
        self._is_open = False
        pipelines, self._pipelines = self._pipelines, {}
        self._held.clear()
        self._leaving.clear()
        await asyncio.gather(*(pipeline.stop() for pipeline in pipelines.values()), *self._stopping)

    @property
    def run_id(self) -> str:
        """The identities of all connected primaries; changes after a restart or failover of one."""
        return ",".join(sorted({pipeline.run_id for pipeline in self._pipelines.values() if pipeline.run_id}))

    @property
    def is_lasting(self) -> bool:
        """Whether no connected primary evicts keys."""
        return all(pipeline.is_lasting for pipeline in self._pipelines.values())

    def run_id_of(self, key: str) -> str:
        """Return the identity of the primary that owns the slot of a key; "" if it is not connected."""
        if not self._table.is_known:
            return ""
        pipeline = self._pipelines.get(self._table.owner(slot_of(key)))
        return "" if pipeline is None else pipeline.run_id

    @property
    def queued_bytes(self) -> int:
        return self._parked_bytes + sum(pipeline.queued_bytes for pipeline in self._pipelines.values())

    def call(
        self,
        script: Script,
        keys: Iterable[str],
        *arguments: Argument,
        idempotent: bool,
        parse: Callable[[Any], Any] | None = None,
    ) -> "asyncio.Future[Any]":
        """Queue a script whose keys are all in one slot, as ``Pipeline.call`` does."""
        keys = tuple(keys)
        words = (len(keys), *keys, *arguments)
        return self._submit(
            keys[0], Command(words, script, is_idempotent=idempotent, deadline_s=self._deadline, parse=parse)
        )

    def send(self, *arguments: Argument, idempotent: bool) -> "asyncio.Future[Any]":
        """Queue a command whose first argument is its key or channel, as ``Pipeline.send`` does.

        A command without arguments (TIME) goes to the server with the leases.
        """
        command = Command(arguments, None, is_idempotent=idempotent, deadline_s=self._deadline)
        return self._submit(str(arguments[1]) if len(arguments) > 1 else LEASES, command)

    def set_field(self, key: str, field: str, value: str) -> "asyncio.Future[int]":
        """Queue HSET of one field, in a command of its own: a redirection concerns one command."""
        return self.send("HSET", key, field, value, idempotent=True)

    def separate(self, key: str) -> None:
        """Do nothing: fields share no command."""

    @property
    def _deadline(self) -> float:
        return running_loop().time() + self._factory.timeout_s

    def _submit(self, key: str, command: Command) -> "asyncio.Future[Any]":
        self.flush_earlier_sends()
        command.slot = slot_of(key)
        if self._is_open:
            self._forward(command)
        else:
            command.reject(_closed(command))
        return command.reply

    def _forward(self, command: Command) -> None:
        slot = command.slot
        assert slot is not None
        if slot in self._parked or not self._table.is_known:
            self._park(command)
        else:
            self._pipeline(self._held.get(slot) or self._table.owner(slot)).submit(command)

    def _pipeline(self, address: Address) -> Pipeline:
        pipeline = self._pipelines.get(address)
        if pipeline is None:
            pipeline = self._pipelines[address] = self._make(address)
            pipeline.serve()
        return pipeline

    def _make(self, address: Address) -> Pipeline:
        after_batch = partial(self._after_batch, address)
        factory = self._factory.at(address)
        return Pipeline(
            factory, self._counters, self._name, no_earlier_sends, after_batch, self._answered_after
        )

    # Moved slots and redirected commands

    def _after_batch(self, address: Address, redirected: Redirected) -> None:
        for command, _ in redirected:
            command.asks = None
            self._park(command)
        released = {slot for slot, holder in self._held.items() if holder == address}
        for slot in released:
            del self._held[slot]
        self._move(self._pipelines[address].take(released) if released else [])
        is_worth_a_try = [self._learn(command, error, address) for command, error in redirected]
        if redirected and all(is_worth_a_try):
            self._unpark()
        self._retire(address)

    def _learn(self, command: Command, error: redis_errors.ResponseError, asked: Address) -> bool:
        """Apply a redirection; return whether to send its command to the new target at once."""
        self._counters.redis_redirected += 1
        self._refusal = str(error)
        command.hops += 1
        if not isinstance(error, redis_errors.AskError):
            return False
        if (owner := redirected_to(error, asked)) is None:
            return False
        if isinstance(error, redis_errors.MovedError):
            self._table.learn(error.slot_id, owner)
        else:
            command.asks = owner
        return command.hops == 1

    def _on_change(self, former: dict[int, Address]) -> None:
        moved: dict[Address, set[int]] = {}
        for slot, address in former.items():
            if address in self._pipelines and slot not in self._held:
                moved.setdefault(address, set()).add(slot)
        for address, slots in moved.items():
            if self._pipelines[address].is_busy:
                self._held.update(dict.fromkeys(slots, address))
            else:
                self._move(self._pipelines[address].take(slots))
        self._leaving = (self._leaving | moved.keys()) - self._table.nodes
        for address in tuple(self._leaving):
            self._retire(address)
        for pipeline in self._pipelines.values():
            pipeline.check()

    def _move(self, commands: Iterable[Command]) -> None:
        for command in commands:
            if command.slot is None:  # a PING for that server, which is not needed any more
                command.resolve(None)
            else:
                self._forward(command)

    def _park(self, command: Command) -> None:
        assert command.slot is not None
        if not self._is_open:
            command.reject(_closed(command))
            return
        if self._parked_bytes + command.size > LIMIT_BYTES:
            self._counters.redis_rejected += 1
            why = f"{command.name}: {LIMIT_BYTES} bytes are already queued for the cluster"
            command.reject(BackendUnavailableError(why))
            return
        self._parked_bytes += command.size
        self._parked.setdefault(command.slot, deque()).append(command)
        if self._retry is None:
            self._retry = running_loop().call_later(RETRY_S, self._unpark)

    def _unpark(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        parked, self._parked, self._parked_bytes = self._parked, {}, 0
        now_s = running_loop().time()
        for command in chain.from_iterable(parked.values()):
            if command.reply.done():
                continue
            if not self._is_open:
                command.reject(_closed(command))
            elif command.deadline_s <= now_s:
                self._give_up_on(command)
            elif command.asks is not None:
                self._pipeline(command.asks).submit(command)
            else:
                self._forward(command)

    def _give_up_on(self, command: Command) -> None:
        self._counters.redis_failures += 1
        error = redis_errors.ResponseError(f"slot {command.slot} is not served: {self._refusal}")
        command.reject(self._factory.translate(command.name, error))

    def _retire(self, address: Address) -> None:
        """Disconnect from a server without slots when it has answered, or after ``PATIENCE_S``: it may be dead."""
        if address not in self._leaving:
            return
        pipeline = self._pipelines[address]
        if pipeline.is_busy:
            running_loop().call_later(PATIENCE_S, self._cut, address)
            return
        self._leaving.discard(address)
        del self._pipelines[address]
        self._move(pipeline.take())
        task = asyncio.create_task(pipeline.stop(), name="redis-retire")
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def _cut(self, address: Address) -> None:
        if address in self._leaving:
            self._pipelines[address].abort()


def _closed(command: Command) -> BackendUnavailableError:
    return BackendUnavailableError(f"{command.name}: the connection to Redis was closed")
