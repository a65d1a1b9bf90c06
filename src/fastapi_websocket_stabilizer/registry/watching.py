"""Presence for clients: has the members of rooms sent to the connections of this node that watch them.

There is one state for each watched room, however many watch it, and one read of the store at a time. Changes are
gathered, so that a storm of joins costs each watcher a few frames.
"""

import asyncio
import json
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from ..backends.rosters import RosterRead
from ..exceptions import LOSSES
from ..local.connection import Connection
from ..runtime.loops import running_loop
from ..wire.client_frames import Member, presence_diff, presence_snapshot
from ..wire.envelopes import Envelope
from ..wire.messages import ControlFrame
from .directory import FOREIGN, read_object
from .roster import Change, Diff, Roster
from .state import NodeState

GATHER_S = 0.1
"""Seconds in which changes of a room are gathered into one frame."""
BYTES_PER_S = 32 * 1024 * 1024
"""Bytes of changes that one room may cause on this node. After more of them the next pause is longer."""
LONGEST_GATHER_S = 5.0
AGAIN_S = 1.0
"""Seconds after which a connection is sent all members of a room again, since they may be many."""


class Watched:
    """One room with watchers on this node.

    Attributes:
        watchers: Connections that have the members of ``roster.told``.
        waiting: Connections that have asked, and the version that each has.
        answered_s: Time at which connections were last sent all members, the oldest first. Those that no longer
            matter are forgotten with the next frame.
        is_wanted: There is something to do.
        is_served: A task does it.
        losses: Number of times that changes may have been lost.
    """

    def __init__(self) -> None:
        self.roster: Roster = Roster()
        self.watchers: dict[Connection, None] = {}
        self.waiting: dict[Connection, int] = {}
        self.answered_s: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        self.is_wanted: bool = False
        self.is_served: bool = False
        self.losses: int = 0
        self.next_at_s: float = 0.0

    def forget_answers(self, now_s: float) -> None:
        """Forget the connections that may be sent all members again."""
        while (oldest := next(iter(self.answered_s.items()), None)) and now_s - oldest[1] >= AGAIN_S:
            self.answered_s.pop(oldest[0], None)


