"""The bound of Redis' time, whatever the clocks do within their drift."""

from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.registry.redis_time import DRIFT, RedisTime, WholeTime

SECONDS = st.floats(0, 100_000)


def test_time_is_unknown_before_the_first_answer() -> None:
    time = RedisTime()
    assert (time.is_known, time.at(5.0)) == (False, 0)


@given(SECONDS, st.floats(0, 60), st.floats(-1, 1), SECONDS)
def test_bound_is_never_later_than_the_clock_of_redis(
    read_s: float, latency_s: float, drift: float, time_s: float
) -> None:
    """Redis' clock was 0 when ours was, and runs faster or slower than it."""
    rate = 1 + drift * DRIFT / 1_000_000
    time = RedisTime()
    time.learn(int(read_s * rate * 1_000_000), read_s + latency_s)
    # The answer was under way for ``latency_s``, in which Redis' clock has gone on.
    assert time.at(time_s) <= time_s * rate * 1_000_000 + 1


def test_bound_is_that_of_the_answer_at_its_time() -> None:
    time = RedisTime()
    time.learn(7_000_000, 3.0)
    assert (time.is_known, time.at(3.0), time.at(4.0)) == (True, 7_000_000, 8_000_000 - DRIFT)
    assert time.at(2.0) == 6_000_000 - DRIFT


# What a node has missed nothing up to


def begun() -> WholeTime:
    time = WholeTime()
    time.begin(5_000_000, 10.0)
    return time


def test_first_time_is_that_of_the_beginning_until_a_canary_is_back() -> None:
    time = begun()
    assert WholeTime().whole_us(9.0) == 0, "Redis has not told its time"
    time.learn(6_500_000, 12.0)  # an answer that was long under way
    assert [time.whole_us(heard_to_s) for heard_to_s in (0.0, 9.0, 10.0)] == [5_000_000] * 3
    assert time.whole_us(12.0) == 6_500_000


def test_log_that_is_held_keeps_the_time_from_before() -> None:
    time = begun()
    time.hold("a", 11.0)
    time.hold("b", 12.0)
    time.hold("a", 13.0)
    before_us = time.whole_us(11.0)
    assert time.whole_us(14.0) == before_us
    time.release("a")
    assert before_us < time.whole_us(14.0) == time.at(12.0)
    time.end()
    assert time.whole_us(14.0) == time.at(14.0)


def test_log_that_is_held_at_once_keeps_the_time_of_the_beginning() -> None:
    time = begun()
    time.hold("a", 3.0)
    assert time.whole_us(11.0) == time.at(10.0)
