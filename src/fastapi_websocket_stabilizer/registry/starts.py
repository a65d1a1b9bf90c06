"""Where a connection of ``stabilizer.v1`` begins in a log."""

from dataclasses import dataclass

from ..backends.log_ports import LogStore
from ..exceptions import LOSSES
from ..local.connection import Connection
from ..local.session import Following
from ..retention import History, history_of
from ..wire.channels import Channel
from .feed import Cursor
from .logs import Log, for_client
from .registration import registration_of
from .state import NodeState


@dataclass(frozen=True, slots=True)
class Start:
    """Where a connection begins.

    Attributes:
        cursor: None if it begins at the end.
        since: Position behind which it may see messages.
        refusal: Reason why the cursor of the client must not be used; "" otherwise.
        is_new: It becomes a member of a log that shows nothing from before, and its position must be kept.
    """

    cursor: Cursor | None
    since: int = 0
    refusal: str = ""
    is_new: bool = False


async def start_of(state: NodeState, log: Log, connection: Connection) -> Start | None:
    """Return where a connection with a session begins. None for a mailbox whose mark cannot be read now."""
    channel, store = log.channel, state.backend.logs
    named, following = for_client(channel), _following_of(connection)
    found = following.cursor(named)
    if channel.client:
        return Start(Cursor(*found)) if found is not None else await _unread(log, store, connection)
    kept, start = _kept(state, channel), Start(None if found is None else Cursor(*found))
    if kept is None:
        return start
    if kept.visible == "since_join":
        since = joined_at(connection, channel.room)
        if since is None:
            return Start(None, refusal="" if found is None else "unknown", is_new=True)
        return Start(start.cursor, since)
    if kept.shows_newest and following.is_new(named):
        start = Start(await before_last(log, store, kept.on_join))
        following.begins_at(named, start.cursor and start.cursor.id)
    return start


def _following_of(connection: Connection) -> Following:
    session = connection.session
    assert session is not None  # only such connections are held
    return session.following


def _kept(state: NodeState, channel: Channel) -> History | None:
    """Return the history of a room or of everybody."""
    return history_of(state.config.history, channel.room) if channel.room else state.config.history_for_all


def joined_at(connection: Connection, room: str) -> int | None:
    """Return the position at which the client became a member of a log; None if that is unknown."""
    session = registration_of(connection).session
    return None if session is None else session.since.get(room)


async def before_last(log: Log, store: LogStore, count: int) -> Cursor | None:
    """Return the position before the newest ``count`` entries; None if it cannot be known now."""
    known = log.feed.before_last(count)
    if known is not None:
        return Cursor(known)
    try:
        read = await store.read(log.name, count + 1)
    except LOSSES:
        return None
    if read.is_whole and len(read.entries) <= count:
        meta = read.meta
        return Cursor(0 if meta is None else max(meta.base, meta.hole, meta.reset), read.at_us)
    return Cursor(read.entries[0].id) if read.entries else None


async def _unread(log: Log, store: LogStore, connection: Connection) -> Start | None:
    """Begin behind the mark of a mailbox. Without it the end would skip what the client has not received yet."""
    try:
        begin = await store.unread(log.name)
    except LOSSES:
        return None
    named = for_client(log.channel)
    _following_of(connection).begins_at(named, begin.position, is_owed=begin.is_owed)
    return Start(Cursor(begin.position, begin.at_us))