class Watching:
    """Serves the connections of this node that watch rooms."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._rooms: dict[str, Watched] = {}

    def watch(self, connection: Connection, room: str, version: int) -> bool:
        """Send the members of a room to a connection that has this version, and then their changes.

        Return False if the connection is not in the room, or clients may not watch it.
        """
        if room not in connection.rooms or not self._state.may_be_watched(room):
            return False
        watched = self._rooms.get(room)
        if watched is None:
            watched = self._rooms[room] = Watched()
        watched.watchers.pop(connection, None)
        watched.waiting[connection] = version
        self._want(room, watched)
        return True

    def unwatch(self, connection: Connection, room: str) -> None:
        """Send no more changes of a room to a connection."""
        watched = self._rooms.get(room)
        if watched is not None:
            watched.watchers.pop(connection, None)
            watched.waiting.pop(connection, None)
            self._forget_if_idle(room, watched)

    def on_change(self, envelope: Envelope) -> None:
        """Take a change that the store has published.

        Raises:
            ValueError: It is malformed.
        """
        (room,), entry = envelope.targets, envelope.entry
        watched = self._rooms.get(room)
        if watched is None or entry is None:
            return
        match json.loads(envelope.body):
            case [str(client_id)]:
                metadata = None
            case [str(client_id), dict(metadata)]:
                pass
            case _:
                raise ValueError("change of presence is not a client and its metadata")
        was_known = watched.roster.is_known
        is_known = watched.roster.change(Change(entry[0], client_id, metadata))
        self._state.counters.presence_gaps += was_known and not is_known
        self._want(room, watched)

    def gap(self) -> None:
        """Read all rooms again, because changes may have been lost. A read that is under way does not count."""
        for room, watched in self._rooms.items():
            watched.losses += 1
            watched.roster.lose()
            self._want(room, watched)

    def repeat(self) -> None:
        """Try the reads again that Redis has not answered."""
        for room, watched in self._rooms.items():
            if not watched.roster.is_known:
                self._want(room, watched)

    def left(self, room: str) -> None:
        """Forget a room that has no local member any more."""
        self._rooms.pop(room, None)

    def _forget_if_idle(self, room: str, watched: Watched) -> None:
        if not watched.watchers and not watched.waiting and self._rooms.get(room) is watched:
            del self._rooms[room]

    def _want(self, room: str, watched: Watched) -> None:
        watched.is_wanted = True
        if not watched.is_served:
            watched.is_served = True
            self._state.tasks.spawn(self._serve(room, watched), "watch")

    async def _serve(self, room: str, watched: Watched) -> None:
        try:
            while watched.is_wanted and self._rooms.get(room) is watched:
                await asyncio.sleep(max(0.0, watched.next_at_s - running_loop().time()))
                watched.is_wanted = False
                if watched.roster.is_known or await self._read(room, watched):
                    self._tell(room, watched)
        finally:
            watched.is_served = False

    async def _read(self, room: str, watched: Watched) -> bool:
        """Read the members; return whether they are known. A beat tries again what Redis does not answer."""
        watched.next_at_s = running_loop().time() + GATHER_S
        if room not in self._state.subscribed:  # later changes would not be received
            watched.is_wanted = room in self._state.shards.rooms
            return False
        losses = watched.losses
        try:
            self._state.check_reachable()
            found = await self._state.backend.rosters.read(room)
        except LOSSES:
            return False
        if losses == watched.losses and watched.roster.load(found.version, self._members(found)):
            watched.waiting |= dict.fromkeys(watched.watchers, 0)
            watched.watchers.clear()
        watched.is_wanted |= not watched.roster.is_known
        return watched.roster.is_known

    def _members(self, found: RosterRead) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for client_id, metadata in found.members.items():
            try:
                members[client_id] = read_object(metadata)
            except FOREIGN:
                self._state.counters.redis_malformed += 1
        return members

    def _tell(self, room: str, watched: Watched) -> None:
        watched.forget_answers(running_loop().time())
        watchers = [c for c in watched.watchers if c.ended is None and room in c.rooms]
        size = 0
        if watched.roster.is_due:
            diff = watched.roster.tell()
            if diff is None:
                watched.waiting |= dict.fromkeys(watchers, 0)
                watchers = []
            else:
                size = self._send(watchers, [_changes(room, diff)])
        watched.watchers = dict.fromkeys(watchers)
        self._answer(room, watched)
        pause_s = min(LONGEST_GATHER_S, max(GATHER_S, size / BYTES_PER_S))
        watched.next_at_s = running_loop().time() + pause_s
        self._forget_if_idle(room, watched)

    def _answer(self, room: str, watched: Watched) -> None:
        """Send those that have asked what they lack, with one frame for all that lack the same."""
        asked: dict[int, list[Connection]] = {}
        waiting, watched.waiting = watched.waiting, {}
        for connection, version in waiting.items():
            if connection.ended is None and room in connection.rooms:
                asked.setdefault(version, []).append(connection)
        snapshot: list[ControlFrame] = []
        for version, connections in asked.items():
            diff = watched.roster.since(version) if version else None
            if diff is None:
                connections = self._not_too_often(watched, connections, version)
                snapshot = snapshot or _all_members(room, watched.roster)
                self._state.counters.presence_snapshots += len(connections)
                self._send(connections, snapshot)
            elif diff.version != version:
                self._send(connections, [_changes(room, diff)])
            watched.watchers |= dict.fromkeys(connections)

    @staticmethod
    def _not_too_often(watched: Watched, connections: list[Connection], version: int) -> list[Connection]:
        """Return the connections that may be sent all members now. The others wait."""
        now_s, ready = running_loop().time(), []
        watched.forget_answers(now_s)
        for connection in connections:
            if connection not in watched.answered_s:
                watched.answered_s[connection] = now_s
                ready.append(connection)
            else:
                watched.waiting[connection] = version
                watched.is_wanted = True
        return ready

    def _send(self, connections: Iterable[Connection], frames: list[ControlFrame]) -> int:
        size = 0
        for connection in connections:
            for frame in frames:
                connection.push(frame)
                size += frame.size
        return size


def _changes(room: str, diff: Diff) -> ControlFrame:
    arrived = [Member(*each) for each in diff.arrived.items()]
    return ControlFrame(presence_diff(room, diff.version, arrived, diff.departed, after=diff.after))


def _all_members(room: str, roster: Roster) -> list[ControlFrame]:
    members = (Member(*each) for each in roster.members.items())
    return [ControlFrame(frame) for frame in presence_snapshot(room, roster.version, members)]
