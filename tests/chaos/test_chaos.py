"""A minute of chaos breaks no promise. With a sown fault, the checker names the broken promise."""

import os
from dataclasses import replace

import pytest

from tests.chaos.checker import violations
from tests.chaos.run import LEASE_S, chaos
from tests.chaos.schedule import Schedule, Step, plan
from tests.chaos.seeded import FAULTS

pytestmark = pytest.mark.alone

LASTS_S = 40.0
"""Seconds of the schedule. With start and end, a run takes about a minute."""
SEED = int(os.environ.get("CHAOS_SEED", "1"))

CROWD = 12
SOON_S = 4.0
"""Seconds to settle in a run with a sown fault, which never reaches a correct state."""
EVERYBODY = range(CROWD)
# Client n begins on replica n % 2, so clients with even numbers are on replica 0.
MOVES = [Step(1.0 + n / 20, "move", 1, n) for n in EVERYBODY[::2]]
DIRECT = [Step(1.0 + n / 100, "direct", 1, 2 * (n % 6)) for n in range(200)]
DEAF = [Step(1.2 + n / 10, "kill pubsub") for n in range(15)]
FROZEN = [Step(1.0, "freeze", 0, lasts_s=1.8 * LEASE_S)]
HASTY = [Step(1.0 + n / 100, "hasty", n % 2, n % CROWD) for n in range(100)]
UNHEARD = sorted([*DIRECT, *DEAF], key=lambda step: step.at_s)

PROVOKED = {
    # Replica 0 is swept while it is frozen, and continues with the former lease.
    "fence off": (FROZEN, 4.8, "listed"),
    # The clients of replica 0 have reconnected elsewhere before its sweep.
    "sweep without compare": ([Step(1.0, "kill", 0)], 2.0, "listed"),
    "dropped evict": (MOVES, 2.0, "one socket"),
    "doubled publish": ([Step(1.0, "all", 0)], 1.5, "at most once"),
    # For a moment no node is subscribed.
    "deletion on zero receivers": (UNHEARD, 3.5, "listed"),
    "unreported leave": ([Step(1.0, "hang up", 0, client) for client in EVERYBODY], 2.0, "joins and leaves"),
    # The clients of replica 0 are on no other replica at its sweep.
    "leave by guess": (FROZEN, 4.8, "joins and leaves"),
    "joined again": ([Step(1.0, "flush")], 2.0, "joins and leaves"),
    "cancelled is left": (HASTY, 2.5, "joins and leaves"),
}


@pytest.mark.timeout(180)
async def test_a_minute_of_chaos_breaks_no_promise() -> None:
    history = await chaos(plan(SEED, LASTS_S, clients=150))
    assert violations(history) == [], f"python -m tests.chaos --seed {SEED}"
    # The run had enough faults and messages to prove something.
    assert len(history.faults) > 5
    assert sum(len(socket.got) for socket in history.sockets) > 1000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_was_sown_is_named(fault: str) -> None:
    steps, lasts_s, invariant = PROVOKED[fault]
    schedule = Schedule(0, lasts_s, replicas=2, clients=CROWD, steps=tuple(steps))
    history = await chaos(schedule, sown=fault, settled_s=SOON_S)
    assert invariant in {violation.partition(":")[0] for violation in violations(history)}


@pytest.mark.timeout(60)
async def test_what_provokes_them_breaks_no_promise_of_the_sound_product() -> None:
    steps, lasts_s = [], 0.0
    for provoking, takes_s, _ in PROVOKED.values():
        steps += [replace(step, at_s=lasts_s + step.at_s) for step in provoking]
        lasts_s += takes_s
    history = await chaos(Schedule(0, lasts_s, replicas=2, clients=CROWD, steps=tuple(steps)))
    assert violations(history) == []


def test_the_same_seed_is_the_same_schedule() -> None:
    assert plan(7, 60) == plan(7, 60) != plan(8, 60)
