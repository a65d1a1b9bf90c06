"""Channels between nodes, as values. Only a backend knows the names that they have at its server."""

from collections.abc import Sequence
from typing import Literal, NamedTuple


class Channel(NamedTuple):
    """A stream of envelopes. Each sender's envelopes on one channel have an order and no known gap.

    Attributes:
        kind: All nodes, the nodes with members of one room, the inbox of one node, or the nodes with connections of
            one client, for its mailbox. The inboxes of all nodes count as one channel of a sender.
        room: Name of the room; "" for the other kinds.
        client: Id of the client of a mailbox; "" for the other kinds.
    """

    kind: Literal["all", "room", "inbox", "box"]
    room: str = ""
    client: str = ""

    def __str__(self) -> str:
        """Return a text for logs."""
        return f"{self.kind}:{name}" if (name := self.room or self.client) else self.kind


ALL = Channel("all")
INBOX = Channel("inbox")


def box_of(client_id: str) -> Channel:
    """Return the channel of a client's mailbox."""
    return Channel("box", client=client_id)


def channel_to(rooms: Sequence[str]) -> Channel:
    """Return the channel of a broadcast: a room's own, or that of all nodes for several rooms or none."""
    return Channel("room", rooms[0]) if len(rooms) == 1 else ALL
