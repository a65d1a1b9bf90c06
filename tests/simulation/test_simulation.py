"""Ten thousand random schedules under each policy violate no promise of docs/design.md."""

import asyncio
import contextvars
import gc
import logging
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import Any

import pytest

from fastapi_websocket_stabilizer.backends.ports import Renewal
from fastapi_websocket_stabilizer.registry.drain import Drain
from tests.chaos.seeded import FAULTS, sown
from tests.simulation.loop import NODE, VirtualLoop
from tests.simulation.node import Node, Socket
from tests.simulation.run import violations_of
from tests.simulation.schedule import (
    BEAT_S,
    FOLLOWED,
    LEASE_S,
    LOGS,
    POLICIES,
    Policy,
    Schedule,
    Step,
    plan,
)
from tests.simulation.world import World, simulate

# In CI these tests run in the time that all others leave.
pytestmark = pytest.mark.timeout(1500)

SCHEDULES = 10_000
FIRST = 500
"""Number of schedules that the first job of CI tries. The second job tries the others."""
PARTS = 8
GARBAGE = 50_000
"""Number of new objects after which garbage is collected. The default of 700 takes a tenth of the time."""
SOME = 400
"""Number of schedules that provoke each sown fault at least once."""


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    logging.disable(logging.CRITICAL)
    loop = VirtualLoop()
    yield loop
    loop.close()
    logging.disable(logging.NOTSET)


def violations(seeds: range, policy: Policy = "degrade", loop: VirtualLoop | None = None) -> list[str]:
    """Return the violations of each seed. ``python -m tests.simulation SEED POLICY`` shows one."""
    logging.disable(logging.CRITICAL)
    loop = loop or VirtualLoop()
    found = []
    for seed in seeds:
        found += [f"seed {seed} {policy}: {what}" for what in violations_of(seed, policy, loop)]
    return found


def violations_of_all(seeds: range) -> list[str]:
    """Return the violations of each seed under each policy. All cores work on it."""
    size = len(seeds) // PARTS
    parts = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    jobs = list(product(parts, POLICIES))
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_prepare) as pool:
        return [violation for part in pool.map(violations, *zip(*jobs, strict=True)) for violation in part]


def _prepare() -> None:
    """Prepare a process that only simulates.

    It is not traced for coverage, which would take four times as long. The tests of sown faults cover the same code.
    """
    sys.settrace(None)
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 100)


def test_no_schedule_violates_an_invariant_under_either_policy() -> None:
    assert violations_of_all(range(FIRST)) == []


@pytest.mark.later
def test_no_later_schedule_violates_an_invariant_under_either_policy() -> None:
    assert violations_of_all(range(FIRST, SCHEDULES)) == []


@pytest.mark.parametrize(
    ("fault", "invariant"),
    [
        ("fence off", "joins and leaves"),
        ("sweep without compare", "listed again"),
        ("dropped evict", "one socket"),
        ("doubled publish", "at most once"),
        ("deletion on zero receivers", "listed again"),
        ("unreported leave", "joins and leaves"),
        ("leave by guess", "joins and leaves"),
        ("joined again", "joins and leaves"),
        ("cancelled is left", "joins and leaves"),
    ],
)
def test_a_fault_that_was_sown_is_found(fault: str, invariant: str, loop: VirtualLoop) -> None:
    with sown(fault):
        found = next((v for seed in range(SOME) for v in violations(range(seed, seed + 1), loop=loop)), "")
    assert f": {invariant}:" in found


def test_client_that_comes_while_a_start_fails_is_listed_after_the_next_start(loop: VirtualLoop) -> None:
    assert violations(range(3425, 3426), "refuse", loop) == []


STALE = (
    *(Step(0.1 + n / 10, "keep", n % 2, "", LOGS[0], 1.0) for n in range(24)),
    Step(0.9, "go_away", 0, "f0", lasts_s=1.4),
    Step(1.0, "restart_stale", 0, lasts_s=0.5),
)
"""Redis loses messages that the node of one follower has received, while the other follower is away."""


def of_stale_logs(seed: int) -> Schedule:
    """Return a schedule in which Redis comes back with logs from before."""
    return Schedule(seed, 2, tuple(sorted(STALE, key=lambda step: step.at_s)), followers=2)


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("filter skipped", "exclusions"),
        ("join without cursor", "contiguous"),
        ("trim without base", "contiguous"),
    ],
)
def test_a_fault_of_logs_that_was_sown_is_found(fault: str, promise: str, loop: VirtualLoop) -> None:
    seeds = range(0, 4 * SOME, FOLLOWED)
    with sown(fault):
        found = next((v for seed in seeds for v in violations(range(seed, seed + 1), loop=loop)), "")
    assert f": {promise}:" in found


def test_messages_that_redis_lost_and_a_node_has_are_there_for_followers_that_come_back(
    loop: VirtualLoop,
) -> None:
    assert [v for seed in range(50) for v in simulate(loop, of_stale_logs(seed))] == []
    with sown("verify skipped"):
        found = next((v for seed in range(50) for v in simulate(loop, of_stale_logs(seed))), "")
    assert found.startswith("contiguous:")


