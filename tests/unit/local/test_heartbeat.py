"""Liveness of one peer, with the time passed in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.local.heartbeat import Heartbeat, Liveness

INTERVAL_S, TIMEOUT_S = 30.0, 60.0
WAIT, PING, DEAD = Liveness.WAIT, Liveness.PING, Liveness.DEAD


def poll(
    heartbeat: Heartbeat, *times_s: float, interval_s: float = INTERVAL_S, timeout_s: float = TIMEOUT_S
) -> list[Liveness]:
    return [heartbeat.poll(now_s, interval_s, timeout_s) for now_s in times_s]


def test_peer_is_pinged_after_an_interval_of_silence() -> None:
    assert poll(Heartbeat(100.0), 100.0, 129.9, 130.0) == [WAIT, WAIT, PING]


def test_silent_peer_is_pinged_again_each_interval() -> None:
    assert poll(Heartbeat(0.0), 30.0, 31.0, 59.9, 60.0, 89.9) == [PING, WAIT, WAIT, PING, WAIT]


def test_peer_is_dead_when_nothing_came_within_the_timeout_after_the_first_ping() -> None:
    assert poll(Heartbeat(0.0), 30.0, 60.0, 89.9, 90.0) == [PING, PING, WAIT, DEAD]


def test_dead_peer_stays_dead() -> None:
    assert poll(Heartbeat(0.0), 30.0, 90.0, 91.0, 1000.0) == [PING, DEAD, DEAD, DEAD]


def test_timeout_longer_than_the_interval_is_kept() -> None:
    times = [float(t) for t in range(10, 110, 10)]
    verdicts = poll(Heartbeat(0.0), *times, interval_s=10.0, timeout_s=95.0)
    assert verdicts == [PING] * 10
    assert poll(Heartbeat(0.0), 10.0, 104.9, 105.0, interval_s=10.0, timeout_s=95.0) == [PING, PING, DEAD]


def test_timeout_shorter_than_the_interval_is_kept() -> None:
    assert poll(Heartbeat(0.0), 30.0, 34.9, 35.0, timeout_s=5.0) == [PING, WAIT, DEAD]


def test_any_sign_of_life_answers_every_ping() -> None:
    heartbeat = Heartbeat(0.0)
    poll(heartbeat, 30.0, 60.0)
    heartbeat.heard(89.0)
    assert poll(heartbeat, 90.0, 118.9, 119.0) == [WAIT, WAIT, PING]


def test_peer_that_talks_is_never_pinged() -> None:
    heartbeat = Heartbeat(0.0)
    for now_s in range(0, 1000, 20):
        heartbeat.heard(now_s)
        assert poll(heartbeat, now_s, now_s + 19.0) == [WAIT, WAIT]


def test_silence_is_not_death_before_a_ping_was_sent() -> None:
    assert poll(Heartbeat(0.0), 10_000.0) == [PING]


def test_changed_settings_count_at_once() -> None:
    heartbeat = Heartbeat(0.0)
    assert poll(heartbeat, 5.0, interval_s=5.0) == [PING]
    assert poll(heartbeat, 6.0, timeout_s=1.0) == [DEAD]


@given(
    st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=60),
    st.floats(0.1, 100),
    st.floats(0.1, 100),
)
def test_verdict_follows_from_what_happened_since_the_peer_was_last_heard(
    steps: list[tuple[float, bool]], interval_s: float, timeout_s: float
) -> None:
    heartbeat, now_s, heard_s = Heartbeat(0.0), 0.0, 0.0
    pings: list[float] = []
    for passed_s, is_heard in steps:
        now_s += passed_s
        if is_heard:
            heartbeat.heard(now_s)
            heard_s, pings = now_s, []
        verdict = heartbeat.poll(now_s, interval_s, timeout_s)
        is_due = now_s - (pings[-1] if pings else heard_s) >= interval_s
        is_dead = bool(pings) and now_s - pings[0] >= timeout_s
        assert verdict is (DEAD if is_dead else PING if is_due else WAIT)
        pings += [now_s] if verdict is PING else []


@pytest.mark.parametrize("word", ["wait", "ping", "dead"])
def test_verdicts_are_three(word: str) -> None:
    assert Liveness(word).value == word
