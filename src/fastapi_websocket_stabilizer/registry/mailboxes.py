"""The mailboxes of clients with connections here: subscribed, fed, and marked as handled."""

import asyncio

from ..backends.log_ports import LogBounds
from ..backends.ports import Bus
from ..exceptions import LOSSES
from ..local.connection import Connection
from ..wire.channels import box_of
from .history import History
from .logs import name_of
from .state import NodeState

MAX_MARKS = 8
"""Marks of a connection that wait to be written. With more of them the lowest ones are skipped: a mark only rises."""


class Mailboxes:
    """The node is subscribed to the mailbox of a client while the client has a connection here."""

    def __init__(self, state: NodeState, bus: Bus, history: History) -> None:
        self._state, self._bus, self._history = state, bus, history
        self._marks: dict[
            Connection, set[int]
        ] = {}  # of each connection that writes one; those not written yet

    @property
    def bounds(self) -> LogBounds | None:
        """The bounds of each mailbox; None if there are none."""
        return self._history.policy.mailbox

    def entering(self, connection: Connection) -> "asyncio.Task[None] | None":
        """Add a connection, in the step that registers it. Return the confirmation of its subscription to wait for.

        From then on a plain socket is sent what is stored. One with a session waits for ``attach``.

        Raises from the task:
            BackendUnavailableError: Redis did not answer, and ``on_backend_loss`` is "refuse".
        """
        if self.bounds is None:
            return None
        channel = box_of(connection.client_id)
        self._history.entered(channel)
        if not self._history.hold(connection, channel):
            self._history.follow(channel)
        return self._state.tasks.spawn(self._subscribe(connection.client_id), "open-mailbox")

    async def _subscribe(self, client_id: str) -> None:
        try:
            await self._bus.subscribe_box(client_id)
        except LOSSES:
            if not self._state.degrades:
                raise  # otherwise the bus subscribes when it is back
        if self._state.shards.has_client(client_id):
            self._state.boxes.add(client_id)
            self._history.entered(box_of(client_id))

    async def attach(self, connection: Connection) -> None:
        """Feed a connection with a session from its cursor, or from its mark; see ``History.attach``."""
        if self.bounds is not None:
            await self._history.attach(connection, box_of(connection.client_id))

    def left(self, connection: Connection) -> None:
        """Unsubscribe if the client has no other connection here."""
        client_id = connection.client_id
        if self.bounds is None or self._state.shards.has_client(client_id):
            return
        channel = box_of(client_id)
        self._state.boxes.discard(client_id)
        self._history.left(channel)
        self._bus.unsubscribe_box(client_id)
        self._state.in_flight.give_up(channel)

    # Marks

    def handled(self, connection: Connection, entry: int) -> None:
        """Note that the client has handled its mailbox up to an entry. A connection writes one mark at a time."""
        if not entry:
            return  # before the first one
        waiting = self._marks.get(connection)
        if waiting is None:
            self._marks[connection] = {entry}
            self._state.tasks.spawn(self._write(connection), "mark-mailbox")
            return
        waiting.add(entry)
        if len(waiting) > MAX_MARKS:
            waiting.remove(min(waiting))

    async def _write(self, connection: Connection) -> None:
        """Write the highest mark that the mailbox has reached. Only the store knows which ones it has not."""
        log, waiting = name_of(box_of(connection.client_id)), self._marks[connection]
        try:
            while waiting and self.bounds is not None:
                entry = max(waiting)
                is_reached = await self._state.backend.logs.mark(log, entry, self.bounds.seconds)
                self._state.counters.mailbox_marks_refused += not is_reached
                if is_reached:
                    waiting.difference_update([each for each in waiting if each <= entry])
                else:
                    waiting.discard(entry)
        except LOSSES:
            pass  # without a cursor the client gets those messages again
        finally:
            del self._marks[connection]
