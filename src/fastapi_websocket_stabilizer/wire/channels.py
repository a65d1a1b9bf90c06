"""Channels between nodes, as values. Only a backend knows the names that they have at its server."""

from collections.abc import Sequence
from typing import Literal, NamedTuple


class Channel(NamedTuple):
    """A stream of envelopes. Each sender's envelopes on one channel have an order and no known gap.

    Attributes:
        kind: All nodes, the nodes with members of one room, or the inbox of one node. The inboxes of all nodes count
            as one channel of a sender.
        room: Name of the room; "" for the other kinds.
    """

    kind: Literal["all", "room", "inbox"]
    room: str = ""

    def __str__(self) -> str:
        """Return a text for logs."""
        return f"room:{self.room}" if self.room else self.kind


ALL = Channel("all")
INBOX = Channel("inbox")


def channel_to(rooms: Sequence[str]) -> Channel:
    """Return the channel of a broadcast: a room's own, or that of all nodes for several rooms or none."""
    return Channel("room", rooms[0]) if len(rooms) == 1 else ALL
