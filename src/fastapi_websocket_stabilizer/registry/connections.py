"""The connections of this node, from their claim to their release."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sized
from contextlib import suppress
from typing import Any, NoReturn

from .. import close_codes
from ..exceptions import (
    LOSSES,
    ShutdownError,
)
from ..local.connection import Connection, OpenSession
from ..local.lifecycle import ENDED, HOPELESS, OF_WRITES, Ended
from ..local.sends import SendLimiter
from ..models import CloseCause, ClosedConnection, Message, as_metadata
from ..names import ConnectionId
from ..runtime.logs import EVENTS, Occasionally, StructuredLogger, manager_logger
from ..runtime.metrics import Counters
from ..streams.stream import Streams
from ..wire.channels import ALL, Channel, box_of
from ..wire.client_frames import wait_reason
from ..wire.messages import Encoded, encode
from .budget import Budget
from .claims import Claims
from .door import Door
from .history import History
from .mailboxes import Mailboxes
from .outbound import Outbound
from .places import lines_of
from .questions import Questions
from .reclaims import Reclaims
from .refusals import UNREACHABLE, is_draining, soon_ms, turn_away
from .registration import Registration, Succession, registration_of
from .rooms import Rooms
from .showing import Showing
from .state import NodeState

PONGS = frozenset({"pong", '{"type":"pong"}', '{"type": "pong"}'})
"""Answers to the JSON ping of release 1.1."""
LEAST_S = 0.1
"""Minimum seconds of a shutdown, so that ``timeout=0`` still closes sockets that respond."""


class Connections:
    """The owner of all connections of this node: registers them, closes them and counts their events."""

    def __init__(
        self,
        state: NodeState,
        *,
        questions: Questions,
        claims: Claims,
        reclaims: Reclaims,
        rooms: Rooms,
        outbound: Outbound,
        budget: Budget,
        showing: Showing,
        history: History,
        mailboxes: Mailboxes,
    ) -> None:
        self._state, self._questions = state, questions
        self.claims: Claims = claims
        self.reclaims: Reclaims = reclaims
        self.rooms: Rooms = rooms
        self.outbound: Outbound = outbound
        self.budget: Budget = budget
        self._showing, self._history, self._mailboxes = showing, history, mailboxes
        self.counters: Counters = state.counters
        self.limiter: SendLimiter = state.limiter
        self.streams: Streams = state.streams
        self._events = StructuredLogger(manager_logger(state.config.log_level, EVENTS))
        self._to_close: deque[tuple[Connection, int, str]] = deque()
        self._closers = 0
        self._connecting: dict[
            Connection, str
        ] = {}  # the claim is in progress; why the socket was closed, or ""
        self._leaving: set[Connection] = set()  # gone, but the application still reads their messages
        self.door: Door = Door(state)
        self._trouble = Occasionally(state.log)
        # All connections keep this one. Of a method, each would keep an object of its own.
        self.limits: Callable[[], Any] = lambda: state.config

    # Calls of a connection to its owner

    def encode(self, message: Message) -> Encoded:
        return encode(message, self._state.config.max_message_size)

    async def send(self, connection: Connection, message: Encoded) -> str | None:
        return await self.outbound.to_connection(connection, message)

    async def join_room(self, connection: Connection, room: str) -> None:
        await self.rooms.join(connection, room)

    async def leave_room(self, connection: Connection, room: str) -> None:
        await self.rooms.leave(connection, room)

    async def update_metadata(
        self, connection: Connection, given: Mapping[str, Any], *, replaces: bool
    ) -> None:
        await self._showing.change(connection, given, replaces=replaces)

    async def request(self, connection: Connection, name: str, data: Any, timeout_s: float) -> Any:
        question = self._questions.question(name, data, timeout_s)
        return await self._questions.ask_connection(connection, question)

    def is_pong(self, message: str | bytes) -> bool:
        return message in PONGS

    # Connect

    async def connect(
        self,
        client_id: str,
        websocket: Any,
        given: Mapping[str, Any] | None,
        app_state: Any = None,
        *,
        session: Succession | None = None,
        open_session: OpenSession | None = None,
    ) -> Connection:
        """Register a socket and close the sockets that it displaces.

        A socket of ``stabilizer.v1`` has a ``session``. It stays open when an error is raised, because the caller
        knows the close code.

        Raises:
            ConnectionLimitExceededError: The node or the client is full.
            MemoryLimitExceededError: ``metadata`` does not fit.
            MessageError: ``metadata`` cannot be encoded as JSON, or is too long.
            DrainingError: The node is draining. An accepted socket was closed with 1012.
            BackendUnavailableError, ConfigurationError: Not under "degrade". An accepted socket was closed with 1013.
        """
        state, metadata = self._state, as_metadata(given)
        if state.is_draining:
            state.counters.connections_rejected += 1
            await self._refuse(websocket, open_session)
        self.door.warn()
        self._showing.check(metadata)
        self.door.check_capacity_for(client_id, session)
        await self.claims.verified()
        size = await self.budget.admit(client_id, metadata)
        self._check_running(is_ended=state.is_closed)  # while this waited
        self.door.check_capacity_for(client_id, session)  # others may have come in between
        name, registration = state.next_connection_id(), Registration(size, session)
        connection = Connection(
            self, client_id, name, websocket, metadata, app_state, registration, open_session
        )
        # Before the claim is queued: evicts and messages may arrive before its reply, and need the connection.
        state.shards.add(connection)
        self._history.hold(connection, ALL)
        self.budget.add(size)
        self._connecting[connection] = ""
        try:
            await self._claim(connection, websocket)
            if state.is_draining:  # since a moment ago
                await self._refuse(websocket, open_session)
            self._events.log_connection("connected", client_id, connection_id=connection.connection_id)
            await state.hooks.run(state.hooks.on_connect, connection)
            state.counters.connections_opened += 1
            state.tail.opened(connection)
        except BaseException:
            self._undo(connection)
            raise
        finally:
            error = self._connecting.pop(connection)
        if error:  # its socket was closed during the claim
            self.gone(connection, error)
        self._check_running(is_ended=connection.ended is Ended.SHUTDOWN)
        return connection

    def _undo(self, connection: Connection) -> None:
        """Release a connection whose registration has failed, and give its socket back."""
        is_rejected = self._forget(connection, CloseCause.RELEASED)
        self._state.counters.connections_rejected += is_rejected
        # Otherwise it was ended elsewhere, where that is counted.
        self._state.counters.connections_opened += not is_rejected
        # The pipeline executes it after the claim, so it also undoes a claim whose outcome is unknown.
        self._state.tasks.spawn(self._release(connection, connection.connection_id), "release")
        connection.let_go()

    @staticmethod
    def _check_running(*, is_ended: bool) -> None:
        if is_ended:
            raise ShutdownError("the manager was shut down while the connection was registered")

    async def _claim(self, connection: Connection, websocket: Any) -> None:
        mailbox, began_s = self._mailboxes.entering(connection), connection.loop.time()
        try:
            await self.claims.claim(connection)
            self._state.histograms.claim.add(connection.loop.time() - began_s)
            await self.rooms.take_over(connection)
            if mailbox is not None:
                await mailbox
        except LOSSES:
            if not self._state.degrades:
                if connection.session is None:
                    within_s = self._state.config.close_timeout_s
                    await turn_away(websocket, close_codes.TRY_AGAIN_LATER, UNREACHABLE, within_s)
                raise
            await self.reclaims.later(connection)

    async def _refuse(self, websocket: Any, open_session: OpenSession | None) -> NoReturn:
        """Reject a new client during a drain. An accepted socket without a session is closed with 1012.

        Raises:
            DrainingError: Always.
        """
        if open_session is None:
            within_s = self._state.config.close_timeout_s
            await turn_away(websocket, close_codes.SERVICE_RESTART, wait_reason(soon_ms()), within_s)
        raise is_draining()

    # Disconnect

    async def end(self, connection: Connection, cause: CloseCause, code: int, reason: str) -> None:
        """Close a socket and release it, or wait for a close in progress. A cancelled caller cancels neither."""
        if self._forget(connection, cause):
            wind_up = self._wind_up(connection, connection.connection_id, code, reason)
            await asyncio.shield(self._state.tasks.spawn(wind_up, f"close-{connection.connection_id}"))
        else:
            await connection.wait_closed()

    async def close(
        self, connection: Connection, cause: CloseCause, code: int, reason: str, patience_s: float
    ) -> bool:
        """Close a socket and release it; return whether the close completed in time. False if it had ended before."""
        if not self._forget(connection, cause):
            return False
        return await self._wind_up(connection, connection.connection_id, code, reason, patience_s)

    def lost(self, connection: Connection, why: Ended, error: str) -> None:
        """Remove a socket that failed from all tables now. Close and release it in the background."""
        cause = OF_WRITES[why]
        if why is Ended.SLOW:
            self._state.counters.slow_consumers += connection.ended is None
            self._expire(connection, cause, close_codes.SLOW_CONSUMER, "slow consumer", error)
        elif connection.session is None:
            self._expire(connection, cause, close_codes.NORMAL, "normal closure", error)
        else:  # not NORMAL, after which a client of stabilizer.v1 stays away
            self._expire(connection, cause, close_codes.INTERNAL_ERROR, "a write failed", error)

    def gone(self, connection: Connection, error: str) -> None:
        """Remove and release a connection whose socket is closed. ``on_disconnect`` runs after its last message."""
        if connection in self._connecting:
            self._connecting[connection] = error  # connect() calls this again at its end
        elif self._forget(connection, CloseCause.PEER_GONE, error):
            connection_id = connection.connection_id
            wind_up = self._wind_up(connection, connection_id, close_codes.ABNORMAL, error)
            task = self._state.tasks.spawn(wind_up, f"close-{connection_id}")
            self._leaving.add(connection)
            task.add_done_callback(lambda _: self._leaving.discard(connection))

    def expire(self, connection: Connection, cause: CloseCause, code: int, reason: str) -> None:
        """Remove a socket from all tables now. Close it soon, at most ``max_concurrent_cleanup`` at a time."""
        self._expire(connection, cause, code, reason, "")

    def _expire(self, connection: Connection, cause: CloseCause, code: int, reason: str, error: str) -> None:
        if not self._forget(connection, cause, error):
            return
        self._to_close.append((connection, code, reason))
        if self._closers < self._state.config.max_concurrent_cleanup:
            self._closers += 1
            self._state.tasks.spawn(self._close_queued(), "close").add_done_callback(self._closer_ended)

    async def _close_queued(self) -> None:
        while self._to_close:
            connection, code, reason = self._to_close.popleft()
            await self._wind_up(connection, connection.connection_id, code, reason)

    def _closer_ended(self, _: "asyncio.Task[None]") -> None:
        self._closers -= 1

    def _forget(self, connection: Connection, cause: CloseCause, error: str = "") -> bool:
        if connection.session is not None and connection.ended is None and ENDED[cause] not in HOPELESS:
            self._history.members.ends(connection)
        if not connection.end(cause, error):
            return False
        self._state.shards.remove(connection)
        if connection.session is not None:
            rooms = [Channel("room", room) for room in connection.rooms]
            self._history.detach(connection, [ALL, box_of(connection.client_id), *rooms])
        self.budget.remove(connection)
        for room in connection.rooms:
            self.rooms.left(room)
        self._mailboxes.left(connection)
        return True

    async def _wind_up(
        self,
        connection: Connection,
        connection_id: ConnectionId,
        code: int,
        reason: str,
        patience_s: float = 0.0,
    ) -> bool:
        state, queued_bytes = self._state, connection.writer.queued_bytes
        code, reason = connection.closing(code, reason)
        release = state.tasks.spawn(self._release(connection, connection_id), "release")
        try:
            is_closed = await self._finish(connection, code, reason, patience_s)
        finally:  # only now it is known whether the client had sent a close frame
            code, reason = connection.closed_with or (code, reason)
            closed = state.ends.note(connection, connection_id, code, reason, queued_bytes)
        state.counters.close_timeouts += not is_closed
        await release
        self._log(closed)
        self._state.tail.closed(closed)
        hooks = state.hooks.on_disconnect
        await self._unhurried(hooks, state.hooks.run(hooks, connection, code, reason))
        return is_closed

    def _log(self, closed: ClosedConnection) -> None:
        self._events.log_connection(
            "disconnected",
            closed.client_id,
            cause=closed.cause.value,
            code=closed.code,
            duration_seconds=closed.lasted_s,
            silent_seconds=closed.silent_s,
            error=closed.error,
        )

    async def _unhurried(self, hooks: Sized, coroutine: Coroutine[Any, Any, object]) -> None:
        """Wait for the application's hooks for at most ``close_timeout_s``. Slow hooks continue in the background."""
        if not hooks:
            await coroutine
            return
        task = self._state.tasks.spawn(coroutine, "hooks")
        await asyncio.wait([task], timeout=self._state.config.close_timeout_s)

    async def _finish(self, connection: Connection, code: int, reason: str, patience_s: float) -> bool:
        """Close a socket on its own event loop; return whether the close completed in time."""
        if connection.loop is asyncio.get_running_loop():
            return await connection.finish(code, reason, patience_s)
        if connection.loop.is_closed():
            return False
        closing = connection.finish(code, reason, patience_s)
        try:
            async with asyncio.timeout(2 * self._state.config.close_timeout_s + patience_s):
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(closing, connection.loop))
        except TimeoutError:
            return False

    async def _release(self, connection: Connection, connection_id: ConnectionId) -> None:
        try:
            with suppress(*LOSSES):  # the places are released all the same
                await self.rooms.give_back(connection)
            known_id = self.reclaims.known_id(connection, connection_id)
            # A room that is being joined is left by its join, because it may not be entered yet.
            rooms = [room for room in connection.rooms if not self.rooms.is_joining(connection, room)]
            lines = lines_of(connection, known_id, rooms)
            registration_of(connection).visit = ""  # only this release may report its end
            self.reclaims.released(connection)
            report = await self.claims.release(lines)
            await self._unhurried(self._state.hooks.on_presence, report)
        except LOSSES as error:
            self._trouble.log("not released yet", connection_id=connection_id, error=str(error))

    async def close_all(self, cause: CloseCause, code: int, reason: str, timeout_s: float) -> tuple[int, int]:
        """End every connection; return how many sockets closed and how many failed to within ``timeout_s``."""
        connections = [connection for connection in self._state.shards if self._forget(connection, cause)]
        for connection in tuple(self._leaving):
            with suppress(RuntimeError):  # its loop is closed
                connection.loop.call_soon_threadsafe(connection.abort)
        waiting, outcomes = deque(connections), []

        async def close_some() -> None:
            while waiting:
                connection = waiting.popleft()
                outcomes.append(await self._wind_up(connection, connection.connection_id, code, reason))

        width = min(len(connections), self._state.config.max_concurrent_cleanup)
        workers = [self._state.tasks.spawn(close_some(), "close") for _ in range(width)]
        if workers:
            _, late = await asyncio.wait(workers, timeout=max(timeout_s, LEAST_S))
            for worker in late:
                worker.cancel()
        for connection in waiting:  # no time is left for a close, but presence must be correct
            self._state.ends.note(connection, connection.connection_id, code, reason, 0)
            connection.let_go()
            self._state.tasks.spawn(self._release(connection, connection.connection_id), "release")
        return sum(outcomes), len(connections) - sum(outcomes)
