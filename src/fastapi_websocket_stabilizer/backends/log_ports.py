"""The interface of logs: stored messages of a room, of everybody, or of one client."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from ..wire.envelopes import Envelope, Kind


class LogKind(Enum):
    """The messages that a log has."""

    ROOM = "room"
    ALL = "all"
    BOX = "box"


class LogName(NamedTuple):
    """A log: of a room, of everybody (``name`` is ""), or the mailbox of a client."""

    kind: LogKind
    name: str = ""

    def has(self, envelope: Envelope) -> bool:
        """Whether the envelope is an entry of this log, by its targets."""
        if envelope.kind is not Kind.BROADCAST:
            return False
        return not envelope.targets if self.kind is LogKind.ALL else self.name in envelope.targets


@dataclass(frozen=True, slots=True)
class LogBounds:
    """The entries that a log keeps. It may exceed each bound by a quarter before the oldest entries are dropped.

    Attributes:
        messages: Number of entries.
        bytes: Bytes of entries: envelopes, with exclusions, and 8 for each id.
        seconds: Age of the oldest entry. Without appends the whole list expires after 1.125 to 1.25 times as long.
    """

    messages: int
    bytes: int
    seconds: int

    @property
    def most_bytes(self) -> int:
        """Bytes of entries that a log has at most before it is trimmed."""
        return self.bytes * 5 // 4


META_LASTS_S = 3600
"""Seconds after the last append for which the meta of a log is kept at least; three times ``LogBounds.seconds`` if
that is longer."""
ONCE_LASTS_S = 300
"""Seconds for which the key of an append is remembered."""


@dataclass(frozen=True, slots=True)
class Append:
    """A message to store in a log.

    Attributes:
        envelope: A broadcast to the room, to everybody or, for a mailbox, to its client. It is published as well.
        key: The application's name for this message, or "". A second append with it within ``ONCE_LASTS_S`` seconds
            returns the first one's id, and neither stores nor publishes.
        retry_age_s: Seconds since the first try of an append whose outcome is unknown; 0.0 for a first try. A retry
            with the same envelope finds the entry of the first try, if that was stored, and publishes nothing then.
    """

    log: LogName
    envelope: Envelope
    bounds: LogBounds
    key: str = ""
    retry_age_s: float = 0.0


class Trimmed(NamedTuple):
    """Entries that a log dropped, by the bound that they exceeded."""

    messages: int = 0
    bytes: int = 0
    age: int = 0


NOT_TRIMMED = Trimmed()


@dataclass(frozen=True, slots=True)
class Appended:
    """The answer to an append.

    Attributes:
        entry: The id: Redis time in µs, and higher than every earlier id of the log.
        previous: The id of the entry before it in the log; 0 if none is known.
        nodes: The number of nodes that receive the publication.
        is_new: False if an earlier append with this key, or an earlier try, has stored the message.
        trimmed: Old entries that were dropped. The last append of a call has those of the whole call.
    """

    entry: int
    previous: int
    nodes: int
    is_new: bool = True
    trimmed: Trimmed = NOT_TRIMMED


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One stored message. ``envelope`` is that of the append; ``size`` has its bytes and 8 for the id."""

    id: int
    envelope: Envelope
    size: int


@dataclass(frozen=True, slots=True)
class LogMeta:
    """The state of a log beside its entries. Each number is an id, or 0.

    Attributes:
        top: The newest entry that the log has had.
        base: The newest entry that was dropped or has expired; 0 if every entry since the log began is there.
        hole: The id that marks the last loss by a failover. No entry has it, and entries below it may be missing.
        reset: The newest entry when the log was deleted.
    """

    top: int
    base: int = 0
    hole: int = 0
    reset: int = 0


@dataclass(frozen=True, slots=True)
class LogRead:
    """The answer to a read.

    Attributes:
        entries: Ascending and without a gap, the newest last. Entries that cannot be read, and all before them, are
            left out: they count as dropped.
        is_whole: Whether ``entries`` begin with the oldest entry of the log.
        meta: The state after ``entries`` were read, so ``base`` or ``top`` may be newer than they are. None if the
            log is unknown: it has had no entry for at least ``META_LASTS_S`` seconds, or its content was lost.
        last: The id up to which ``entries`` are complete: that of the newest, or of the newest that is gone. An entry
            that is published after the read was queued has a higher one.
        since_us: Redis time since which this part of the registry has its content; None if that is unknown.
        at_us: Redis time of the read.
        run_id: The identity of the server that was read, as of ``Listening.run_id``.
    """

    entries: tuple[LogEntry, ...]
    is_whole: bool
    meta: LogMeta | None
    last: int
    since_us: int | None
    at_us: int
    run_id: str


