"""The logs of this node: recorded rooms with members here, everybody, and mailboxes. Drives a ``Feed`` for each.

Subscriptions, gaps, publications and reads go to the feeds; their actions are carried out here. ``feed`` decides.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from ..backends.log_ports import LogEntry, LogRead
from ..backends.policies import Policy
from ..exceptions import LOSSES
from ..local.connection import Connection
from ..local.sends import first_step
from ..runtime.logs import Occasionally
from ..runtime.loops import running_loop
from ..wire.channels import ALL, Channel
from ..wire.envelopes import VOLATILE, Envelope, Kind
from .agreed import AgreedPolicy
from .continuity import QUIET_US
from .feed import Action, Cursor, Deliver, Joined, Lost, Read
from .keeping import Keeping
from .logs import (
    LOST,
    PLAIN,
    ForClient,
    Held,
    Log,
    begin_in_turns,
    channel_to,
    count_answers,
    count_lost,
    count_return,
    held_in,
    name_of,
    read_compared,
    to_deliver,
)
from .members import Members
from .parts import CatchUp
from .redis_time import WholeTime
from .starts import start_of
from .state import NodeState

MEMORY_BYTES = 64 * 1024 * 1024
"""Bytes of recent and waiting messages of all logs. Above this, those of the log that was quiet longest are freed."""
READS = 32
"""Reads of logs in progress at the same time. Each may return a whole log."""
RETRY_S = 0.5
"""Longest delay in seconds before a read without an answer is repeated. While Redis is away, beats repeat it."""
COMPARE_S = 30.0
"""Seconds between two comparisons of the newest ids, which show a lost last message."""
ACTIVE_S = 2 * COMPARE_S
"""Seconds after its last message in which a log is compared."""
TICK_S = 0.002
"""Seconds after which the time of clients, which is told in ms, is certainly later than a time in µs."""
QUIET_S = 1.0
"""Seconds after its last message before a log is compared. Until then its top may be newer than the bus."""
Fan = Callable[[Channel, Envelope], None]
"""Function that delivers an envelope to the sockets of this node."""


class History:
    """Delivers stored messages in the order of their logs, and repairs what the bus has lost.

    Attributes:
        members: The members of all logs.
        catch_up: Feeds members again that were let out of logs.
        agreed: The policy, as the registry has agreed on it.
        policy: The messages that this node stores.
    """

    def __init__(self, state: NodeState, fan: Fan, keeping: Keeping) -> None:
        self._state, self._fan, self._keeping = state, fan, keeping
        self.members: Members = Members(state)
        self.agreed: AgreedPolicy = AgreedPolicy(state)
        self.policy: Policy = self.agreed.policy
        self._logs: OrderedDict[Channel, Log] = OrderedDict()  # the one that was active last is the last
        self._reading = asyncio.Semaphore(READS)
        self.catch_up: CatchUp = CatchUp(state, self.members, self._logs.get, self._reads, self._act)
        self._unread: dict[Connection, Channel] = {}  # whose place in their mailbox is not known yet
        self._bytes = 0
        self._compared_at_s = 0.0
        self._time = WholeTime()
        self._unlogged, self._trouble = Occasionally(state.log), Occasionally(state.log)
        if not state.is_distributed:  # it works without a start, and memory answers at once
            first_step(self.begin())
            self.open()

    # Life

    async def begin(self) -> None:
        """Agree with the registry on what is stored, at the start.

        Raises:
            ConfigurationError: The registry, or a live node, stores other messages.
        """
        await self.agreed.begin()
        if self.policy and self._state.is_distributed:
            # The time that the first clients are told must be later than the content: see ``continuity.resumed``.
            await asyncio.sleep(TICK_S)
            self._time.begin(await self._ask_time(), running_loop().time())

    async def begin_again(self) -> None:
        """Agree again, after content was lost. A difference makes the node unready."""
        await self.agreed.begin_again()
        if self.policy:
            await self._ask_time()

    def open(self) -> None:
        """Feed the log of everybody, if there is one. Its channel is subscribed."""
        self.entered(ALL)

    def close(self) -> None:
        """Forget all logs, before the node stops."""
        self._logs.clear()
        self._time.end()
        self._unread.clear()
        self._bytes = 0
        self._reading = asyncio.Semaphore(READS)  # the next start may be on another event loop

    def held(self) -> Held:
        """Return what this node holds of logs now."""
        queued = sum(log.feed.queued_bytes for log in self._logs.values())
        return Held(len(self._logs), self._bytes, queued, self.members.waiting)

    def _reads(self) -> asyncio.Semaphore:
        return self._reading

    # Rooms and the bus

    def entered(self, channel: Channel) -> None:
        """Feed the log of a room or client that has its first connection here.

        Call it again when the channel is subscribed.
        """
        if channel in self._logs:
            self._listen(self._logs[channel])
            return
        bounds = self.policy.bounds(name_of(channel))
        if bounds is not None:
            log = self._logs[channel] = Log(channel, bounds, is_lasting=self._state.backend.logs.is_lasting)
            self._listen(log)
            if not channel.client:
                self.follow(channel)

    def follow(self, channel: Channel) -> None:
        """Deliver a log from its end on, also if no connection of it has a cursor.

        A mailbox waits for its first connection, whose cursor then needs no second read.
        """
        log = self._logs.get(channel)
        if log is not None:
            self._act(log, log.feed.attach(PLAIN, None))

    def left(self, channel: Channel) -> None:
        """Forget the log of a room or client without connections here."""
        log = self._logs.pop(channel, None)
        if log is not None:
            log.feed.unsubscribed()
            self._bytes -= log.bytes
            self._time.release(log.channel)
            self.members.forget(log.channel)

    # Members

    def hold(self, connection: Connection, channel: Channel) -> bool:
        """Keep a new member of a log out of the fan-out until ``attach`` lets it in. False if there is no log.

        Call it in the step that makes the connection a member.
        """
        if connection.session is None or not self.policy or self.policy.bounds(name_of(channel)) is None:
            return False
        self._state.shards.hold(connection, held_in(channel))
        return True

    async def attach(self, connection: Connection, channel: Channel) -> None:
        """Feed a member that is held, from the cursor of its client. Return when it is fed.

        If its log does not answer within ``redis_timeout_s``, or Redis is away, it is fed later.
        """
        log = self._logs.get(channel)
        if log is None or connection.session is None or connection not in self._state.shards:
            return
        start = await start_of(self._state, log, connection)
        if start is None:
            self._unread[connection] = channel
            return
        if not self._is_here(log) or connection not in self._state.shards:
            return
        is_fed: asyncio.Future[Any] = self.members.wait(connection, channel, start.since, start.refusal)
        if start.is_new:
            kept = self._keep_position(connection, channel, is_fed)
            is_fed = self._state.tasks.spawn(kept, "keep-position")
        actions = log.feed.attach(connection, start.cursor)
        if start.cursor is not None:
            count_return(self._state.counters, actions)
        self._act(log, actions)
        if self._state.is_away or is_fed.done():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._state.config.redis_timeout_s):
                await asyncio.shield(is_fed)

    async def _keep_position(
        self, connection: Connection, channel: Channel, is_fed: "asyncio.Future[int | None]"
    ) -> None:
        """Keep the position at which a membership begins. Its client is told the same."""
        position = await is_fed
        if position is not None:
            await self._keeping.note_position(connection, channel.room, position)

    def stop(self, connection: Connection, name: ForClient, position: Cursor) -> bool:
        """Let a member out of a log of which it was sent everything up to ``position``, until ``catch_up.go_on``.

        It is too slow, and the log has what would fill its outbox, or it waits for other logs. Return False if there
        is no such log.
        """
        log = self._logs.get(channel_to(connection.client_id, name))
        if log is None or connection not in self._state.shards:
            return False
        self.members.stop(connection, log.channel)
        log.feed.lag(connection, position)
        return True

    def detach(self, connection: Connection, channels: Iterable[Channel]) -> None:
        """Forget a member of logs: it has left, or has ended."""
        self._unread.pop(connection, None)
        for channel in channels:
            if (log := self._logs.get(channel)) is not None:
                log.feed.detach(connection)
            self.members.left(connection, channel)

    def listen(self) -> None:
        """Compare all subscriptions with those of the bus: a gap has begun or ended."""
        for log in tuple(self._logs.values()):
            self._listen(log)

    def _listen(self, log: Log) -> None:
        found = self._state.backend.listening(log.channel)
        if found == log.listening:
            return
        if log.listening is not None:
            self._act(log, log.feed.interrupted())
        log.listening, log.is_paused = found, False
        if found is not None:
            self._act(log, log.feed.subscribed(found.run_id))

    def beat(self) -> None:
        """Repeat reads without an answer, and compare the newest ids at times."""
        if not self._logs:
            return
        begin_in_turns(tuple(self._logs.values()), self._look, self._state.tasks)
        unread, self._unread = self._unread, {}
        for connection, channel in unread.items():
            self._state.tasks.spawn(self.attach(connection, channel), "attach")
        now_s = running_loop().time()
        if now_s - self._compared_at_s >= COMPARE_S:
            self._compared_at_s = now_s
            active = [log for log in self._logs.values() if QUIET_S < now_s - log.active_at_s < ACTIVE_S]
            self._state.tasks.spawn(self._compare(active), "compare-logs")

    def _look(self, log: Log) -> None:
        if self._is_here(log):
            self._listen(log)
            self._retry(log)

    async def _compare(self, logs: Sequence[Log]) -> None:
        listening = [log.listening for log in logs]
        with suppress(*LOSSES):  # a later beat compares
            await self._ask_time()
            tops = await self._state.backend.logs.tops([log.name for log in logs])
            for log, top, before in zip(logs, tops, listening, strict=True):
                if self._is_here(log) and log.listening == before:
                    self._act(log, log.feed.compared(top))

    # Publications

    def received(self, channel: Channel, envelope: Envelope, size: int) -> None:
        """Take a stored message, or the notice of a loss, from the bus.

        Raises:
            ValueError: The envelope is neither.
        """
        if envelope.entry is None or envelope.kind not in (Kind.BROADCAST, Kind.LOST):
            raise ValueError(f"an envelope of kind {envelope.kind.name} has a place in a log")
        log, (id_, previous) = self._log_of(channel, envelope), envelope.entry
        if log is None:
            if envelope.kind is Kind.BROADCAST:
                self._fan(channel, envelope)
        elif envelope.kind is Kind.LOST:
            code = str(envelope.body)
            self._act(log, log.feed.cut(id_, code if code in LOST else "unknown"))
        else:
            self._touch(log)
            self._act(log, log.feed.entry(LogEntry(id_, envelope, size), previous))

    def volatile(self, channel: Channel, envelope: Envelope, size: int) -> bool:
        """Take a message that is not stored, to the members of a log. Return False if there is no such log."""
        log = self._log_of(channel, envelope) if self._logs else None
        if log is None:
            return False
        if VOLATILE not in envelope.exclude:
            self._state.counters.history_unlogged += 1
            self._unlogged.log(
                "a message of a room with history was not stored: give all replicas and publishers the same settings",
                room=channel.room,
                sender=envelope.sender,
            )
        self._act(log, log.feed.volatile(envelope, size))
        return True

    def release(self, channel: Channel, envelope: Envelope) -> None:
        """Deliver the volatile messages that wait, before a later one that this node delivers without Redis."""
        if self._logs and (log := self._log_of(channel, envelope)) is not None:
            self._act(log, log.feed.released())

    def _log_of(self, channel: Channel, envelope: Envelope) -> Log | None:
        return None if channel == ALL and envelope.targets else self._logs.get(channel)

    def _touch(self, log: Log) -> None:
        log.active_at_s = running_loop().time()
        self._logs.move_to_end(log.channel)

    # Actions of feeds

    def _act(self, log: Log, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Deliver(message):
                    self._deliver(log, to_deliver(message))
                case Read():
                    self._send(log, action)
                case Lost(_, code):
                    self._count_lost(log, code)
                    self.members.lost(log.channel, action)
                case Joined(member, _, _, code):
                    self._count_lost(log, code)
                    if member is not PLAIN:  # plain sockets are in the tables of the fan-out already
                        self.members.joined(log.channel, action)
        self._account(log)

    def _deliver(self, log: Log, envelope: Envelope) -> None:
        self._fan(log.channel, envelope)
        if envelope.entry is not None:
            self.members.delivered(log.channel, envelope, envelope.entry[0])

    def _count_lost(self, log: Log, code: str) -> None:
        if code:
            count_lost(self._state.counters, code)
            said = "members of a log have missed messages that are gone"
            self._trouble.log(said, log=str(log.channel), code=code)

    def _account(self, log: Log) -> None:
        feed = log.feed
        if not log.is_held:
            self._time.release(log.channel)
        elif self._is_here(log) and self._state.is_distributed:
            self._time.hold(log.channel, self._state.backend.heard_to_s)
        self._bytes += feed.bytes - log.bytes
        log.bytes = feed.bytes
        if feed.dropped != log.dropped:
            self._state.counters.history_dropped += feed.dropped - log.dropped
            log.dropped = feed.dropped
        if self._bytes > MEMORY_BYTES:
            self._shrink()

    def _shrink(self) -> None:
        """Free the memory of the log that was quiet longest."""
        quietest = next((log for log in self._logs.values() if log.bytes), None)
        if quietest is not None:
            self._state.counters.history_freed += 1
            self._logs.move_to_end(quietest.channel)
            self._act(quietest, quietest.feed.shrink())

    # Reads

    def _send(self, log: Log, read: Read) -> None:
        self._state.counters.history_reads += 1
        if self._state.is_distributed:
            self._state.tasks.spawn(self._read(log, read), "read-log")
        else:  # memory answers at once, on any event loop
            first_step(self._read(log, read))

    async def _read(self, log: Log, read: Read) -> None:
        try:
            async with self._reading:
                found = await self._answer(log, read)
        except BaseException as error:
            log.feed.read_failed(read.token)
            self._postpone(log)
            if not isinstance(error, LOSSES):
                raise
            self._trouble.log("a log could not be read yet", log=str(log.channel), error=str(error))
            return
        self._learn_time(found.at_us)
        if self._is_here(log):
            counters, was_broken = self._state.counters, log.feed.last is not None and not log.feed.is_flowing
            actions = log.feed.read_done(read.token, found, found.run_id, self.whole_us())
            count_answers(counters, actions, is_repair=was_broken and log.feed.is_flowing)
            self._act(log, actions)
            if log.listening is None or found.run_id != log.listening.run_id:
                self._postpone(log)

    async def _answer(self, log: Log, read: Read) -> LogRead:
        """Read a log. If Redis may have lost what this node has received, compare first."""
        if read.heard is None or self._has_expired(read.heard.last):
            return await self._state.backend.logs.read(log.name, read.last)
        return await read_compared(self._state, log, read.heard, read.last)

    def _has_expired(self, id_: int) -> bool:
        """Whether an id is so old that its log may have forgotten it without a loss."""
        return self._time.is_known and self._time.at(running_loop().time()) - id_ > QUIET_US

    def _postpone(self, log: Log) -> None:
        """Repeat a read soon; while Redis is away, with the next beat."""
        log.is_paused = True
        if not self._state.is_away and self._is_here(log):
            running_loop().call_later(random.uniform(RETRY_S / 2, RETRY_S), self._retry, log)

    def _retry(self, log: Log) -> None:
        if log.is_paused and self._is_here(log):
            log.is_paused = False
            self._act(log, log.feed.retry())

    def _is_here(self, log: Log) -> bool:
        return self._logs.get(log.channel) is log

    # Time

    def whole_us(self) -> int:
        """Return the Redis time in µs up to which this node has missed nothing, at least; 0 if it is not known."""
        if not self._state.is_distributed:
            return int(self._state.backend.heard_to_s * 1_000_000)
        return self._time.whole_us(self._state.backend.heard_to_s)

    async def _ask_time(self) -> int:
        redis_us = (await self._state.backend.logs.read(name_of(ALL), 1)).at_us
        self._learn_time(redis_us)
        return redis_us

    def _learn_time(self, redis_us: int) -> None:
        if self._state.is_distributed:
            self._time.learn(redis_us, running_loop().time())
