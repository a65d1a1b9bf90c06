"""Connections of ``stabilizer.v1`` in the logs of this node: held out of the fan-out until their log has answered.

The deliveries before an answer of a feed may still be in the queue of the fan-out. So each answer takes its turn
there: messages behind it are for the member, and those before it are not.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

from ..backends.log_ports import LogEntry
from ..local.batches import DirectMessages, Outcome
from ..local.connection import Connection
from ..names import ConnectionId
from ..runtime.loops import running_loop
from ..wire.channels import ALL, Channel
from ..wire.client_frames import MAILBOX
from ..wire.envelopes import CONNECTION, Envelope
from ..wire.messages import Address, Encoded, Series
from .feed import Joined, Lost
from .logs import ForClient, channel_to, for_client, held_in
from .opening import TOLD_AFTER_S, Skipped
from .registration import registration_of
from .state import NodeState

SHOWN_BYTES = 4 * 1024 * 1024
"""Bytes of messages of replays that are kept encoded for the next client. The oldest are dropped."""
REPLAYS = 32
"""Replays that are kept for the next client that has missed the same. The one that was made first is dropped."""
REPLAY_BYTES = 16 * 1024
"""Bytes of a replay up to which it is kept."""


class Waiting(NamedTuple):
    """A member that waits for the answer of its log.

    Attributes:
        is_fed: Ends with the position of the log at the answer, or with None if the member has left. There is none
            for a member that was fed before, and was too slow.
        since: Position behind which the member may see messages.
        refusal: Reason why the cursor of the member must not be used; "" otherwise.
    """

    is_fed: "asyncio.Future[int | None] | None" = None
    since: int = 0
    refusal: str = ""


class Members:
    """The members of all logs, as far as they need more than the tables of the fan-out."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._waiting: dict[tuple[Connection, Channel], Waiting] = {}
        self._behind: dict[Connection, set[Channel]] = {}  # logs that slow members were let out of
        self._skipped: dict[Channel, Skipped[Connection]] = {}
        self._telling_on: asyncio.AbstractEventLoop | None = None  # with a timer that tells positions
        self._shown: OrderedDict[tuple[Channel, int], Encoded] = OrderedDict()
        self._shown_bytes = 0
        self._replays: OrderedDict[tuple[str | Literal[0, 1], int, int], _Replay] = OrderedDict()

    def wait(
        self, connection: Connection, channel: Channel, since: int, refusal: str
    ) -> "asyncio.Future[int | None]":
        """Note a member that waits for its log."""
        is_fed: asyncio.Future[int | None] = running_loop().create_future()
        self._waiting[connection, channel] = Waiting(is_fed, since, refusal)
        return is_fed

    def stop(self, connection: Connection, channel: Channel) -> None:
        """Let a member out of its log until ``go_on``. It reads too slowly, or other logs must answer first."""
        self._state.shards.hold(connection, held_in(channel), is_behind=True)
        self._behind.setdefault(connection, set()).add(channel)
        self._waiting.pop((connection, channel), None)  # it was sent a part of what it has missed

    def behind(self, connection: Connection) -> Iterable[Channel]:
        """Return the logs that a member was let out of."""
        return tuple(self._behind.get(connection, ()))

    def go_on(self, connection: Connection, channel: Channel) -> None:
        """Let a member wait for the answer of a log that it was let out of."""
        self._let_go_on(connection, channel)
        self._waiting[connection, channel] = Waiting()

    def _let_go_on(self, connection: Connection, channel: Channel) -> None:
        if (behind := self._behind.get(connection)) is not None:
            behind.discard(channel)
            if not behind:
                del self._behind[connection]

    def left(self, connection: Connection, channel: Channel) -> None:
        """Forget a member."""
        waiting = self._waiting.pop((connection, channel), None)
        if waiting is not None and waiting.is_fed is not None and not waiting.is_fed.done():
            waiting.is_fed.set_result(None)
        self._let_go_on(connection, channel)
        if channel in self._skipped:
            self._skipped[channel].left(connection)

    @property
    def waiting(self) -> int:
        """Number of members that wait for the answer of a log, each once for each log."""
        return len(self._waiting)

    def ends(self, connection: Connection) -> None:
        """Tell a member its positions before its end, unless messages for it may be on their way."""
        if self._skipped and self._state.fan_out.is_idle:
            for channel in (ALL, *(Channel("room", room) for room in connection.rooms)):
                skipped = self._skipped.get(channel)
                if skipped is not None and connection in skipped:
                    self._tell_moved(channel, [connection], skipped.position)

    def forget(self, channel: Channel) -> None:
        """Forget a log without members here."""
        self._skipped.pop(channel, None)

    # Answers and losses

    def joined(self, channel: Channel, joined: Joined) -> None:
        """Give a member what it missed, and the messages of its log from then on."""
        session = registration_of(joined.member).session
        if self._state.fan_out.is_idle and session is not None and not session.has_begun:
            self._let_in(channel, joined)  # its turn is now. Nothing is sent before the first frame
        else:
            self._in_turn(partial(self._let_in, channel, joined))

    def _let_in(self, channel: Channel, joined: Joined) -> None:
        connection = joined.member
        waiting = self._waiting.pop((connection, channel), None)
        if waiting is None:
            return  # it has left
        self._state.shards.release(connection, held_in(channel))
        if waiting.is_fed is None:
            connection.session.following.caught_up(for_client(channel), joined)
            return
        if not waiting.is_fed.done():
            waiting.is_fed.set_result(joined.position)
        if waiting.refusal:
            joined = joined._replace(entries=(), code=waiting.refusal)
        entries = joined.entries
        if waiting.since:  # else the list stays the one that others have, too
            entries = [each for each in entries if each.id > waiting.since]
        is_cut = len(entries) < len(joined.entries)
        connection.session.following.fed(for_client(channel), joined._replace(entries=entries), is_cut=is_cut)

    def part(self, connection: Connection, missed: Sequence[tuple[ForClient, LogEntry]]) -> bool:
        """Give a slow member the next part of what it missed. Return False if it is too slow for that, too.

        It stays out of the fan-out, so nothing else of these logs is on its way to it.
        """
        session = connection.session
        return session is not None and session.following.part(missed)

    def lost(self, channel: Channel, lost: Lost) -> None:
        """Tell the members of a log that they have lost continuity."""
        self._skipped.pop(channel, None)  # the loss has a newer position
        if self._state.has_met_sessions:
            self._in_turn(partial(self._tell_lost, channel, lost))

    def _tell_lost(self, channel: Channel, lost: Lost) -> None:
        for connection in self._fed(channel):
            if connection.session is not None:
                connection.session.following.lost(for_client(channel), lost.position, lost.code)

    def _fed(self, channel: Channel) -> list[Connection]:
        """Return the members that the fan-out reaches."""
        if not channel.client:
            return self._state.shards.fed(channel.room)
        found = self._state.shards.of_client(channel.client)
        return [each for each in found if not self._is_held(each, channel)]

    def _in_turn(self, act: Callable[[], None]) -> None:
        def done(_: Outcome) -> None:
            act()

        self._state.fan_out.submit(DirectMessages((), done=done))

    # Positions that move without a frame

    def delivered(self, channel: Channel, envelope: Envelope, id_: int) -> None:
        """Note an entry that was submitted to the fan-out, and who was not meant by it."""
        if not self._state.has_met_sessions or channel.client:  # no message of a mailbox excludes anybody
            return
        skipped = self._skipped.get(channel)
        left_out = list(self._left_out(channel, envelope))
        if skipped is None:
            if not left_out:
                return
            skipped = self._skipped[channel] = Skipped()
        if told := skipped.delivered(id_, left_out):
            self._in_turn(partial(self._tell_moved, channel, told, id_))
        loop = running_loop()
        if self._telling_on is not loop and left_out:  # without Redis, another call may run on another loop
            self._telling_on = loop
            loop.call_later(TOLD_AFTER_S, self._tell_positions)

    def _left_out(self, channel: Channel, envelope: Envelope) -> set[Connection]:
        """Return the members that an entry excludes, or that are sent it in another room.

        Those that are held are not among them: their position is behind a replay that they do not have yet.
        """
        shards, room = self._state.shards, channel.room
        found: set[Connection] = set()
        for name in envelope.exclude:
            if name.startswith(CONNECTION):
                named = shards.get(ConnectionId(name.removeprefix(CONNECTION)))
                found.update(() if named is None else (named,))
            else:
                found.update(shards.of_client(name))
        if envelope.is_copy(room):
            before = envelope.targets[: envelope.targets.index(room)]
            found.update(each for other in before for each in shards.fed(other))
        members = {each for each in found if each.session is not None and (not room or room in each.rooms)}
        return {each for each in members if not self._is_held(each, channel)}

    def _is_held(self, connection: Connection, channel: Channel) -> bool:
        return self._state.shards.of(connection.client_id).holds(connection, (held_in(channel),))

    def _tell_positions(self) -> None:
        """Tell all members their position whose log has moved without a frame for them."""
        self._telling_on = None
        for channel, skipped in tuple(self._skipped.items()):
            if told := skipped.due():
                self._in_turn(partial(self._tell_moved, channel, told, skipped.position))

    def _tell_moved(self, channel: Channel, members: list[Connection], position: int) -> None:
        for connection in members:
            if self._is_held(connection, channel):
                continue  # it has left since then, and joined again
            if connection.ended is None and connection.session is not None:
                connection.session.following.moved(for_client(channel), position)

    # Replays

    def replayed(
        self,
        connection: Connection,
        former: Iterable[ConnectionId],
        missed: Iterable[tuple[str | Literal[0, 1], LogEntry]],
    ) -> Iterator[Encoded]:
        """Yield the entries of a replay that are meant for a connection, which had the ids ``former`` before."""
        counters, channels = self._state.counters, dict[str | Literal[0, 1], Channel]()
        for log, entry in missed:
            if is_excluded(connection, former, entry.envelope):
                continue
            channel = channels.get(log)
            if channel is None:
                channel = channels[log] = channel_to(connection.client_id, log)
            counters.history_replayed += 1
            counters.history_replayed_bytes += entry.size
            yield self.shown(channel, entry)

    def replay(
        self,
        connection: Connection,
        former: Iterable[ConnectionId],
        missed: Sequence[tuple[str | Literal[0, 1], LogEntry]],
    ) -> Series:
        """Return the same as ``replayed``. After a loss of many sockets, many clients have missed the same."""
        if not missed:
            return NOTHING
        (log, first), (_, last) = missed[0], missed[-1]
        name = log, first.id, last.id
        found = self._replays.get(name)
        # A failover may give an id to another entry. The entries between two that are kept do not change.
        if found is not None and found.is_of(missed):
            self._state.counters.history_replayed += len(missed)
            self._state.counters.history_replayed_bytes += found.bytes
            return found.series
        series = Series(list(self.replayed(connection, former, missed)))
        if series.size <= REPLAY_BYTES and _is_for_all(missed):
            self._replays[name] = _Replay(first, last, sum(entry.size for _, entry in missed), series)
            if len(self._replays) > REPLAYS:
                self._replays.popitem(last=False)
        return series

    def shown(self, channel: Channel, entry: LogEntry) -> Encoded:
        """Return an entry as a message of a replay, encoded once for all clients that return."""
        name = channel, entry.id
        found = self._shown.get(name)
        if found is None:
            found = self._shown[name] = _addressed(channel, entry)
            self._shown_bytes += found.size
            while self._shown_bytes > SHOWN_BYTES:
                self._shown_bytes -= self._shown.popitem(last=False)[1].size
        return found


