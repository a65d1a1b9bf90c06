"""Detection of lost, overtaken and duplicate envelopes by their sequences. Pure.

Every envelope carries its sender's sequence, and the sequence of the sender's previous envelope on the channel.
"""

from collections import OrderedDict
from dataclasses import dataclass

from .channels import Channel

MAX_SENDERS = 4096
"""Senders tracked per channel. The least recently seen one is evicted first."""
MAX_CHANNELS = 65536
"""Channels that a sender keeps numbers of. The least recently used one is evicted first."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Result of the comparison of an envelope's sequences with those of earlier envelopes."""

    duplicate: bool = False
    lost: bool = False
    """At least one earlier envelope did not arrive."""
    late: bool = False
    """A newer envelope of the sender arrived before it, on another channel."""

    @property
    def is_to_be_dropped(self) -> bool:
        """Whether the envelope is a duplicate or was overtaken."""
        return self.duplicate or self.late


NEXT = Arrival()
DUPLICATE = Arrival(duplicate=True)
AFTER_LOSS = Arrival(lost=True)
LATE = Arrival(late=True)


class SequenceTracker:
    """The last sequence of each sender, per channel and over all channels.

    Attributes:
        is_ordered: Whether all channels come over one connection in the order of the calls. An overtaken
            envelope then comes from an abandoned connection of its sender. Otherwise only each channel has an
            order.
    """

    __slots__ = ("_before", "_channels", "_newest", "is_ordered")

    def __init__(self, *, is_ordered: bool = True) -> None:
        self._channels: dict[Channel, dict[str, int]] = {}  # since the last gap
        self._before: dict[Channel, dict[str, int]] = {}
        self._newest: dict[str, int] = {}
        self.is_ordered: bool = is_ordered

    def observe(self, channel: Channel, sender: str, sequence: int, previous: int) -> Arrival:
        """Record an envelope and return whether it is a duplicate, late, or follows a loss."""
        senders = self._channels.setdefault(channel, {})
        last = senders.pop(sender, None)
        if last is None and self._is_from_before(channel, sender, sequence, previous):
            return DUPLICATE
        # A copy with a higher sequence would make the sender's next envelopes look old. Its previous sequence shows
        # that it is a copy.
        is_known = last is not None and (sequence <= last or 0 < previous < last)
        senders[sender] = last if last is not None and is_known else sequence
        _bound(senders)
        if is_known:
            return DUPLICATE
        if self.is_ordered and self._is_overtaken(sender, sequence):
            return LATE
        # A loss cannot be known if previous is 0 (unknown), or if no envelope of this sender was seen before.
        return AFTER_LOSS if last is not None and previous > last else NEXT

    def _is_overtaken(self, sender: str, sequence: int) -> bool:
        if sequence <= self._newest.get(sender, 0):
            return True
        self._newest[sender] = sequence
        _bound(self._newest)
        return False

    def _is_from_before(self, channel: Channel, sender: str, sequence: int, previous: int) -> bool:
        """Whether an envelope, or a later one on its channel, arrived before the last gap."""
        last = self._before.get(channel, {}).get(sender)
        return last is not None and (sequence <= last or 0 < previous < last)

    def gap(self) -> None:
        """Count no envelope that is missing so far as lost. A second copy is still a duplicate.

        In a cluster two connections may deliver the same envelope, one before the gap and one after it.
        """
        for channel, senders in self._channels.items():
            known = self._before.get(channel, {})
            others = {sender: last for sender, last in known.items() if sender not in senders}
            merged = [*others.items(), *senders.items()]
            self._before[channel] = dict(merged[-MAX_SENDERS:])
        self._channels.clear()

    def forget(self, channel: Channel | None = None) -> None:
        """Forget one channel, or all, so that envelopes missed while unsubscribed are not counted as lost."""
        for table in (self._channels, self._before):
            if channel is None:
                table.clear()
            else:
                table.pop(channel, None)


def _bound(senders: dict[str, int]) -> None:
    if len(senders) > MAX_SENDERS:
        del senders[next(iter(senders))]


class Sequencer:
    """Numbers for the envelopes of one sender."""

    __slots__ = ("_previous", "_sequence")

    def __init__(self) -> None:
        self._sequence = 0
        self._previous: OrderedDict[Channel, int] = OrderedDict()

    def next(self, channel: Channel) -> tuple[int, int]:
        """Return the next sequence, and the previous one on ``channel`` (0 if unknown)."""
        self._sequence += 1
        previous = self._previous.pop(channel, 0)
        self._previous[channel] = self._sequence
        if len(self._previous) > MAX_CHANNELS:
            self._previous.popitem(last=False)
        return self._sequence, previous

    def alone(self) -> int:
        """Return the next sequence, for an envelope that its log orders: it is not the previous one of another."""
        self._sequence += 1
        return self._sequence
