"""Whose time it is, and what was heard before: machines that signatures rest on."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.backends.redis.guard import (
    DRIFT,
    ESTIMATE_LASTS_S,
    WINDOW_S,
    Guard,
    RedisClock,
    ReplayedError,
    Replays,
    Signer,
)
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.exceptions import BackendUnavailableError
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.wire.envelopes import (
    Envelope,
    Kind,
    Part,
    pack_before_parts,
    with_entry,
    without_entry,
)
from fastapi_websocket_stabilizer.wire.messages import Form
from fastapi_websocket_stabilizer.wire.signatures import ForgedError

SECOND_US = 1_000_000


class World:
    """A monotonic clock here and another clock in Redis, which drifts."""

    def __init__(self, redis_s: float = 5000.0, drift: float = 0.0) -> None:
        self.here_s, self.redis_s, self._drift = 100.0, redis_s, drift

    def go(self, seconds: float) -> None:
        self.here_s += seconds
        self.redis_s += seconds * (1 + self._drift)

    def ask(self, clock: RedisClock, there_s: float, back_s: float) -> None:
        asked_at_s = self.here_s
        self.go(there_s)
        redis_s = int(self.redis_s * 1000) / 1000  # as a beat tells it
        self.go(back_s)
        clock.learn(asked_at_s, redis_s)


delays = st.floats(0, 2)


@given(
    st.lists(st.tuples(st.floats(0, ESTIMATE_LASTS_S), delays, delays), min_size=1, max_size=10),
    st.floats(-DRIFT / 2, DRIFT / 2),
)
@example([(10.0008, 0, 0), (0, 0, 2)], DRIFT / 2)  # a late answer takes an old one's place
def test_redis_time_is_always_between_the_bounds(
    beats: list[tuple[float, float, float]], drift: float
) -> None:
    world = World(drift=drift)
    clock = RedisClock(lambda: world.here_s)
    world.ask(clock, 0.1, 0.1)
    for pause_s, there_s, back_s in beats:
        world.ask(clock, there_s, back_s)
        world.go(pause_s)
        now_us = world.redis_s * SECOND_US
        assert clock.local_s(int(now_us)) >= world.here_s - 1e-5
        assert clock.latest_us() >= now_us - 1


def test_narrow_estimate_is_kept_until_it_is_old_or_the_clock_has_stepped() -> None:
    world = World()
    clock = RedisClock(lambda: world.here_s)
    world.ask(clock, 0.001, 0.001)
    narrow_us = clock.latest_us()
    world.ask(clock, 0.5, 0.5)
    assert clock.latest_us() - narrow_us < 1.01 * SECOND_US
    world.redis_s -= 20  # another server, with another clock
    world.ask(clock, 0.5, 0.5)
    assert clock.local_s(int(world.redis_s * SECOND_US)) >= world.here_s - 1e-5
    assert clock.latest_us() >= world.redis_s * SECOND_US


def test_nothing_is_signed_before_redis_has_told_its_time() -> None:
    clock = RedisClock()
    assert clock.is_outdated
    with pytest.raises(BackendUnavailableError, match="is not known yet"):
        clock.latest_us()


names = st.sampled_from("abcd")


@given(
    st.lists(st.tuples(names, names, st.integers(1, 9), st.integers(1, 99)), max_size=60), st.integers(1, 20)
)
@example([("a", "a", 2, 5), ("b", "a", 9, 9), ("a", "a", 1, 99), ("a", "a", 2, 5)], 1)
def test_nothing_is_new_twice_however_little_is_remembered(
    heard: list[tuple[str, str, int, int]], limit: int
) -> None:
    replays, accepted = Replays(limit), set()
    stamps: dict[tuple[str, int], int] = {}
    for channel, sender, sequence, stamp in heard:
        stamp_us = stamps.setdefault((sender, sequence), stamp)  # an envelope keeps its stamp
        if replays.is_new(channel, sender, sequence, stamp_us):
            assert (channel, sender, sequence) not in accepted
            accepted.add((channel, sender, sequence))


def test_what_comes_in_order_is_new_however_many_senders_there_are() -> None:
    replays = Replays(2)
    assert all(replays.is_new("all", f"node-{number % 5}", number, number) for number in range(1, 100))


KEYS = Keys("ns")
SENDER = NodeId("n2")


class Receiver:
    """A guard, and envelopes for it, in a world whose time does not pass by itself."""

    def __init__(self) -> None:
        self.world = World()
        self.signer = Signer(["a secret " * 4], KEYS)
        self.signer.clock = RedisClock(lambda: self.world.here_s)
        self.world.ask(self.signer.clock, 0.001, 0.001)
        self.counters = Counters()
        self.opened_s: dict[str, float] = {}
        self.guard = Guard(self.signer, self.counters, lambda client_id: self.opened_s.get(client_id, 0.0))
        self.sequence = 0

    def broadcast(self, channel: str = KEYS.all) -> bytes:
        self.sequence += 1
        envelope = Envelope(SENDER, self.sequence, 0, Kind.BROADCAST, body=str(self.sequence))
        return self.signer.pack(envelope, channel)

    def direct(self, client_id: str) -> bytes:
        self.sequence += 1
        part = Part([client_id], Form.TEXT, "hello")
        envelope = Envelope(SENDER, self.sequence, 0, Kind.DIRECT, parts=(part,))
        name = b"\xda" + len(client_id).to_bytes(2) + client_id.encode()
        return (
            pack_before_parts(envelope) + b"\xdd\x00\x00\x00\x02"
            + self.signer.pack_message(envelope, part) + name
        )  # fmt: skip

    def hear(self, data: bytes, channel: str = KEYS.all) -> Envelope:
        return self.guard.unpack(channel.encode(), data)


def test_envelope_is_taken_once() -> None:
    receiver = Receiver()
    data = receiver.broadcast()
    assert receiver.hear(data).body == "1"
    with pytest.raises(ReplayedError, match="received before"):
        receiver.hear(data)


def test_envelope_that_a_newer_one_has_overtaken_is_refused() -> None:
    receiver = Receiver()
    first, second = receiver.broadcast(), receiver.broadcast()
    receiver.hear(second)
    with pytest.raises(ReplayedError, match="received before"):
        receiver.hear(first)


def test_stored_message_is_taken_once_also_behind_later_volatile_ones() -> None:
    receiver = Receiver()
    stored = Envelope(SENDER, 1, 0, Kind.BROADCAST, body="stored", entry=(2**50, 0))
    data = receiver.signer.pack(stored, KEYS.all)
    receiver.sequence = 1
    receiver.hear(receiver.broadcast())
    assert receiver.hear(data) == stored
    again = with_entry(without_entry(data), 2**50 + 1, 2**50)
    for copy in (data, again):
        with pytest.raises(ReplayedError, match="received before"):
            receiver.hear(copy)


@pytest.mark.parametrize("seconds", [WINDOW_S + 1, -WINDOW_S - 1])
def test_envelope_is_good_only_near_its_time(seconds: float) -> None:
    receiver = Receiver()
    data = receiver.broadcast()
    receiver.world.here_s += seconds
    with pytest.raises(ReplayedError, match="s are allowed"):
        receiver.hear(data)


def test_envelope_from_before_this_node_listened_is_refused() -> None:
    receiver = Receiver()
    room = KEYS.room("room")
    early, early_in_room = receiver.broadcast(), receiver.broadcast(room)
    receiver.world.go(1)
    receiver.guard.listen(room)
    receiver.hear(early)  # that channel is older
    with pytest.raises(ReplayedError, match="before this node subscribed"):
        receiver.hear(early_in_room, room)
    receiver.hear(receiver.broadcast(room), room)
    receiver.guard.leave(room)
    again = receiver.broadcast(room)
    receiver.world.go(1)
    receiver.guard.listen(room)
    with pytest.raises(ReplayedError, match="before this node subscribed"):
        receiver.hear(again, room)


def test_what_is_sent_because_somebody_joined_is_never_too_early() -> None:
    receiver = Receiver()
    room = KEYS.room("room")
    receiver.guard.listen(room)
    assert receiver.hear(receiver.broadcast(room), room)


def test_client_that_came_later_gets_nothing_and_is_counted() -> None:
    receiver = Receiver()
    receiver.opened_s = {"alice": receiver.world.here_s, "bob": receiver.world.here_s + 1}
    envelopes = [receiver.direct(name) for name in ("alice", "bob", "nobody")]
    receiver.world.go(2)
    inbox = KEYS.inbox(NodeId("n1"))
    assert [list(receiver.hear(data, inbox).parts[0].targets) for data in envelopes] == [
        ["alice"],
        [],
        ["nobody"],
    ]
    assert receiver.counters.bus_replayed == 1


@pytest.mark.parametrize("channel", [KEYS.all, KEYS.room("room"), KEYS.room("}:inbox"), "other:{n1}:inbox"])
def test_direct_message_is_taken_by_an_inbox_only(channel: str) -> None:
    receiver = Receiver()
    with pytest.raises(ForgedError, match="only on the inbox"):
        receiver.hear(receiver.direct("alice"), channel)


def test_direct_message_is_not_new_at_the_next_inbox_of_the_same_node() -> None:
    receiver = Receiver()
    data = receiver.direct("alice")
    receiver.hear(data, KEYS.inbox(NodeId("n1")))
    with pytest.raises(ReplayedError, match="received before"):
        receiver.hear(data, KEYS.inbox(NodeId("n3")))


def test_nothing_is_heard_in_a_room_that_was_said_before_the_last_start() -> None:
    receiver = Receiver()
    room = KEYS.room("room")
    receiver.guard.listen(room)
    early = receiver.broadcast(room)
    receiver.world.go(1)
    receiver.guard.start()
    receiver.guard.listen(room)
    with pytest.raises(ReplayedError, match="before this node subscribed"):
        receiver.hear(early, room)


def test_nothing_is_heard_before_redis_has_told_its_time() -> None:
    receiver = Receiver()
    deaf = Guard(Signer(["a secret " * 4], KEYS), Counters(), lambda _: 0.0)
    with pytest.raises(ReplayedError, match="is unknown until"):
        deaf.unpack(KEYS.all.encode(), receiver.broadcast())
