"""Has this envelope been lost, overtaken or seen before? Pure.

Every envelope carries its sender's sequence and that of the sender's envelope before it on the same channel.
"""

from collections import OrderedDict
from dataclasses import dataclass

MAX_SENDERS = 4096
"""Senders remembered per channel; the longest unseen is forgotten first."""
MAX_CHANNELS = 65536
"""Channels that a sender remembers; the longest unused is forgotten first."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the sequence says about one envelope."""

    duplicate: bool = False
    lost: bool = False
    """At least one envelope before it did not arrive."""
    late: bool = False
    """A newer one of its sender came before it, on another channel."""

    @property
    def is_to_be_dropped(self) -> bool:
        """Whether it is a copy, or was overtaken."""
        return self.duplicate or self.late


NEXT = Arrival()
DUPLICATE = Arrival(duplicate=True)
AFTER_LOSS = Arrival(lost=True)
LATE = Arrival(late=True)


class SequenceTracker:
    """Remembers the last sequence of each sender on each channel, and on any.

    Attributes:
        is_ordered: All channels come over one connection in the order of the calls, so that what was overtaken
            comes from a connection that its sender had given up; else only each channel has an order.
    """

    __slots__ = ("_before", "_channels", "_newest", "is_ordered")

    def __init__(self) -> None:
        self._channels: dict[str, dict[str, int]] = {}  # since the last gap
        self._before: dict[str, dict[str, int]] = {}
        self._newest: dict[str, int] = {}
        self.is_ordered: bool = True

    def observe(self, channel: str, sender: str, sequence: int, previous: int) -> Arrival:
        """Note an envelope, and return what its numbers say."""
        senders = self._channels.setdefault(channel, {})
        last = senders.pop(sender, None)
        if last is None and self._is_from_before(channel, sender, sequence, previous):
            return DUPLICATE
        # A copy with another number would make what its sender says next look old; but its previous stays behind.
        is_known = last is not None and (sequence <= last or 0 < previous < last)
        senders[sender] = last if last is not None and is_known else sequence
        _bound(senders)
        if is_known:
            return DUPLICATE
        if self.is_ordered and self._is_overtaken(sender, sequence):
            return LATE
        # 0: the sender does not know; no last: we had not subscribed yet.
        return AFTER_LOSS if last is not None and previous > last else NEXT

    def _is_overtaken(self, sender: str, sequence: int) -> bool:
        if sequence <= self._newest.get(sender, 0):
            return True
        self._newest[sender] = sequence
        _bound(self._newest)
        return False

    def _is_from_before(self, channel: str, sender: str, sequence: int, previous: int) -> bool:
        """Whether an envelope, or a later one on its channel, arrived before the last gap."""
        last = self._before.get(channel, {}).get(sender)
        return last is not None and (sequence <= last or 0 < previous < last)

    def gap(self) -> None:
        """Count nothing that is missing until now as lost. A second copy is still a duplicate.

        In a cluster two connections may bring the same envelopes, one before the gap and one behind it.
        """
        for channel, senders in self._channels.items():
            known = self._before.get(channel, {})
            others = {sender: last for sender, last in known.items() if sender not in senders}
            merged = [*others.items(), *senders.items()]
            self._before[channel] = dict(merged[-MAX_SENDERS:])
        self._channels.clear()

    def forget(self, channel: str | None = None) -> None:
        """Forget a channel that this node left, or all: what is published there until it is back is not lost."""
        for table in (self._channels, self._before):
            if channel is None:
                table.clear()
            else:
                table.pop(channel, None)


def _bound(senders: dict[str, int]) -> None:
    if len(senders) > MAX_SENDERS:
        del senders[next(iter(senders))]


class Sequencer:
    """Numbers one sender's envelopes."""

    __slots__ = ("_previous", "_sequence")

    def __init__(self) -> None:
        self._sequence = 0
        self._previous: OrderedDict[str, int] = OrderedDict()

    def next(self, channel: str) -> tuple[int, int]:
        """Return the next sequence and the one before it on ``channel`` (0 when forgotten)."""
        self._sequence += 1
        previous = self._previous.pop(channel, 0)
        self._previous[channel] = self._sequence
        if len(self._previous) > MAX_CHANNELS:
            self._previous.popitem(last=False)
        return self._sequence, previous
