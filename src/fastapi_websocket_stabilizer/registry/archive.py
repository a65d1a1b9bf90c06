"""Stored messages for the application: pages of a log, and its deletion."""

from datetime import UTC, datetime, timedelta
from typing import Any

from ..backends.log_ports import LogEntry, LogName
from ..exceptions import ConfigurationError, InvalidCursorError
from ..models import HistoryEntry, HistoryPage
from ..wire.messages import Encoded, Form
from .history import History
from .logs import name_of
from .state import NodeState

MAX_PAGE = 1000
"""Entries on a page, at most."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Archive:
    """Reads and deletes logs. Calls go to Redis, also for rooms without members here."""

    def __init__(self, state: NodeState, history: History) -> None:
        self._state, self._history = state, history

    async def page(self, room: str, limit: int, before: int | None) -> HistoryPage:
        """Return the newest entries of a room, or with "" of everybody, with ids below ``before``.

        Raises:
            ConfigurationError: The room has no history.
            InvalidCursorError: ``before`` is not an id.
        """
        log = self._checked(name_of(room))
        if before is not None and (type(before) is not int or before < 1):
            raise InvalidCursorError(f"before must be the cursor of a page or None, got {str(before)[:80]!r}")
        self._state.check_reachable()
        count = min(max(1, limit), MAX_PAGE)
        found = await self._state.backend.logs.page(log, before, count)
        cursor = found[0].id if len(found) == count else None
        return HistoryPage(tuple(map(_shown, found)), cursor)

    async def delete(self, room: str) -> bool:
        """Remove the entries of a room, or with "" of everybody; return whether there was a log.

        Raises:
            ConfigurationError: The room has no history.
        """
        log = self._checked(name_of(room))
        self._state.check_reachable()
        notice = self._state.outgoing.lost((room,) if room else (), "reset")
        return await self._state.backend.logs.delete(log, notice) > 0

    def _checked(self, log: LogName) -> LogName:
        if self._history.policy.bounds(log) is None:
            where, setting = (
                ("room " + repr(log.name), "history") if log.name else ("everybody", "history_for_all")
            )
            raise ConfigurationError(f"{where} has no history: set {setting}")
        return log


def _shown(entry: LogEntry) -> HistoryEntry:
    message: Encoded = entry.envelope.message()
    value: Any = message.value if message.form is Form.JSON else message.payload
    return HistoryEntry(entry.id, value, EPOCH + timedelta(microseconds=entry.id))
