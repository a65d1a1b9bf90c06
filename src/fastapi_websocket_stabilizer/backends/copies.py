"""The broadcast of a publisher as one copy for each log that stores it. Pure."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..names import as_list, check_client_id, check_each, check_room
from ..wire.channels import Channel, channel_to
from ..wire.envelopes import CONNECTION, VOLATILE, Envelope
from ..wire.messages import Encoded
from ..wire.outgoing import Outgoing
from .log_ports import Append
from .policies import Target


class Copy(NamedTuple):
    """A broadcast to one room or to everybody. ``append`` is None if it is not stored."""

    channel: Channel
    envelope: Envelope
    append: Append | None


def copies_of(
    outgoing: Outgoing,
    message: Encoded,
    exclude: Sequence[str],
    targets: Sequence[Target],
    *,
    store: bool | None,
    key: str | None,
) -> list[Copy]:
    """Return a broadcast as one copy for each log, with consecutive numbers."""
    rooms, copies = [log.name for log, _ in targets if log.name], list[Copy]()
    names = [*exclude, VOLATILE] if store is False else exclude
    for log, bounds in targets:
        channel = channel_to([log.name] if log.name else ())
        if bounds is None:
            copies.append(Copy(channel, outgoing.broadcast(channel, message, names, rooms), None))
        else:
            envelope = outgoing.stored(message, names, rooms)
            copies.append(Copy(channel, envelope, Append(log, envelope, bounds, key or "")))
    return copies


def mail_for(outgoing: Outgoing, message: Encoded, mailbox: Target, key: str | None) -> Append:
    """Return a message to one client as an append to its mailbox, which has bounds."""
    log, bounds = mailbox
    assert bounds is not None  # Policy.box has raised otherwise
    return Append(log, outgoing.stored(message, (), (log.name,)), bounds, key or "")


def receivers(
    exclude_client: str | Iterable[str] | None,
    room: str | Iterable[str] | None,
    exclude_connection: str | Iterable[str] | None,
) -> tuple[list[str], list[str]]:
    """Return the exclusions and the rooms of a broadcast.

    Raises:
        InvalidNameError: A name is illegal.
    """
    exclude, rooms = check_each(exclude_client or None, check_client_id), check_each(room, check_room)
    return exclude + [CONNECTION + each for each in as_list(exclude_connection or ())], rooms