def test_followers_come_back_in_most_schedules_with_followers(loop: VirtualLoop) -> None:
    resumed = 0
    for seed in range(0, 20 * FOLLOWED, FOLLOWED):
        loop.reset()
        world = World(loop, plan(seed))
        loop.run_until_complete(world.run())
        heard = [heard for follower in world.told.followers for heard in follower.heard]
        resumed += any(each.resumed is True for each in heard) and any(each.id for each in heard)
    assert resumed > 10


def test_every_fault_that_can_be_sown_is_tried_here() -> None:
    (mark,) = test_a_fault_that_was_sown_is_found.pytestmark  # type: ignore[attr-defined]  # pytest put it there
    assert {fault for fault, _ in mark.args[1]} == set(FAULTS)


def test_a_drain_that_takes_longer_than_it_may_is_found(
    loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drain, "_soon_s", lambda _: 0.3)
    found = next((v for seed in range(SOME) for v in violations(range(seed, seed + 1), loop=loop)), "")
    assert ": drained in time:" in found


def test_a_lost_bus_lets_nothing_overtake_what_redis_has_not_taken_yet(loop: VirtualLoop) -> None:
    steps = (
        Step(0.1, "connect", 0, "c0"),
        Step(1.0, "broadcast", 0),
        Step(1.001, "lose_bus", 0),
        Step(1.002, "direct", 0, "c0"),
    )
    assert [v for seed in range(100) for v in simulate(loop, Schedule(seed, 2, steps))] == []


def test_what_is_sent_after_a_freeze_arrives_in_the_order_of_the_calls(loop: VirtualLoop) -> None:
    kinds = ("direct", "broadcast", "direct", "broadcast", "direct")
    calls = [Step(1.0 + n / 10, kind, 0, "c0") for n, kind in enumerate(kinds)]
    steps = (Step(0.1, "connect", 0, "c0"), Step(0.5, "freeze", 0, lasts_s=2 * LEASE_S), *calls)
    assert [v for seed in range(100) for v in simulate(loop, Schedule(seed, 2, steps))] == []


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fault", ["cut", "swallow", "freeze", "lose_bus"])
@pytest.mark.parametrize("lasts_s", [0.3, 0.7 * LEASE_S, 3 * LEASE_S])
def test_room_that_is_taken_from_a_client_of_a_node_that_is_away_does_not_come_back(
    loop: VirtualLoop, fault: str, lasts_s: float, policy: Policy
) -> None:
    def steps(seed: int) -> tuple[Step, ...]:
        after_s = 0.9 * lasts_s * random.Random(seed).random()
        return (
            Step(0.1, "connect" if seed % 2 else "resume", 0, "c0"),
            Step(0.3, "join", 1, "c0", "r0"),
            Step(0.5, fault, 0, lasts_s=lasts_s),
            Step(0.5 + after_s, "leave", 1, "c0", "r0"),
        )

    assert [v for seed in range(20) for v in simulate(loop, Schedule(seed, 2, steps(seed), policy))] == []


def test_what_is_found_while_a_node_catches_up_waits_for_no_further_beat(loop: VirtualLoop) -> None:
    loop.reset()
    world = World(loop, Schedule(1, 1, ()))

    async def live() -> bool:
        node = Node("n0", world.hub, world.rng, lambda *_: None)
        await node.do(node.manager.start())
        socket: Any = Socket("c0", node, lambda _: None)
        await node.do(node.manager.connect("c0", socket))
        recovery = node.manager.registry.recovery
        await asyncio.sleep(1.02 * BEAT_S)  # shortly after a beat
        node.context.copy().run(recovery.gap_ended, 0.1)  # the node begins a long comparison
        for _ in range(5):
            await asyncio.sleep(0)
        assert recovery._is_catching_up
        node.context.copy().run(recovery.store_changed)
        node.context.copy().run(recovery.renewed, Renewal(held=True, live={}, lapsed=()))
        await asyncio.sleep(0.9 * BEAT_S)  # before the next beat
        is_done = not node.manager.registry.connections.reclaims._unclaimed
        await node.do(node.manager.graceful_shutdown(1.0))
        return is_done

    assert loop.run_until_complete(live())


def test_the_same_seed_is_the_same_schedule_and_the_same_history(loop: VirtualLoop) -> None:
    assert plan(3) == plan(3) != plan(4)
    histories = []
    for _ in range(2):
        loop.reset()
        world = World(loop, plan(3))
        loop.run_until_complete(world.run())
        events = [(name, event.event_id) for name, event in world.events]
        histories.append((events, [(s.received, s.closed_with, s.claimed_s) for s in world.sockets]))
    assert histories[0] == histories[1]


def test_time_is_virtual(loop: VirtualLoop) -> None:

    loop.reset()
    began_s = loop.time()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() - began_s == 3600


def test_a_frozen_node_does_nothing_until_it_is_thawed(loop: VirtualLoop) -> None:

    loop.reset()
    done: list[float] = []

    async def world() -> None:
        context = contextvars.copy_context()
        context.run(NODE.set, "frozen")
        loop.freeze("frozen")
        context.run(loop.call_later, 1, lambda: done.append(loop.now_s))
        await asyncio.sleep(5)
        assert done == []
        loop.thaw("frozen")
        await asyncio.sleep(0)

    loop.run_until_complete(world())
    assert done == [loop.now_s]
