"""The members of a room, from snapshots and changes."""

from collections.abc import Mapping
from typing import Any

from .frames import Change, Snapshot

PATIENCE_S = 5.0
"""Seconds after which a change that does not follow is a reason to ask once more."""


class Presence:
    """The members of one room.

    Attributes:
        version: That of the list, 0 before the first snapshot.
        is_watched: Whether the application wants the list. Without it, pages that are on their way are still taken,
            because they cannot be told from those of a later snapshot.
    """

    def __init__(self) -> None:
        self.version: int = 0
        self.is_watched: bool = True
        self._members: dict[str, Any] = {}
        self._pages: dict[str, Any] = {}
        self._pages_version: int | None = None
        self._asked_s: float | None = None

    @property
    def members(self) -> Mapping[str, Any]:
        """A copy of the list: metadata by client id."""
        return dict(self._members)

    def asked(self, now_s: float) -> None:
        """Note that the list was asked for."""
        self._asked_s = now_s

    def interrupt(self) -> None:
        """Begin another connection: the other pages of a snapshot do not come any more."""
        self._pages, self._pages_version, self._asked_s = {}, None, None

    def snapshot(self, page: Snapshot) -> bool:
        """Take a page, and return whether the list is a new one now."""
        if self._pages_version != page.version:
            self._pages, self._pages_version = {}, page.version
        self._pages.update(page.members)
        if page.more:
            return False
        self._members, self.version = self._pages, page.version
        self._pages, self._pages_version, self._asked_s = {}, None, None
        return True

    def change(self, change: Change) -> bool:
        """Apply a change, and return False if it does not follow the version of the list."""
        if change.after != self.version:
            return False
        for client in change.departed:
            self._members.pop(client, None)
        self._members.update(change.arrived)
        self.version, self._asked_s = change.version, None
        return True

    def must_ask(self, now_s: float) -> bool:
        """Return whether to ask after a change that does not follow: not while an answer is on its way."""
        return self.is_watched and (self._asked_s is None or now_s - self._asked_s >= PATIENCE_S)

    def clear(self) -> None:
        """Forget the list, because the connection left the room."""
        self.version, self._members = 0, {}
        self.interrupt()
