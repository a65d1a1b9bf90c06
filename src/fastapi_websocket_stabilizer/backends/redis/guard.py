"""Signed envelopes on the bus: when they were made, and that none is taken twice. docs/security.md says why.

Everything is counted by Redis' clock, which every node and publisher estimates for itself; nobody's own clock
matters. A signature says *by when at the latest* its envelope was made, a receiver asks whether that was
*surely before* it began to listen: so nothing that somebody sent because of us is taken for a repetition.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from ...exceptions import BackendUnavailableError, WireError
from ...runtime.metrics import Counters
from ...wire.envelopes import Envelope, Part
from ...wire.signatures import ForgedError, Keyring
from .keys import Keys
from .ports import CommandConnection

INBOX = "inbox"
"""One name for the inboxes that a node has had one after the other: what it heard by one, it heard."""
WINDOW_S = 30.0
"""Seconds that an envelope is good for."""
REMEMBERED = 65_536
"""Pairs of channel and sender whose last sequence is remembered."""
ESTIMATE_LASTS_S = 10.0
"""Seconds after which a wider estimate of Redis' time is better than a narrow old one: clocks drift."""
DRIFT = 0.001
"""What two clocks may drift apart per second, twice what NTP does to one."""
ROUNDING_S = 0.001
"""Beats tell Redis' time in whole milliseconds."""


class ReplayedError(WireError):
    """It was genuine once: heard before, too old, or from before we listened."""


class RedisClock:
    """Redis' time, as two bounds from its last answers and the monotonic clock."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        # What is to be added to our clock, at least and at most.
        self._least_s = self._most_s = 0.0
        # When the answer that is believed was asked for: since then clocks may drift.
        self._asked_at_s: float | None = None

    def learn(self, asked_at_s: float, redis_s: float) -> None:
        """Take note of an answer: it was ``redis_s`` there between ``asked_at_s`` and now on our clock."""
        now_s = self._now_s()
        least_s, most_s = redis_s - now_s, redis_s - asked_at_s
        is_narrower = most_s - least_s <= self._most_s - self._least_s
        has_stepped = least_s > self._most_s + self._slack_s or most_s < self._least_s - self._slack_s
        if is_narrower or has_stepped or self.is_outdated:
            self._least_s, self._most_s, self._asked_at_s = least_s, most_s, asked_at_s

    async def ask(self, pipeline: CommandConnection) -> None:
        """Learn from Redis what time it is there."""
        asked_at_s = self._now_s()
        seconds, microseconds = await pipeline.send("TIME", idempotent=True)
        self.learn(asked_at_s, int(seconds) + int(microseconds) / 1_000_000)

    @property
    def is_outdated(self) -> bool:
        """Whether it was learned too long ago, or never."""
        return self._asked_at_s is None or self._now_s() - self._asked_at_s > ESTIMATE_LASTS_S

    @property
    def is_known(self) -> bool:
        """Whether Redis has told its time."""
        return self._asked_at_s is not None

    @property
    def _slack_s(self) -> float:
        return ROUNDING_S + DRIFT * (self._now_s() - (self._asked_at_s or 0.0))

    def latest_us(self) -> int:
        """Return what Redis' time is now at the latest, in µs.

        Raises:
            BackendUnavailableError: Redis has not told its time yet.
        """
        if not self.is_known:
            raise BackendUnavailableError("Redis has not told its time yet, which signatures carry")
        return int((self._now_s() + self._most_s + self._slack_s) * 1_000_000)

    def local_s(self, redis_us: int) -> float:
        """Return what our clock said at the latest when Redis' time was ``redis_us``."""
        return redis_us / 1_000_000 - self._least_s + self._slack_s

    def now_s(self) -> float:
        """Return what our clock says."""
        return self._now_s()


