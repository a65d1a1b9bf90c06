"""The gate that is closed after a freeze: time is passed in, and callers continue in the order of arrival."""

import asyncio

import pytest

from fastapi_websocket_stabilizer.registry.freshness import FreshnessGate
from tests.unit.fakes import turns

LASTS_S = 10.0


class World:
    def __init__(self) -> None:
        self.now_s, self.requests = 100.0, 0
        self.gate = FreshnessGate(LASTS_S, self.request)
        self.gate.begin(lambda: self.now_s)
        self.passed: list[int] = []

    def request(self) -> None:
        self.requests += 1

    async def caller(self, number: int) -> None:
        if self.gate.must_wait:
            await self.gate.wait()
        self.passed.append(number)


@pytest.fixture
async def world() -> World:
    return World()


async def test_beat_is_fresh_for_less_than_the_lease(world: World) -> None:
    assert world.gate.is_fresh(100.0 + LASTS_S - 0.001)
    assert not world.gate.is_fresh(100.0 + LASTS_S)


async def test_fresh_gate_has_no_obstacle_and_requests_no_beat(world: World) -> None:
    assert (world.gate.must_wait, world.gate.obstacle(), world.requests) == (False, None, 0)


async def test_stale_gate_has_one_obstacle_and_requests_one_beat(world: World) -> None:
    world.now_s += LASTS_S
    first, second = world.gate.obstacle(), world.gate.obstacle()
    assert first is second is not None
    assert world.requests == 1


async def test_end_of_a_beat_opens_the_gate_from_the_time_at_which_it_was_sent(world: World) -> None:
    world.now_s += LASTS_S
    obstacle = world.gate.obstacle()
    assert obstacle is not None
    world.gate.note_beat(world.now_s - 1.0)
    assert obstacle.done()
    assert world.gate.is_fresh(world.now_s + LASTS_S - 1.001)
    assert not world.gate.is_fresh(world.now_s + LASTS_S - 1.0)


async def test_hold_closes_a_fresh_gate_until_it_is_done(world: World) -> None:
    hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    world.gate.hold(hold)
    assert world.gate.must_wait
    assert world.gate.obstacle() is hold
    hold.set_result(None)
    assert not world.gate.must_wait


async def test_callers_continue_in_the_order_of_arrival_even_if_one_is_cancelled(world: World) -> None:
    world.now_s += LASTS_S
    callers = [asyncio.create_task(world.caller(number)) for number in range(3)]
    await turns()
    callers[1].cancel()
    world.gate.note_beat(world.now_s)
    callers.append(asyncio.create_task(world.caller(3)))
    assert world.gate.must_wait  # earlier callers have not continued yet
    await asyncio.wait(callers)
    assert world.passed == [0, 2, 3]
    assert not world.gate.must_wait


async def test_next_beat_is_one_that_begins_after_the_call(world: World) -> None:
    waiting = asyncio.create_task(world.gate.next_beat())
    await turns()
    assert waiting.done()  # a beat at this very moment counts
    world.now_s += 2.0
    waiting = asyncio.create_task(world.gate.next_beat())
    await turns()
    world.gate.note_beat(world.now_s - 1.0)  # began before the call
    await turns()
    assert not waiting.done()
    assert world.requests == 2
    world.gate.note_beat(world.now_s)
    await turns()
    assert waiting.done()


async def test_gate_that_stays_open_keeps_no_caller_waiting(world: World) -> None:
    world.now_s += LASTS_S
    caller = asyncio.create_task(world.caller(1))
    await turns()
    world.gate.stay_open()
    await caller
    world.now_s += 10 * LASTS_S
    assert not world.gate.must_wait


async def test_gate_of_a_node_without_a_lease_is_open_on_any_loop_and_before_any_beat() -> None:
    assert not FreshnessGate(float("inf")).must_wait
