"""Has this envelope been lost or seen before? Pure.

Every envelope carries its sender's sequence and that of the sender's envelope before it on the same channel.
"""

from collections import OrderedDict
from collections.abc import Collection
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


NEXT = Arrival()
DUPLICATE = Arrival(duplicate=True)
AFTER_LOSS = Arrival(lost=True)


class SequenceTracker:
    """Remembers the last sequence of each sender on each channel."""

    __slots__ = ("_channels",)

    def __init__(self) -> None:
        self._channels: dict[str, dict[str, int]] = {}

    def observe(self, channel: str, sender: str, sequence: int, previous: int) -> Arrival:
        senders = self._channels.setdefault(channel, {})
        last = senders.pop(sender, None)
        # A copy with another number would make what its sender says next look old; but its previous stays behind.
        is_known = last is not None and (sequence <= last or 0 < previous < last)
        senders[sender] = last if last is not None and is_known else sequence
        if len(senders) > MAX_SENDERS:
            del senders[next(iter(senders))]
        if is_known:
            return DUPLICATE
        # 0: the sender does not know; no last: we had not subscribed yet.
        return AFTER_LOSS if last is not None and previous > last else NEXT

    def forget(self, channel: str | None = None, but: Collection[str] = ()) -> None:
        """A channel that we left, or all: what is said there until we are back is not lost.

        Of some senders it is remembered what they said before.
        """
        for name in [channel] if channel is not None else tuple(self._channels):
            senders = self._channels.pop(name, {})
            if kept := {sender: last for sender, last in senders.items() if sender in but}:
                self._channels[name] = kept


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
