"""The sessions of a node: creates one for each socket of ``stabilizer.v1``, with what the node knows."""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..config import WebSocketConfig
from ..exceptions import LOSSES, ClientInputError, ConnectionNotFoundError
from ..local.connection import Connection, OpenSession
from ..models import CloseCause
from ..names import ConnectionId
from ..registry import feed
from ..registry.hooks import Hooks
from ..registry.logs import name_of
from ..registry.registration import Succession
from ..registry.registry import Registry
from ..runtime.metrics import Counters
from ..runtime.tasks import Tasks, together
from ..wire import client_frames as frames
from ..wire.channels import ALL
from ..wire.client_frames import Fault
from ..wire.client_input import (
    Alive,
    Answer,
    Cancel,
    ErrorAnswer,
    Join,
    Leave,
    MailboxRead,
    Probe,
    Renewal,
    Resume,
    Unknown,
    Unwatch,
    Watch,
)
from ..wire.cursors import Cursor
from ..wire.messages import Encoded, Series
from .exchange import Identify, refusal
from .following import Log
from .session import Act, Session

SID_BYTES = 16
"""Random bytes in the name of a session."""

FaultOf = Callable[[BaseException], Fault | None]
"""Function that returns the fault that an exception of the application stands for, None if it is a failure."""


class Newcomer(NamedTuple):
    """The parts of a new session, which the registration of its socket needs."""

    record: Succession
    open_session: OpenSession


