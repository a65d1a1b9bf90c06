"""Parts of a writer: a bound of sends that forgets nobody, and coroutines that go on after a step by hand."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.local.sends import SendLimiter, first_step
from tests.unit.fakes import turns


def caller(limiter: SendLimiter, called: list[int], number: int) -> Callable[[], None]:
    def enter() -> None:
        called.append(number)
        limiter.enter()

    return enter


def test_gate_is_open_below_the_limit() -> None:
    limiter = SendLimiter(lambda: 2)
    states = [limiter.is_open()]
    for _ in range(2):
        limiter.enter()
        states.append(limiter.is_open())
    assert states == [True, True, False]


def test_whoever_waits_longest_is_called_when_one_leaves() -> None:
    limiter, called = SendLimiter(lambda: 1), list[int]()
    limiter.enter()
    for number in (1, 2):
        limiter.wait(caller(limiter, called, number))
    limiter.leave()
    assert (called, limiter.is_open(), limiter.deferred) == ([1], False, 2)


def test_one_that_does_not_enter_lets_the_next_one_in() -> None:
    limiter, called = SendLimiter(lambda: 1), list[int]()
    limiter.enter()
    limiter.wait(lambda: called.append(1))
    limiter.wait(caller(limiter, called, 2))
    limiter.leave()
    assert called == [1, 2]


def test_raised_limit_lets_more_in_when_one_leaves() -> None:
    limit, called = [1], list[int]()
    limiter = SendLimiter(lambda: limit[0])
    limiter.enter()
    for number in (1, 2, 3):
        limiter.wait(caller(limiter, called, number))
    limit[0] = 2
    limiter.leave()
    assert called == [1, 2]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_gate_is_never_overfull_and_calls_in_order(arrivals: list[bool], limit: int) -> None:
    """True is somebody who comes, False one who is inside and leaves."""
    limiter, called, inside, waiting = SendLimiter(lambda: limit), list[int](), 0, 0
    for number, comes in enumerate(arrivals):
        if comes and limiter.is_open():
            limiter.enter()
            inside += 1
        elif comes:
            limiter.wait(caller(limiter, called, number))
            waiting += 1
        elif inside:
            limiter.leave()
            inside, waiting = (inside, waiting - 1) if waiting else (inside - 1, 0)
        assert limiter.is_open() is (inside < limit)
        assert (called == sorted(called), len(called)) == (True, limiter.deferred - waiting)


async def rest_of(coroutine: Coroutine[Any, Any, None]) -> None:
    """Take the first step here and the others in a task."""
    rest = first_step(coroutine)
    if rest is not None:
        await asyncio.create_task(wrap(rest))


async def wrap(rest: Any) -> None:
    await rest


async def test_every_further_step_is_taken() -> None:
    steps: list[int] = []

    async def work() -> None:
        for number in range(3):
            steps.append(number)
            await asyncio.sleep(0)
        steps.append(3)

    await rest_of(work())
    assert steps == [0, 1, 2, 3]


async def test_future_that_is_awaited_brings_its_value_or_its_error() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    heard: list[Any] = []

    async def work() -> None:
        heard.append(await future)

    rest = asyncio.create_task(rest_of(work()))
    await turns()
    future.set_result(7)
    await rest
    assert heard == [7]


async def test_error_inside_comes_out() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await rest_of(work())


@pytest.mark.parametrize("wait", [lambda: asyncio.Event().wait(), lambda: turns(1000)])
async def test_cancellation_goes_in(wait: Any) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    rest = asyncio.create_task(rest_of(work()))
    await turns()
    rest.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rest
    assert ended == ["cancelled"]
