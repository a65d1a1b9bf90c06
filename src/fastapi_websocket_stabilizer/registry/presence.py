"""Presence events: built in one place, reported to the application, and confirmed to the store.

The store notes each event in the same step as the change that caused it, and keeps the note until ``confirm``.
So a change whose answer was lost, or whose node died, is still reported, under the same id.
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
"""Events in one round trip to the store."""
REMEMBERED_EVENTS = 10_000
"""Presence events remembered, so that none is reported twice by one process."""


def joined(place: IndexEntry) -> PresenceEvent:
    """Return the event that a visit began, or a stay in a room."""
    visit = visit_of(place.connection_id) if place.room is None else place.stay_id
    return _event(place, "joined", "room_joined", visit)


def left(place: IndexEntry, visit: str) -> PresenceEvent:
    """Return the event that a visit ended, or a stay in a room."""
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
    """Runs the presence hooks of this node, each event once, and tells the store."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._begun: OrderedDict[str, None] = OrderedDict()
        self._joining: dict[str, asyncio.Task[None]] = {}
        # Places whose beginning is still to be confirmed; each beat.
        self._unconfirmed: dict[str, IndexEntry] = {}

    def joined(self, place: IndexEntry) -> "asyncio.Task[None] | None":
        """Report that a visit or a stay began. A task of its own: a cancelled caller does not cut the hooks short.

        Without hooks there is no task: the next beat confirms the event, together with others.
        """
        event_id = place.event("joined")
        if not self._state.hooks.on_presence:
            self._unconfirmed[event_id] = place
            return None
        task = self._joining[event_id] = self._state.tasks.spawn(self._joined(place), "joined")
        task.add_done_callback(lambda _: self._joining.pop(event_id, None))
        return task

    async def _joined(self, place: IndexEntry) -> None:
        await self.report(joined(place))
        try:
            await self.confirm(place, "joined")
        except LOSSES:
            self._unconfirmed[place.event("joined")] = place

    def has_begun(self, place: IndexEntry) -> bool:
        """Whether this process reports, or has reported, that a visit or a stay began."""
        return place.event("joined") in self._joining or joined(place).event_id in self._begun

    async def follow(self, place: IndexEntry, event: PresenceEvent) -> None:
        """Report the next event of a place, behind its beginning."""
        if (joining := self._joining.get(place.event("joined"))) is not None:
            await asyncio.wait([joining])
        await self.report(event)

    async def report(self, event: PresenceEvent) -> None:
        """Run the hooks, unless that was begun before: a repeated release and a sweep notice the same event."""
        if event.event_id in self._begun:
            return
        self._begun[event.event_id] = None
        if len(self._begun) > REMEMBERED_EVENTS:
            self._begun.popitem(last=False)
        await self._state.hooks.run(self._state.hooks.on_presence, event)

    async def confirm(self, place: IndexEntry, *kinds: str) -> None:
        """Tell the store that the application knows."""
        await self._state.backend.presence.reported(place, *kinds)

    async def repeat_confirmations(self) -> None:
        """Confirm what waits for it, and what Redis did not take."""
        while events := tuple(islice(self._unconfirmed, CONFIRMED_AT_ONCE)):
            await self._state.backend.presence.begun([self._unconfirmed[event_id] for event_id in events])
            for event_id in events:
                self._unconfirmed.pop(event_id, None)