class Sessions:
    """The node, as its sessions need it.

    Attributes:
        acts: The function for each kind of frame except messages and requests.
    """

    def __init__(self, registry: Registry, fault_of: FaultOf) -> None:
        self.registry: Registry = registry
        self.counters: Counters = registry.state.counters
        self.hooks: Hooks = registry.state.hooks
        self.tasks: Tasks = registry.state.tasks
        self.fault_of: FaultOf = fault_of
        self.acts: Mapping[type, Act] = {
            Probe: _answer_probe,
            Alive: _ignore,
            Resume: _refuse_resume,
            Unknown: self._count_ignored,
            Join: lambda session, frame: session.exchange.join(frame),
            Leave: lambda session, frame: session.exchange.leave(frame),
            Cancel: lambda session, frame: session.exchange.cancel(frame),
            Answer: lambda session, frame: session.exchange.answered(frame),
            ErrorAnswer: lambda session, frame: session.exchange.answered(frame),
            Renewal: lambda session, frame: session.renew(frame),
            MailboxRead: self._mark,
            Watch: self._watch,
            Unwatch: self._unwatch,
        }

    def newcomer(self, cursor: Cursor | None, identify: Identify | None = None) -> Newcomer:
        """Return a new session, which continues from ``cursor``. See ``Session``."""
        record = Succession(secrets.token_urlsafe(SID_BYTES), "" if cursor is None else cursor.session)
        return Newcomer(record, lambda connection: Session(self, connection, record, cursor, identify))

    async def begin(self, connection: Connection, rooms: Iterable[str]) -> None:
        """Join rooms, and those of the former session. Send the first frame, and close the former connection.

        Raises:
            ConnectionNotFoundError: The connection ended before its first frame.
        """
        registry = self.registry
        begun = [registry.rooms.join(connection, room, keeps=False) for room in rooms]
        if registry.history.policy.bounds(name_of(ALL)) is not None:
            begun.append(registry.history.attach(connection, ALL))
        if registry.mailboxes.bounds is not None:
            begun.append(registry.mailboxes.attach(connection))
        await together(begun)  # because each of them may wait for Redis
        await self.registry.rooms.restore(connection, self._may_enter)
        session = connection.session
        if (
            session is not None
            and self.hooks.on_resume
            and (outcome := session.following.outcome()) is not None
        ):
            await self.hooks.run(self.hooks.on_resume, connection, outcome)
        if session is None or not session.begin():
            raise ConnectionNotFoundError(
                f"connection {connection.connection_id} ended before its first frame"
            )
        await self.registry.successions.succeed(connection)

    def restore(self, connection: Connection) -> None:
        """Join the rooms of the former session in the background."""
        self.tasks.spawn(self._restore(connection), "restore")

    async def _restore(self, connection: Connection) -> None:
        with suppress(*LOSSES):  # the joins are repeated, and the next return of Redis compares
            await self.registry.rooms.restore(connection, self._may_enter)

    async def _may_enter(self, connection: Connection, room: str) -> bool:
        return await refusal(self, connection, room) is None

    async def enter(self, connection: Connection, room: str) -> None:
        """Add a connection to a room that its client has asked for."""
        await self.registry.rooms.join(connection, room, by_client=True)

    def mark(self, connection: Connection, number: int) -> None:
        """Keep the number of the last handled message for the next connection of the client."""
        self.registry.keeping.mark(connection, number)

    def expect(self) -> None:
        """Give messages an address from now on, because a client has offered the subprotocol."""
        self.registry.state.has_met_sessions = True

    def limits(self) -> WebSocketConfig:
        """The settings in force now."""
        return self.registry.state.config

    def replayed(
        self, connection: Connection, former: Iterable[ConnectionId], missed: Iterable[tuple[Log, Any]]
    ) -> Iterable[Encoded]:
        """Yield the entries of a replay that are meant for a connection, which had the ids ``former`` before."""
        return self.registry.history.members.replayed(connection, former, missed)

    def replay(
        self, connection: Connection, former: Iterable[ConnectionId], missed: Sequence[tuple[Log, Any]]
    ) -> Series:
        """Return the same as ``replayed``, for a connection that is sent all of it now."""
        return self.registry.history.members.replay(connection, former, missed)

    def stop(self, connection: Connection, log: Log, position: int) -> bool:
        """Send a slow connection no more of a log, until ``go_on``. Return False if there is no such log."""
        is_stopped = self.put_off(connection, log, feed.Cursor(position, position))
        self.counters.history_stops += is_stopped
        return is_stopped

    def put_off(self, connection: Connection, log: Log, position: feed.Cursor) -> bool:
        """Send a connection no more of a log behind a position, until ``go_on``."""
        return self.registry.history.stop(connection, log, position)

    def is_behind(self, connection: Connection) -> bool:
        """Whether a connection lacks messages of logs that it is sent after ``go_on``."""
        return bool(self.registry.history.members.behind(connection))

    def go_on(self, connection: Connection) -> None:
        """Send a connection what it has missed of the logs that were stopped or put off."""
        self.registry.history.catch_up.go_on(connection)

    def whole_ms(self) -> int:
        """The time in ms, by Redis' clock, up to which this node has received everything; 0 if it is not known."""
        return self.registry.history.whole_us() // 1000

    def expire(self, connection: Connection, cause: CloseCause, code: int, reason: str) -> None:
        """End the connection now, and close its socket soon."""
        self.registry.connections.expire(connection, cause, code, reason)

    def _watch(self, session: Session, frame: Watch) -> None:
        is_allowed = self.registry.watching.watch(session.connection, frame.room, frame.version)
        self.counters.client_frames_ignored += not is_allowed

    def _unwatch(self, session: Session, frame: Unwatch) -> None:
        self.registry.watching.unwatch(session.connection, frame.room)

    def _mark(self, session: Session, frame: MailboxRead) -> None:
        if self.registry.mailboxes.bounds is None:
            self.counters.client_frames_ignored += 1
        else:
            self.registry.mailboxes.handled(session.connection, frame.entry_id)

    def _count_ignored(self, _: Session, __: object) -> None:
        self.counters.client_frames_ignored += 1


def _answer_probe(session: Session, _: Probe) -> None:
    session.send(frames.ALIVE)


def _ignore(_: Session, __: object) -> None:
    """Do nothing."""


def _refuse_resume(_: Session, __: Resume) -> None:
    raise ClientInputError("a cursor is only allowed as the first frame", code="frame")
