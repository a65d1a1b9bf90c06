"""The pace of a drain, with virtual time and seeded chance: nobody sleeps here."""

import random
from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.registry.pace import RETURN_WITHIN_S, RETURNS_PER_S, SLOWEST_PER_S, Pace

CLIENTS = 10_000
WINDOW_S = 28.0


def drain(pace: Pace, count: int, now_s: float = 0.0) -> list[float]:
    """Return when each of ``count`` connections is closed by a loop that is never late."""
    closed_at_s = []
    for left in range(count, 0, -1):
        now_s = pace.next_at_s(now_s, left)
        closed_at_s.append(now_s)
    return closed_at_s


def peak_per_s(moments_s: list[float]) -> int:
    """Return the most moments in any one second."""
    moments_s = sorted(moments_s)
    return max(bisect_right(moments_s, at_s + 1.0) - n for n, at_s in enumerate(moments_s))


@pytest.mark.parametrize("seed", range(5))
def test_ten_thousand_clients_are_spread_over_the_window(seed: int) -> None:
    chance = random.Random(seed).random
    pace = Pace(0.0, WINDOW_S, CLIENTS, chance)
    closed_at_s = drain(pace, CLIENTS)
    back_at_s = [at_s + pace.reconnect_in_ms() / 1000 for at_s in closed_at_s]
    assert 0.95 * WINDOW_S < closed_at_s[-1] <= WINDOW_S
    assert peak_per_s(closed_at_s) < 1.25 * CLIENTS / WINDOW_S
    assert peak_per_s(back_at_s) < 1.25 * CLIENTS / WINDOW_S


def test_gaps_are_left_to_chance() -> None:
    closed_at_s = drain(Pace(0.0, WINDOW_S, CLIENTS, random.Random(1).random), CLIENTS)
    gaps = [after - before for before, after in pairwise(closed_at_s)]
    mean_s = WINDOW_S / CLIENTS
    assert min(gaps) < 0.1 * mean_s
    assert max(gaps) > 1.8 * mean_s


def test_few_clients_need_no_window() -> None:
    assert drain(Pace(0.0, WINDOW_S, 10), 10)[-1] <= 2 * 10 / SLOWEST_PER_S


def test_last_client_too_is_told_a_time_by_chance() -> None:
    pace = Pace(0.0, WINDOW_S, CLIENTS, random.Random(2).random)
    drain(pace, CLIENTS)
    hints = [pace.reconnect_in_ms() for _ in range(1000)]
    assert min(hints) < 50
    assert 950 < max(hints) <= 1000 * RETURN_WITHIN_S
    assert len(set(hints)) > 500


@pytest.mark.parametrize("window_s", [0.0, 0.5, 2.0, 10.0])
def test_window_too_short_for_the_others_is_made_longer_by_the_time_to_come_back(window_s: float) -> None:
    pace = Pace(0.0, window_s, CLIENTS, random.Random(3).random)
    back_at_s = [at_s + pace.reconnect_in_ms() / 1000 for at_s in drain(pace, CLIENTS)]
    assert peak_per_s(back_at_s) < 2.5 * RETURNS_PER_S


def test_hurried_drain_ends_sooner_and_spreads_the_return() -> None:
    pace = Pace(0.0, WINDOW_S, CLIENTS, random.Random(4).random)
    pace.hurry(1.0, 2.0, CLIENTS)
    closed_at_s = drain(pace, CLIENTS, now_s=1.0)
    back_at_s = [at_s + pace.reconnect_in_ms() / 1000 for at_s in closed_at_s]
    assert closed_at_s[-1] <= 2.0
    assert peak_per_s(back_at_s) < 2.5 * RETURNS_PER_S


def test_drain_is_never_made_longer() -> None:
    pace = Pace(0.0, 5.0, CLIENTS)
    pace.hurry(1.0, 50.0, CLIENTS)
    assert pace.ends_at_s == 5.0


def test_blocked_event_loop_is_not_made_up_for_with_a_burst() -> None:
    pace = Pace(0.0, WINDOW_S, CLIENTS, random.Random(5).random)
    before = [pace.next_at_s(0.0, CLIENTS) for _ in range(10)]
    closed_at_s = drain(pace, CLIENTS - len(before), now_s=10.0)  # ten seconds later
    assert peak_per_s(closed_at_s) < 1.25 * CLIENTS / (WINDOW_S - 10.0)


@given(
    window_s=st.floats(0.0, 100.0),
    lefts=st.lists(st.integers(1, 10_000), min_size=1, max_size=50),
    delays_s=st.lists(st.floats(0.0, 10.0), min_size=50, max_size=50),
    seed=st.integers(0, 1000),
)
def test_no_time_is_after_the_end_and_none_before_the_last(
    window_s: float, lefts: list[int], delays_s: list[float], seed: int
) -> None:
    pace = Pace(0.0, window_s, lefts[0], random.Random(seed).random)
    now_s = last_s = 0.0
    for left, delay_s in zip(lefts, delays_s, strict=False):
        due_s = pace.next_at_s(now_s, left)
        assert last_s <= due_s <= window_s
        last_s, now_s = due_s, max(now_s, due_s) + delay_s
