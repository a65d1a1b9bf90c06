"""Cursors of ``stabilizer.v1``: the positions from which a client that comes back continues."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import ClientInputError
from . import foreign_json
from .own_json import encode_json

MAX_CURSOR_ROOMS = 16_384
"""Maximum rooms of a cursor. A connection can rarely have so many."""
MAX_CURSOR_CHARACTERS = 1 << 20
MAX_SESSION_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Cursor:
    """Positions of a client, at the time of its last contact. They identify no one, and give no access.

    Attributes:
        session: The ``sid`` of the last ``hi``.
        t_ms: The last ``t`` that the server sent, in ms.
        rooms: The id of the last entry of each room with history; 0 before the first.
        everybody: The same for the log of everybody; None without that log.
        mailbox: The same for the mailbox of the client; None without a mailbox.
    """

    session: str
    t_ms: int
    rooms: Mapping[str, int] = field(default_factory=dict)
    everybody: int | None = None
    mailbox: int | None = None

    def text(self) -> str:
        """Return the cursor as JSON."""
        value: dict[str, Any] = {"s": self.session, "t": self.t_ms, "at": self.rooms}
        if self.everybody is not None:
            value["all"] = self.everybody
        if self.mailbox is not None:
            value["box"] = self.mailbox
        return encode_json(value, "cursor").decode()


def parse_cursor(text: str) -> Cursor:
    """Return the cursor in a JSON text.

    Raises:
        ClientInputError: It is no cursor (``cursor``); the message names the part.
    """
    if len(text) > MAX_CURSOR_CHARACTERS:
        raise _unreadable(f"{len(text)} characters, the limit is {MAX_CURSOR_CHARACTERS}")
    try:
        value = foreign_json.load(text)
    except ClientInputError as error:
        raise _unreadable(str(error)) from None
    return cursor_of(value)


def cursor_of(value: object) -> Cursor:
    """Return the cursor in a decoded JSON value. Unknown keys are ignored.

    Raises:
        ClientInputError: It is no cursor (``cursor``); the message names the part.
    """
    if not isinstance(value, dict):
        raise _unreadable(f"it is a {type(value).__name__}, not an object")
    session = value.get("s")
    if not isinstance(session, str) or not 0 < len(session) <= MAX_SESSION_CHARACTERS:
        raise _unreadable(f"s must be a string of 1 to {MAX_SESSION_CHARACTERS} characters")
    t_ms = value.get("t")
    if not foreign_json.is_id(t_ms):
        raise _unreadable(f"t must be an integer from 0 to {foreign_json.MAX_ID}")
    return Cursor(session, t_ms, _rooms(value.get("at")), _position(value, "all"), _position(value, "box"))


def _rooms(positions: object) -> dict[str, int]:
    if not isinstance(positions, dict):
        raise _unreadable("at must be an object")
    if len(positions) > MAX_CURSOR_ROOMS:
        raise _unreadable(f"at has {len(positions)} rooms, the limit is {MAX_CURSOR_ROOMS}")
    for room, position in positions.items():
        try:
            foreign_json.room_of(room)
        except ClientInputError as error:
            raise _unreadable(str(error)) from None
        if not foreign_json.is_id(position):
            raise _unreadable(f"the position of a room must be an integer from 0 to {foreign_json.MAX_ID}")
    return positions


def _position(value: dict[str, Any], log: str) -> int | None:
    position = value.get(log)
    if position is None or foreign_json.is_id(position):
        return position
    raise _unreadable(f"{log} must be an integer from 0 to {foreign_json.MAX_ID}")


def _unreadable(why: str) -> ClientInputError:
    return ClientInputError(f"unreadable cursor: {why}", code="cursor")
