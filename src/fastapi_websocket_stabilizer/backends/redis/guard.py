"""Signed envelopes on the bus: their age is checked, and replays are rejected. The reasons are in docs/security.md.

All times are Redis' time, which every node and publisher estimates; local wall clocks do not matter. A signature
has the latest time at which its envelope can have been made. An envelope counts as too early only if it was
*certainly* made before the receiver subscribed. So a message that reacts to the subscription is never rejected.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from ...exceptions import BackendUnavailableError, WireError
from ...runtime.metrics import Counters
from ...wire.envelopes import Envelope, Part
from ...wire.signatures import STORED, ForgedError, Keyring
from .keys import Keys
from .ports import CommandConnection

INBOX = "inbox"
"""One name for all inboxes that a node has had, so that a copy on the next inbox is a replay."""
WINDOW_S = 30.0
"""Seconds for which an envelope is valid."""
REMEMBERED = 65_536
"""Maximum number of pairs of channel and sender whose last sequence is kept."""
ESTIMATE_LASTS_S = 10.0
"""Seconds after which a new, wider estimate of Redis' time replaces a narrow one, because clocks drift."""
DRIFT = 0.001
"""Maximum drift between two clocks in seconds per second; twice the rate at which NTP adjusts one."""
ROUNDING_S = 0.001
"""Seconds of rounding error: renewals return Redis' time in whole milliseconds."""


class ReplayedError(WireError):
    """A valid envelope that was received before, is too old, or was made before this node subscribed."""


class RedisClock:
    """An estimate of Redis' time: two bounds, from its last replies and the monotonic clock."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        # Bounds of the difference between Redis' time and the monotonic clock.
        self._least_s = self._most_s = 0.0
        # When the estimate was requested; clocks may have drifted since then.
        self._asked_at_s: float | None = None

    def learn(self, asked_at_s: float, redis_s: float) -> None:
        """Improve the estimate: Redis' time was ``redis_s`` between ``asked_at_s`` and now (monotonic)."""
        now_s = self._now_s()
        least_s, most_s = redis_s - now_s, redis_s - asked_at_s
        is_narrower = most_s - least_s <= self._most_s - self._least_s
        has_stepped = least_s > self._most_s + self._slack_s or most_s < self._least_s - self._slack_s
        if is_narrower or has_stepped or self.is_outdated:
            self._least_s, self._most_s, self._asked_at_s = least_s, most_s, asked_at_s

    async def ask(self, pipeline: CommandConnection) -> None:
        """Request Redis' time and improve the estimate."""
        asked_at_s = self._now_s()
        seconds, microseconds = await pipeline.send("TIME", idempotent=True)
        self.learn(asked_at_s, int(seconds) + int(microseconds) / 1_000_000)

    @property
    def is_outdated(self) -> bool:
        """Whether the estimate is too old or missing."""
        return self._asked_at_s is None or self._now_s() - self._asked_at_s > ESTIMATE_LASTS_S

    @property
    def is_known(self) -> bool:
        """Whether there is an estimate."""
        return self._asked_at_s is not None

    @property
    def _slack_s(self) -> float:
        return ROUNDING_S + DRIFT * (self._now_s() - (self._asked_at_s or 0.0))

    def latest_us(self) -> int:
        """Return the upper bound of Redis' time now, in µs.

        Raises:
            BackendUnavailableError: There is no estimate yet.
        """
        if not self.is_known:
            raise BackendUnavailableError("Redis' time is not known yet, and signatures need it")
        return int((self._now_s() + self._most_s + self._slack_s) * 1_000_000)

    def local_s(self, redis_us: int) -> float:
        """Return the latest monotonic time at which Redis' time can have been ``redis_us``."""
        return redis_us / 1_000_000 - self._least_s + self._slack_s

    def now_s(self) -> float:
        """Return the monotonic time in seconds."""
        return self._now_s()


