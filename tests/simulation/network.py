"""The simulated network between nodes and Redis: ordered, with latency, losses and cuts."""

import asyncio
import contextvars
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi_websocket_stabilizer import BackendUnavailableError, WebSocketConfig
from fastapi_websocket_stabilizer.backends.ports import Watcher
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.testing.links import MemoryLink, SharedHub
from fastapi_websocket_stabilizer.wire.channels import Channel
from fastapi_websocket_stabilizer.wire.envelopes import Envelope
from tests.simulation.loop import VirtualLoop

NOT_REPEATED = {"publish", "publish_node", "publish_clients", "redeem", "append"}
LONGEST_LATENCY_S = 0.05
TICK_S = 1e-6
"""Smallest time between two arrivals on one connection. Timers of the same moment would have no order."""


class SimHub(SharedHub):
    """The simulated Redis, with a clock that can be stepped."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop, self.ahead_s = loop, 0.0
        self.heard: set[tuple[str, int]] = set()
        """Room and id of each stored message that the bus brought to a node."""

    def now_us(self) -> int:
        return int((self._loop.now_s + self.ahead_s) * 1_000_000)


class Command:
    """One command: its execution at the server, and the future of its reply."""

    def __init__(self, run: Callable[[], Any], reply: "asyncio.Future[Any]", *, repeats: bool) -> None:
        self.run, self.reply, self.repeats = run, reply, repeats


class SimLink(MemoryLink):
    """One connection for commands and one for the bus, each ordered, with latency and faults."""

    def __init__(
        self,
        hub: SimHub,
        rng: random.Random,
        config: WebSocketConfig,
        watcher: Watcher,
        counters: Counters,
    ) -> None:
        super().__init__(hub, config, watcher, counters)
        self._rng, self._heard = rng, hub.heard
        self._loop: Any = asyncio.get_running_loop()
        self._home = contextvars.copy_context()  # the context of the node, which makes its link
        self._world = contextvars.Context()
        self._life = self._bus_life = 0
        self._out_s = self._in_s = self._heard_s = 0.0
        self._under_way: dict[Command, None] = {}
        # The time at which each command without an answer fails, in the order of the calls.
        self._deadlines_s: dict[Command, float] = {}
        self._has_deadline = False
        self.is_swallowing = False
        self.is_dead = False
        self._deaf_since_s = float("inf")

    def _after(self, last_s: float) -> float:
        """Return the arrival time of data sent now on a connection with the last arrival at ``last_s``."""
        arrives_s: float = self._loop.now_s + LONGEST_LATENCY_S * self._rng.random() ** 3
        return max(arrives_s, last_s + TICK_S)

    async def stop(self) -> None:
        await super().stop()
        self._life += 1
        self._under_way.clear()

    # Commands

    def call(self, method: Any, *args: Any, **named: Any) -> Any:
        repeats = method.__name__ not in NOT_REPEATED
        return self._reply(self._queue(lambda: _finished(method(*args, **named)), repeats=repeats))

    def call_now(self, method: Any, *args: Any) -> Any:
        name = method.__name__
        if name in ("unsubscribe_room", "unsubscribe_box"):
            return method(*args)
        if name == "publish_clients":
            return self._queue(lambda: method(*args).result(), repeats=False)
        if name == "append":
            run = partial(self._append, method, *args)
            return self._each_of(self._queue(run, repeats=False), len(args[0]))
        return self._queue(lambda: method(*args), repeats=True)

    @staticmethod
    def _append(method: Any, appends: Any) -> list[Any]:
        return [appended.exception() or appended.result() for appended in method(appends)]

    def _each_of(self, reply: "asyncio.Future[Any]", number: int) -> "list[asyncio.Future[Any]]":
        """Return a future for each item of a reply."""
        futures = [self._loop.create_future() for _ in range(number)]

        def share(_: object) -> None:
            error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
            for each, item in zip(futures, [error] * number if error else reply.result(), strict=True):
                if each.done():
                    continue
                if isinstance(item, BaseException):
                    each.set_exception(item)
                    each.exception()
                else:
                    each.set_result(item)

        reply.add_done_callback(share)
        return futures

    async def _reply(self, future: "asyncio.Future[Any]") -> Any:
        return await future

    def _queue(self, run: Callable[[], Any], *, repeats: bool) -> "asyncio.Future[Any]":
        if self.is_dead:
            raise BackendUnavailableError("the node has crashed")
        self._watcher.flush_earlier_sends()
        command = Command(run, self._loop.create_future(), repeats=repeats)
        # A command with a cancelled caller stays in flight until its deadline.
        self._under_way[command] = None
        self._deadlines_s[command] = deadline_s = self._loop.now_s + self.config.redis_timeout_s
        if not self._has_deadline:
            self._watch(deadline_s)
        if not self.is_cut:
            self._send(command)
        return command.reply

    def _watch(self, until_s: float) -> None:
        """Wait until the deadline of the oldest command. One timer serves all, because they are in order."""
        self._has_deadline = True
        self._loop.call_at(until_s, self._give_up, context=self._home)

    def _give_up(self) -> None:
        self._has_deadline = False
        for command, deadline_s in tuple(self._deadlines_s.items()):
            if deadline_s > self._loop.now_s:
                self._watch(deadline_s)
                return
            self._fail(command, "no answer")

    def _send(self, command: Command) -> None:
        self._out_s = self._after(self._out_s)
        self._loop.arrive_at(self._out_s, self._world, self._execute, command, self._life)

    def _execute(self, command: Command, life: int) -> None:
        if life != self._life or self.is_swallowing:
            return
        value = command.run()
        self._in_s = self._after(self._in_s)
        self._loop.arrive_at(self._in_s, self._home, self._answer, command, life, value)

    def _answer(self, command: Command, life: int, value: Any) -> None:
        if life == self._life and not self.is_swallowing:
            self._done(command)
            if not command.reply.done():
                command.reply.set_result(value)

    def _done(self, command: Command) -> None:
        self._under_way.pop(command, None)
        self._deadlines_s.pop(command, None)

    def _fail(self, command: Command, why: str) -> None:
        self._done(command)
        if not command.reply.done():
            command.reply.set_exception(BackendUnavailableError(why, outcome_unknown=True))
            command.reply.exception()  # mark it as retrieved, because some replies are not awaited

    # The bus

    def hear(self, channel: Channel, envelope: Envelope, size: int) -> None:
        """Schedule the arrival of an envelope. The hub calls this at the time of the publish."""
        if self.is_cut or self.is_swallowing:
            return
        self._heard_s = self._after(self._heard_s)
        self._loop.arrive_at(
            self._heard_s, self._home, self._arrived, self._bus_life, channel, envelope, size
        )

    def _arrived(self, life: int, channel: Channel, envelope: Envelope, size: int) -> None:
        if life == self._bus_life:
            if envelope.entry is not None:
                self._heard.add((channel.room, envelope.entry[0]))
            self._watcher.receive(channel, envelope, size)

    # Faults: called in the context of the world, and noticed by callbacks in that of the node

    def cut(self) -> None:
        self.is_cut = True
        self._deaf_since_s = min(self._deaf_since_s, self._loop.now_s)
        self._sever()

    def swallow(self) -> None:
        """Drop all data silently."""
        self.is_swallowing = True
        self._deaf_since_s = min(self._deaf_since_s, self._loop.now_s)

    def mend(self) -> None:
        if self.is_dead or not (
            self.is_cut or self.is_swallowing
        ):  # a dead node has no connections, and those of others are intact
            return
        if self.is_swallowing:  # the former connections are abandoned
            self.is_swallowing = False
            self._sever()
        self.is_cut = False
        self._deaf_since_s = float("inf")
        self._subscribe_again()
        for command in tuple(self._under_way):
            self._send(command)

    @property
    def heard_to_s(self) -> float:
        """The time up to which everything that was published has arrived."""
        now_s: float = self._loop.now_s
        return min(now_s, self._deaf_since_s) - LONGEST_LATENCY_S

    def lose_bus(self) -> None:
        self._bus_life += 1
        self._gaps += 1
        self._loop.arrive_at(self._loop.now_s, self._home, self._watcher.gap_began)
        if not self.is_cut:
            self._subscribe_again()

    def _subscribe_again(self) -> None:
        """Report the end of a gap. Nothing of the time between the subscription and the report is lost."""
        self._heard_s = self._after(self._heard_s)
        self._loop.arrive_at(self._heard_s, self._home, self._returned, self._bus_life)

    def _returned(self, life: int) -> None:
        if life == self._bus_life:
            self._watcher.gap_ended(0.0)

    def break_connections(self) -> None:
        """Reset both connections. They are open again at once."""
        if not self.is_cut:
            self.cut()
            self.mend()

    def _sever(self) -> None:
        self._life += 1
        self.lose_bus()
        for command in tuple(self._under_way):
            if not command.repeats:
                why = "connection lost; it may have been carried out"
                fail = partial(self._fail, command, why)
                self._loop.arrive_at(self._loop.now_s, self._home, fail)
                del self._under_way[command]


def _finished(coroutine: Any) -> Any:
    """Return the result of a method of the memory backend, which never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the memory backend waited")
