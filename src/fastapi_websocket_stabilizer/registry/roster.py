"""The members of one room that clients watch, on one node: by versions, from a read and the changes after it.

The store gives each change a version, one more than the one before (``backends/rosters``). The law of this machine:
``members`` are those of the store at ``version``. A change that does not follow shows that one was lost. Then
nothing is told until a read has closed the gap.
"""

from collections import deque
from collections.abc import Mapping
from itertools import takewhile
from typing import Any, NamedTuple

MAX_CHANGES = 2000
"""Changes of a room that are remembered. A client that missed more gets all members."""


class Change(NamedTuple):
    """One client arrived, or has other metadata, or left (``metadata`` is None)."""

    version: int
    client_id: str
    metadata: Any


class Diff(NamedTuple):
    """The changes after one version, up to and including another. Each client is in one of the two at most once."""

    after: int
    version: int
    arrived: dict[str, Any]
    departed: list[str]


class Roster:
    """Members of one room, and what this node's watchers were told of them.

    Attributes:
        members: Metadata of each client, which is never None.
        version: Their version.
        told: The version that the watchers have.
        is_known: Whether no change is missing.
    """

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.version: int = 0
        self.told: int = 0
        self.is_known: bool = False
        self._changes: deque[Change] = deque()
        self._base = 0  # version before the first of them
        self._early: deque[Change] = deque(maxlen=MAX_CHANGES)  # while a read is awaited

    def change(self, change: Change) -> bool:
        """Take a change; return whether ``is_known``. An old one is ignored."""
        if not self.is_known:
            self._early.append(change)
        elif change.version == self.version + 1:
            self._apply(change)
        elif change.version > self.version:
            self.lose()
            self._early.append(change)
        return self.is_known

    def lose(self) -> None:
        """Note that changes may have been lost, so that a read is needed. It counts if it was sent after this."""
        self.is_known = False
        self._early.clear()

    def load(self, version: int, members: Mapping[str, Any]) -> bool:
        """Take the result of a read. Return whether the watchers must be sent all members.

        That is so at first, and if the store has lost changes that this node has seen.
        """
        is_new = not self.version or version < self.version
        changed = [Change(version, *each) for each in members.items() if self.members.get(each[0]) != each[1]]
        changed += [Change(version, name, None) for name in self.members if name not in members]
        if is_new or (version == self.version and changed):
            self._changes.clear()
            self.members, self._base, is_new = dict(members), version, True
            self.version = version
        else:
            for each in changed:
                self._apply(each)
            self.version = version
        self.is_known = True
        early, self._early = self._early, deque(maxlen=MAX_CHANGES)
        for each in early:
            self.change(each)
        if is_new:
            self.told = self.version  # the watchers are sent all members as they are now
        return is_new

    def _apply(self, change: Change) -> None:
        self.version = change.version
        if change.metadata is None:
            self.members.pop(change.client_id, None)
        else:
            self.members[change.client_id] = change.metadata
        self._changes.append(change)
        while len(self._changes) > MAX_CHANGES:
            self._base = self._changes.popleft().version

    @property
    def is_due(self) -> bool:
        """Whether the watchers have an older version than this node."""
        return self.is_known and self.told != self.version

    def tell(self) -> Diff | None:
        """Return what to send to all watchers; None if they must be sent all members. They have it from now on."""
        diff = self.since(self.told)
        self.told = self.version
        return diff

    def since(self, version: int) -> Diff | None:
        """Return the changes after a version; None if they are not remembered."""
        if not self._base <= version <= self.version:
            return None
        newest_first = [*takewhile(lambda each: each.version > version, reversed(self._changes))]
        touched = dict.fromkeys(each.client_id for each in reversed(newest_first))
        arrived = {name: self.members[name] for name in touched if name in self.members}
        departed = [name for name in touched if name not in self.members]
        return Diff(version, self.version, arrived, departed)
