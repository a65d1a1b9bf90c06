"""The bound of Redis' time, whatever the clocks do within their drift."""

from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.registry.redis_time import DRIFT, RedisTime

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
