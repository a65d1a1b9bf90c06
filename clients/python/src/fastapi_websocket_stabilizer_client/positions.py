"""Positions in logs: what the next cursor says."""

import json
from collections import deque
from collections.abc import Sequence

from .frames import Hi, LostLog, Positions
from .messages import EVERYBODY, Log

KEYS = 256
"""Messages to several rooms that are remembered, so that each is given to the application once."""


class Place:
    """The positions of a client, kept across connections."""

    def __init__(self) -> None:
        self._session = ""
        self._t = 0
        self._at: dict[Log, int] = {}
        self._keys: deque[str] = deque(maxlen=KEYS)
        self._is_known: set[str] = set()

    @property
    def session(self) -> str:
        """The last session, "" before the first."""
        return self._session

    def cursor(self) -> str | None:
        """Return the text of the cursor, or None before the first connection."""
        if not self._session:
            return None
        rooms = {log: position for log, position in self._at.items() if isinstance(log, str)}
        cursor: dict[str, object] = {"s": self._session, "t": self._t, "at": rooms}
        for key, log in _OTHER_LOGS:
            if log in self._at:
                cursor[key] = self._at[log]
        return json.dumps(cursor, ensure_ascii=False, separators=(",", ":"))

    def begin(self, hi: Hi, *, had_cursor: bool) -> Sequence[LostLog]:
        """Replace the positions by those of ``hi``, and return the logs that lost continuity."""
        lost = list(hi.lost)
        if had_cursor and hi.outcome is None:
            lost += self._jumps(hi, {row.log for row in lost})
        self._session, self._t = hi.session, hi.t
        for _, log in _OTHER_LOGS:
            self._at.pop(log, None)
        self.move_all(hi.at)
        self.lose(lost)
        return lost

    def _jumps(self, hi: Hi, named: set[Log]) -> list[LostLog]:
        """Return the logs whose position is another one although the server saw no cursor."""
        return [
            LostLog(log, position, "unknown")
            for log, position in _by_log(hi.at).items()
            if position is not None and log not in named and self._at.get(log, position) != position
        ]

    def move(self, log: Log, id_: int) -> None:
        """Set a position. Ids are not compared: after a failover of Redis they can be smaller."""
        self._at[log] = id_

    def move_all(self, at: Positions) -> None:
        """Set the positions that a frame names. A room without history has none."""
        for log, position in _by_log(at).items():
            self.join(log, position)

    def join(self, log: Log, position: int | None) -> None:
        """Set the position of a log, or remove it if the log has no history."""
        if position is None:
            self._at.pop(log, None)
        else:
            self._at[log] = position

    def leave(self, room: str) -> None:
        """Forget a room, because the connection has left it."""
        self._at.pop(room, None)

    def lose(self, lost: Sequence[LostLog]) -> None:
        """Continue each log behind what it lost."""
        for row in lost:
            self._at[row.log] = row.top

    def hear(self, t: int) -> None:
        """Note up to when the server has received everything."""
        self._t = t

    def is_repeated(self, key: str) -> bool:
        """Return whether a message came through another room before, and remember it."""
        if key in self._is_known:
            return True
        if len(self._keys) == KEYS:
            self._is_known.discard(self._keys[0])
        self._keys.append(key)
        self._is_known.add(key)
        return False


_OTHER_LOGS: tuple[tuple[str, Log], ...] = (("all", EVERYBODY), ("box", 0))


def _by_log(at: Positions) -> dict[Log, int | None]:
    """Return positions by log. The other two logs are left out if the frame does not name them."""
    named = dict[Log, int | None](at.rooms.items())
    for (_, log), position in zip(_OTHER_LOGS, (at.everybody, at.mailbox), strict=True):
        if position is not None:
            named[log] = position
    return named
