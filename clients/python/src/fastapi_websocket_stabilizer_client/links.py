"""One connection, before ``hi`` and after."""

from dataclasses import dataclass

from .liveness import Liveness


@dataclass(slots=True)
class Attempt:
    """A connection before ``hi``."""

    generation: int
    deadline_s: float
    is_dialed: bool = False
    is_open: bool = False
    cursor: str | None = None
    is_cursor_first: bool = False


@dataclass(slots=True)
class Link:
    """A connection after ``hi``."""

    generation: int
    liveness: Liveness
    awaits_outcome: bool
    live_since_s: float | None = None
    next_handover_s: float | None = None
    may_replace_itself: bool = False
    """An attempt beside it has failed. Its session is unknown, and may yet take the place of this connection."""