class Replays:
    """The last sequence of each sender on each channel. It outlives gaps of the bus. Pure."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._last: OrderedDict[tuple[str, str], tuple[int, int, int]] = OrderedDict()
        self._forgotten_us = 0  # whatever is older may have been heard from somebody whom we forgot

    def is_new(self, channel: str, sender: str, sequence: int, stamp_us: int) -> bool:
        """Whether this was not heard before; from now on it was."""
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
    """Signs what this process publishes."""

    def __init__(self, secrets: Sequence[str], keys: Keys) -> None:
        self.clock: RedisClock = RedisClock()
        self.keyring: Keyring = Keyring(secrets, keys.inbox_prefix)
        self.is_inbox: Callable[[str], bool] = keys.is_inbox

    def pack(self, envelope: Envelope, channel: str) -> bytes:
        """As ``envelopes.pack``, signed for one channel."""
        return self.keyring.pack(envelope, channel, self.clock.latest_us())

    def pack_message(self, envelope: Envelope, part: Part) -> bytes:
        """As ``envelopes.pack_message``, signed for its clients."""
        return self.keyring.pack_message(envelope, part, self.clock.latest_us())


class Guard:
    """Lets in what is signed, fresh, and was not heard before.

    Attributes:
        opened_at: Since when (on the monotonic clock) a client has a socket here, or 0.0.
    """

    def __init__(self, signer: Signer, counters: Counters) -> None:
        self._keyring, self._clock, self._counters = signer.keyring, signer.clock, counters
        self._is_inbox = signer.is_inbox
        self._replays = Replays()
        self._began_s = self._clock.now_s()
        self._since_s: dict[str, float] = {}  # by channel
        self.opened_at: Callable[[str], float] = lambda _: 0.0

    def start(self) -> None:
        """Nothing that was said until now is for us."""
        self._began_s = self._clock.now_s()
        self._since_s.clear()

    def listen(self, channel: str) -> None:
        """Nothing that was said on ``channel`` until now is for us."""
        self._since_s.setdefault(channel, self._clock.now_s())

    def leave(self, channel: str) -> None:
        """Forget since when we listen to ``channel``, but not what was heard there."""
        self._since_s.pop(channel, None)

    def unpack(self, channel: bytes, data: bytes) -> Envelope:
        """Return the envelope in ``data``.

        Raises:
            UnsignedError, ForgedError: As ``Keyring.unpack``.
            ReplayedError: It was genuine once.
            WireError: As ``envelopes.unpack``.
        """
        if not self._clock.is_known:
            raise ReplayedError("Redis has not told its time yet")
        envelope, stamp_us, is_ours = self._keyring.unpack(channel, data)
        name, made_s = channel.decode(), self._clock.local_s(stamp_us)
        if self._is_inbox(name):
            name = INBOX
        elif not is_ours:  # no channel is signed in it, so elsewhere it would be new once more
            raise ForgedError("direct messages come by the inbox, this one is elsewhere")
        self._check_age(name, stamp_us, made_s)
        if not self._replays.is_new(name, envelope.sender, envelope.sequence, stamp_us):
            raise ReplayedError("envelope was heard before")
        return envelope if is_ours else self._without_newcomers(envelope, made_s)

    def _check_age(self, channel: str, stamp_us: int, made_s: float) -> None:
        age_s = (self._clock.latest_us() - stamp_us) / 1_000_000
        if abs(age_s) > WINDOW_S:
            raise ReplayedError(f"envelope is {age_s:.0f} s old, {WINDOW_S:g} s are allowed")
        if made_s < self._since_s.get(channel, self._began_s):
            raise ReplayedError("envelope is from before this node listened")

    def _without_newcomers(self, envelope: Envelope, made_s: float) -> Envelope:
        """Leave out clients that came after it was made: they may have got it on the node they were on then."""
        names = {name for part in envelope.parts for name in part.targets}
        new = {name for name in names if self.opened_at(name) > made_s}
        if not new:
            return envelope
        self._counters.bus_replayed += len(new)
        parts = [part._replace(targets=[n for n in part.targets if n not in new]) for part in envelope.parts]
        return replace(envelope, parts=tuple(parts))
