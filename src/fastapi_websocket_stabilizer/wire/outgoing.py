"""Creation of envelopes: the numbers of one sender, and the slots of each kind. Pure."""

from collections.abc import Sequence

from ..names import ConnectionId, NodeId
from .channels import INBOX, Channel
from .envelopes import Envelope, Kind, Part
from .messages import Encoded, Form
from .sequences import Sequencer


class Outgoing:
    """Numbers and creates the envelopes of one sender.

    Publish them in the order of the calls, otherwise receivers drop the overtaken ones.
    """

    __slots__ = ("_sender", "_sequencer")

    def __init__(self, sender: NodeId) -> None:
        self._sender = sender
        self._sequencer = Sequencer()

    @property
    def sender(self) -> NodeId:
        """The sender. Replies go to its inbox."""
        return self._sender

    def rename(self, sender: NodeId) -> None:
        """Use another sender from now on. The numbers continue."""
        self._sender = sender

    def broadcast(
        self, channel: Channel, message: Encoded, exclude: Sequence[str], rooms: Sequence[str], ask: int = 0
    ) -> Envelope:
        """Return a message for all connections, or for those in ``rooms``; ``channel`` is ``channel_to(rooms)``."""
        return Envelope(
            self._sender, *self._sequencer.next(channel), Kind.BROADCAST,
            tuple(rooms), tuple(exclude), message.form, message.payload, ask, message, trace=message.trace,
        )  # fmt: skip

    def stored(
        self, message: Encoded, exclude: Sequence[str], rooms: Sequence[str], ask: int = 0
    ) -> Envelope:
        """Return a message that is stored in the log of one of ``rooms``, or without rooms in that of everybody.

        For a mailbox, ``rooms`` is its client.
        """
        return Envelope(
            self._sender, self._sequencer.alone(), 0, Kind.BROADCAST,
            tuple(rooms), tuple(exclude), message.form, message.payload, ask, message, trace=message.trace,
        )  # fmt: skip

    def reserve_direct(self) -> tuple[int, int]:
        """Return the numbers of a direct envelope whose parts are not known yet."""
        return self._sequencer.next(INBOX)

    def direct(self, parts: Sequence[Part], numbers: tuple[int, int] | None = None) -> Envelope:
        """Return messages for clients, with ``numbers`` if they are reserved."""
        sequence, previous = numbers or self._sequencer.next(INBOX)
        return Envelope(self._sender, sequence, previous, Kind.DIRECT, parts=tuple(parts))

    def request(self, target: str, body: str, ask: int = 0) -> Envelope:
        """Return a request about the client ``target``; ``ask`` is 0 if no reply is wanted."""
        return Envelope(
            self._sender, *self._sequencer.next(INBOX), Kind.REQUEST, (target,),
            form=Form.JSON, body=body, ask=ask,
        )  # fmt: skip

    def reply(self, body: str, ask: int) -> Envelope:
        """Return the reply to the question ``ask`` of the receiver."""
        return Envelope(
            self._sender, *self._sequencer.next(INBOX), Kind.REPLY, form=Form.JSON, body=body, ask=ask
        )

    def evict(self, connection_id: ConnectionId, by: str = "", ask: int = 0) -> Envelope:
        """Return the order to close a connection that newer ones outrank; ``by`` is the session of the newest.

        With a question ``ask``, the connection is closed only if it does not live.
        """
        numbers = self._sequencer.next(INBOX)
        return Envelope(self._sender, *numbers, Kind.EVICT, (connection_id,), body=by, ask=ask)

    def presence(self, room: str, body: str) -> Envelope:
        """Return the notice of a change of the members that a room shows. The backend adds the version."""
        sequence, _ = self._sequencer.next(INBOX)  # it may not be published, so it is before no other one
        return Envelope(self._sender, sequence, 0, Kind.PRESENCE, (room,), form=Form.JSON, body=body)

    def lost(self, targets: Sequence[str], code: str) -> Envelope:
        """Return the notice that entries of a log are lost. The backend adds up to which, if it publishes it."""
        return Envelope(
            self._sender, *self._sequencer.next(INBOX), Kind.LOST, tuple(targets), form=Form.TEXT, body=code
        )
