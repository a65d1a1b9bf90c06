"""Presence events: created in one place, reported to the application, and confirmed to the store.

The store notes each event in the same step as its change, and keeps the note until ``confirm``. So a change is
reported with the same id even if its answer is lost or its node dies.
"""

import asyncio
from collections import OrderedDict
from itertools import islice
from typing import Literal

from ..backends.ports import IndexEntry
from ..exceptions import LOSSES
from ..models import PresenceEvent
from ..names import node_of, visit_of
from .state import NodeState

CONFIRMED_AT_ONCE = 1000
"""Maximum number of events in one round trip to the store."""
REMEMBERED_EVENTS = 10_000
"""Number of remembered events, so that a process reports none twice."""


def joined(place: IndexEntry) -> PresenceEvent:
    """Return the event for the begin of a visit, or of a stay in a room."""
    visit = visit_of(place.connection_id) if place.room is None else place.stay_id
    return _event(place, "joined", "room_joined", visit)


def left(place: IndexEntry, visit: str) -> PresenceEvent:
    """Return the event for the end of a visit, or of a stay in a room."""
    return _event(place, "left", "room_left", visit)


def _event(
    place: IndexEntry,
    kind: Literal["joined", "left"],
    in_room: Literal["room_joined", "room_left"],
    visit: str,
) -> PresenceEvent:
    return PresenceEvent(
        f"{visit}:{kind}" if place.room is None else f"{visit}:{kind}:{place.room}",
        kind if place.room is None else in_room,
        place.client_id,
        place.connection_id,
        place.room,
        node_of(place.connection_id),
    )


class Reports:
    """Runs the presence hooks, once for each event, and confirms the events to the store."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._begun: OrderedDict[str, None] = OrderedDict()
        self._joining: dict[str, asyncio.Task[None]] = {}
        # Places with an unconfirmed "joined" event. Each beat confirms them.
        self._unconfirmed: dict[str, IndexEntry] = {}

    def joined(self, place: IndexEntry) -> "asyncio.Task[None] | None":
        """Report the begin of a visit or a stay, in a task, so that a cancelled caller does not cancel the hooks.

        Without hooks there is no task, and the next beat confirms the event together with others.
        """
        event_id = place.event("joined")
        if not self._state.hooks.on_presence:
            self._unconfirmed[event_id] = place
            return None
        task = self._joining[event_id] = self._state.tasks.spawn(self._joined(place), "joined")
        task.add_done_callback(lambda _: self._joining.pop(event_id, None))
        return task

    async def _joined(self, place: IndexEntry) -> None:
        if not await self.report(joined(place)):
            return
        try:
            await self.confirm(place, "joined")
        except LOSSES:
            self._unconfirmed[place.event("joined")] = place

    def has_begun(self, place: IndexEntry) -> bool:
        """Whether this process reports, or has reported, that a visit or a stay began."""
        return place.event("joined") in self._joining or joined(place).event_id in self._begun

    async def follow(self, place: IndexEntry, event: PresenceEvent | None) -> bool:
        """Report the next event of a place after its "joined" event. Return whether none is left to a sweeper."""
        if event is None:
            return True
        if (joining := self._joining.get(place.event("joined"))) is not None:
            await asyncio.wait([joining])
        return await self.report(event)

    async def report(self, event: PresenceEvent) -> bool:
        """Run the hooks, unless they were run before: a repeated release and a sweep find the same event.

        Return False if the shutdown has no time left for them. A sweeper reports the event then.
        """
        if event.event_id in self._begun:
            return True
        if self._state.is_out_of_time:
            return False
        self._begun[event.event_id] = None
        if len(self._begun) > REMEMBERED_EVENTS:
            self._begun.popitem(last=False)
        await self._state.hooks.run(self._state.hooks.on_presence, event)
        return True

    async def confirm(self, place: IndexEntry, *kinds: str) -> None:
        """Confirm to the store that the application has received the events."""
        await self._state.backend.presence.reported(place, *kinds)

    async def repeat_confirmations(self) -> None:
        """Send the pending confirmations."""
        while events := tuple(islice(self._unconfirmed, CONFIRMED_AT_ONCE)):
            await self._state.backend.presence.begun([self._unconfirmed[event_id] for event_id in events])
            for event_id in events:
                self._unconfirmed.pop(event_id, None)