class _Replay(NamedTuple):
    """All that was missed in one log between two entries, which is the same for all clients.

    Attributes:
        bytes: Bytes of the entries.
    """

    first: LogEntry
    last: LogEntry
    bytes: int
    series: Series

    def is_of(self, missed: Sequence[tuple[str | Literal[0, 1], LogEntry]]) -> bool:
        """Whether these are the entries. Those of other logs in between would be more."""
        is_same = missed[0][1] is self.first and missed[-1][1] is self.last
        return is_same and len(missed) == len(self.series.messages)


NOTHING = Series(())


def _is_for_all(missed: Sequence[tuple[str | Literal[0, 1], LogEntry]]) -> bool:
    """Whether entries are of one log that several clients have, and exclude none of them."""
    log = missed[0][0]
    return log != MAILBOX and all(each == log and not entry.envelope.exclude for each, entry in missed)


def _addressed(channel: Channel, entry: LogEntry) -> Encoded:
    envelope, room = entry.envelope, channel.room
    key = envelope.copy_key(room) if envelope.is_copy(room) else None
    return envelope.message().addressed(Address(for_client(channel), entry.id, 0, key))


def is_excluded(connection: Connection, former: Iterable[ConnectionId], envelope: Envelope) -> bool:
    """Whether a message is not meant for a connection, also not under the ids of its former connections."""
    exclude = envelope.exclude
    if not exclude:  # the usual case
        return False
    ids = connection.connection_id, *former
    return connection.client_id in exclude or any(CONNECTION + each in exclude for each in ids)