class Replays:
    """The last sequence of each sender on each channel. Kept over bus gaps. Pure."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._last: OrderedDict[tuple[str, str], tuple[int, int, int]] = OrderedDict()
        self._forgotten_us = 0  # newest stamp of an evicted pair: older envelopes may be replays

    def is_new(self, channel: str, sender: str, sequence: int, stamp_us: int) -> bool:
        """Record an envelope; return whether it was not received before."""
        known = self._last.pop((channel, sender), None)
        last, newest_us, floor_us = known or (0, 0, self._forgotten_us)
        is_new = sequence > last and stamp_us > floor_us
        if known is not None or is_new:
            self._last[channel, sender] = max(last, sequence), max(newest_us, stamp_us), floor_us
        if len(self._last) > self._limit:
            _, (_, forgotten_us, _) = self._last.popitem(last=False)
            self._forgotten_us = max(self._forgotten_us, forgotten_us)
        return is_new


class Signer:
    """Signs the envelopes of this process."""

    def __init__(self, secrets: Sequence[str], keys: Keys) -> None:
        self.clock: RedisClock = RedisClock()
        self.keyring: Keyring = Keyring(secrets, keys.inbox_prefix)
        self.is_inbox: Callable[[str], bool] = keys.is_inbox

    def pack(self, envelope: Envelope, channel: str) -> bytes:
        """Return a packed envelope, signed for one channel. Raises as ``RedisClock.latest_us``."""
        return self.keyring.pack(envelope, channel, self.clock.latest_us())

    def pack_message(self, envelope: Envelope, part: Part) -> bytes:
        """Return a packed message, signed for its clients. Raises as ``RedisClock.latest_us``."""
        return self.keyring.pack_message(envelope, part, self.clock.latest_us())


class Guard:
    """Accepts only envelopes that are signed, recent and not received before."""

    def __init__(self, signer: Signer, counters: Counters, opened_at: Callable[[str], float]) -> None:
        self._keyring, self._clock, self._counters = signer.keyring, signer.clock, counters
        self._is_inbox = signer.is_inbox
        self._replays = Replays()
        self._began_s = self._clock.now_s()
        self._since_s: dict[str, float] = {}  # by channel
        self._opened_at = opened_at

    def start(self) -> None:
        """Reject, from now on, envelopes that were made before this call."""
        self._began_s = self._clock.now_s()
        self._since_s.clear()

    def listen(self, channel: str) -> None:
        """Reject, from now on, envelopes on ``channel`` that were made before the first call."""
        self._since_s.setdefault(channel, self._clock.now_s())

    def leave(self, channel: str) -> None:
        """Remove the time at which ``channel`` was subscribed, but not the sequences received there."""
        self._since_s.pop(channel, None)

    def unpack(self, channel: bytes, data: bytes) -> Envelope:
        """Return the envelope in ``data``.

        Raises:
            UnsignedError, ForgedError: As ``Keyring.unpack``.
            ReplayedError: It was received before, is too old, or was made before this node subscribed.
            WireError: As ``envelopes.unpack``.
        """
        if not self._clock.is_known:
            raise ReplayedError("the age of an envelope is unknown until Redis' time is known")
        envelope, stamp_us, is_ours = self._keyring.unpack(channel, data)
        name, made_s = channel.decode(), self._clock.local_s(stamp_us)
        if self._is_inbox(name):
            name = INBOX
        elif not is_ours:  # its signature has no channel, so a copy on another one would pass as new
            raise ForgedError("direct messages are accepted only on the inbox")
        self._check_age(name, stamp_us, made_s)
        if (
            envelope.entry is not None
        ):  # a repeated append has an earlier sequence than later volatile messages
            name += STORED
        if not self._replays.is_new(name, envelope.sender, envelope.sequence, stamp_us):
            raise ReplayedError("envelope was received before")
        return envelope if is_ours else self._without_newcomers(envelope, made_s)

    def _check_age(self, channel: str, stamp_us: int, made_s: float) -> None:
        age_s = (self._clock.latest_us() - stamp_us) / 1_000_000
        if abs(age_s) > WINDOW_S:
            raise ReplayedError(f"envelope is {age_s:.0f} s old, {WINDOW_S:g} s are allowed")
        if made_s < self._since_s.get(channel, self._began_s):
            raise ReplayedError("envelope was made before this node subscribed")

    def _without_newcomers(self, envelope: Envelope, made_s: float) -> Envelope:
        """Remove clients that connected after it was made, since their former node may have delivered it."""
        names = {name for part in envelope.parts for name in part.targets}
        new = {name for name in names if self._opened_at(name) > made_s}
        if not new:
            return envelope
        self._counters.bus_replayed += len(new)
        parts = [part._replace(targets=[n for n in part.targets if n not in new]) for part in envelope.parts]
        return replace(envelope, parts=tuple(parts))