@dataclass(frozen=True, slots=True)
class Heard:
    """The entries of a log that a node has received, to compare the log with.

    Attributes:
        last: The newest id.
        tail: The newest entries without a gap, up to ``last``; empty if the node has none.
        previous: The id before the first of ``tail``; -1 if that is unknown.
    """

    last: int
    tail: tuple[LogEntry, ...] = ()
    previous: int = -1


@dataclass(frozen=True, slots=True)
class Unread:
    """Where a client without a cursor begins in its mailbox.

    Attributes:
        position: The id before the first entry that it gets: its mark, or the id before the oldest entry.
        is_owed: Whether entries behind it that are gone are a loss. They are none if there was no entry. What was
            dropped before is not behind it, so a client without a mark gets what is there.
        at_us: Redis time.
    """

    position: int
    is_owed: bool
    at_us: int


class Verdict(Enum):
    """The state of a log in which a node has heard an entry."""

    KNOWN = "known"
    """The log has the entry, or has dropped it in order."""
    RESTORED = "restored"
    """Entries were lost, and are back under their ids."""
    LOST = "lost"
    """Entries are lost: cursors below ``LogMeta.hole`` are told so. Other nodes are notified."""


class LogStore(Protocol):
    """Logs of messages. The entries of one log have ascending ids, and all nodes see one order."""

    def append(self, appends: Sequence[Append]) -> "list[asyncio.Future[Appended]]":
        """Store messages, and publish them with ``Envelope.entry``.

        The position of each in the sender's order is fixed when this returns. Appends of one event-loop tick share a
        call. Entries of one log are stored and published in one step: a node receives them in the order of their ids.

        A future gets ``BackendUnavailableError`` if it is unknown whether the message was stored. It is never
        repeated by itself: append it again with ``retry_age_s``.

        Raises:
            MessageError: A message is larger than ``LogBounds.bytes`` or than an envelope. None was stored.
        """
        ...

    @property
    def is_lasting(self) -> bool:
        """Whether no key is evicted for memory. Otherwise a missing key proves nothing."""
        ...

    def run_id_of(self, log: LogName) -> str:
        """Return the identity of the server that calls about this log go to now, as of ``LogRead.run_id``."""
        ...

    async def read(self, log: LogName, last: int | None = None) -> LogRead:
        """Return the ``last`` newest entries, or all. Read-only."""
        ...

    async def after(self, log: LogName, cursor: int, limit: int) -> LogRead:
        """Return entries from the one with the id ``cursor`` on, of about ``limit`` bytes. Read-only.

        They are two at least, if there are so many. If there is no such entry they begin with the one before it, or
        with the oldest. ``LogRead.is_whole`` says nothing about the end of the log.
        """
        ...

    async def tops(self, logs: Sequence[LogName]) -> list[int]:
        """Return the newest id that each log has had; 0 if the log is unknown. Read-only."""
        ...

    async def page(self, log: LogName, before: int | None, limit: int) -> list[LogEntry]:
        """Return up to ``limit`` entries with the highest ids below ``before``, ascending. Read-only."""
        ...

    async def delete(self, log: LogName, notice: Envelope) -> int:
        """Remove all entries, and return the newest id; 0 if the log is unknown.

        Ids continue, and cursors below that id are told so by ``LogMeta.reset``. ``notice`` (``Kind.LOST``) is
        published to the nodes of the log, with that id in ``entry``. The mark of a mailbox is removed.
        """
        ...

    async def verify(self, log: LogName, heard: Heard, bounds: LogBounds, notice: Envelope) -> Verdict:
        """Compare a log with what this node has received of it, after a failover.

        If the log lacks the entry and nothing newer was appended, the missing part of ``heard.tail`` is put back
        under its ids, and not published. Otherwise the loss is marked, and ``notice`` is published as by ``delete``.
        """
        ...

    async def unread(self, log: LogName) -> Unread:
        """Return where a client without a cursor begins in its mailbox. Read-only."""
        ...

    async def mark(self, log: LogName, entry: int, seconds: int) -> bool:
        """Note that the client has handled its mailbox up to an entry. The mark only rises.

        It lasts as long as the meta of a log with ``seconds``. Return False, and note nothing, if the mailbox has
        never had an entry with this id or a later one.
        """
        ...

    async def begin(self, policy: str) -> str:
        """Note since when each part of the registry has its content, unless that is known.

        Call it at the start, and again after the content of a server was lost. Return the policy that the registry
        has stored: the text that says which logs there are. It is ``policy`` if there was none.
        """
        ...

    async def policy(self) -> str:
        """Return the policy that the registry has stored; "" if it has none. Read-only."""
        ...

    async def replace_policy(self, found: str, policy: str) -> str:
        """Store another policy, unless it is not ``found`` any more. Return the policy that is stored then."""
        ...
