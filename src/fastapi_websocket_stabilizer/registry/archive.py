"""Stored messages for the application: pages of a log, and its deletion."""

from datetime import UTC, datetime, timedelta
from typing import Any

from ..backends.log_ports import LogEntry, LogKind, LogName
from ..exceptions import ConfigurationError, InvalidCursorError
from ..models import HistoryEntry, HistoryPage
from ..wire.messages import Encoded, Form
from .history import History
from .logs import channel_of, targets_of
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
            ConfigurationError: The room has no history, or ``limit`` is no whole number.
            InvalidCursorError: ``before`` is not an id.
        """
        if type(limit) is not int:
            raise ConfigurationError(f"limit must be a whole number of messages, got {limit!r:.80}")
        log = self._checked(_log_of(room))
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
        return await self._delete(self._checked(_log_of(room)))

    async def delete_mailbox(self, client_id: str) -> bool:
        """Remove the entries of a mailbox, and its mark; return whether there was one.

        Raises:
            ConfigurationError: There are no mailboxes.
        """
        return await self._delete(self._checked(LogName(LogKind.BOX, client_id)))

    async def _delete(self, log: LogName) -> bool:
        self._state.check_reachable()
        notice = self._state.outgoing.lost(targets_of(channel_of(log)), "reset")
        return await self._state.backend.logs.delete(log, notice) > 0

    def _checked(self, log: LogName) -> LogName:
        if self._history.policy.bounds(log) is None:
            raise ConfigurationError(_ABSENT[log.kind].format(log.name))
        return log


_ABSENT = {
    LogKind.ROOM: "room {!r} has no history: set history",
    LogKind.ALL: "everybody has no history: set history_for_all",
    LogKind.BOX: "client {!r} has no mailbox: set mailbox",
}


def _log_of(room: str) -> LogName:
    """Return the log of a room, or with "" that of everybody."""
    return LogName(LogKind.ROOM, room) if room else LogName(LogKind.ALL)


def _shown(entry: LogEntry) -> HistoryEntry:
    message: Encoded = entry.envelope.message()
    value: Any = message.value if message.form is Form.JSON else message.payload
    return HistoryEntry(entry.id, value, EPOCH + timedelta(microseconds=entry.id))
