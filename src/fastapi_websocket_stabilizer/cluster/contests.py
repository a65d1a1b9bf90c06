"""Clients whose sockets displace one another again and again, as two tabs do whose library always reconnects."""

import logging

from ..runtime.logs import Occasionally
from ..runtime.loops import running_loop

WINDOW_S = 60.0
AT_MOST = 5
"""Displacements of one client within a window that are no contest: reloads, networks that change."""
MAX_CLIENTS = 10_000
"""Clients whose displacements are counted at a time; with one more, counting begins anew."""

CONTEST = (
    "client %r was displaced %d times within a minute: its sockets displace one another, since its client library "
    "reconnects after close code %d. Set max_connections_per_client, or displaced_code to a code that stops it"
)


class Contests:
    """Counts displacements per client, and warns of a contest once a minute at most."""

    def __init__(self, log: logging.Logger) -> None:
        self._warning = Occasionally(log)
        self._counts: dict[str, int] = {}
        self._ends_at_s = 0.0

    def displaced(self, client_id: str, code: int) -> None:
        """Count one displacement of a socket that was closed with ``code``."""
        now_s = running_loop().time()
        if now_s >= self._ends_at_s or len(self._counts) >= MAX_CLIENTS:
            self._counts.clear()
            self._ends_at_s = now_s + WINDOW_S
        count = self._counts[client_id] = self._counts.get(client_id, 0) + 1
        if count > AT_MOST:
            self._warning.log(CONTEST % (client_id, count, code))
