"""A minute of chaos breaks no promise. With a sown fault, the checker names the broken promise."""

import os
from dataclasses import replace

import pytest

from tests.chaos import logs
from tests.chaos.checker import violations
from tests.chaos.follower import OF_CLIENTS
from tests.chaos.history import History
from tests.chaos.run import LEASE_S, chaos
from tests.chaos.schedule import LOGGED, Schedule, Step, plan
from tests.chaos.seeded import FAULTS, OF_LOGS

pytestmark = pytest.mark.alone

LASTS_S = 40.0
"""Seconds of the schedule. With start and end, a run takes about a minute."""
FOLLOWED_S = 20.0
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

FOLLOWERS = 8
AWAY = [Step(1.4 + n / 40, "go away", follower=n, lasts_s=1.2) for n in range(FOLLOWERS)]
"""All are away for more messages than a short log keeps."""
EXCLUDING = [Step(1.0 + n / 50, "keep", n % 2, 0, LOGGED[n % 3], follower=n % FOLLOWERS) for n in range(150)]
KEEPING = [Step(1.0 + n / 50, "keep", n % 2, 1, LOGGED[n % 4]) for n in range(200)]
STALE = [Step(1.5, "restart stale", lasts_s=1.0)]


def broken_logs(history: History) -> list[str]:
    return [f"{name}: {what}" for name, check in logs.CHECKS.items() for what in check(history)]


def together(*steps: list[Step]) -> list[Step]:
    return sorted((step for each in steps for step in each), key=lambda step: step.at_s)


PROVOKED_LOGS = {
    "filter skipped": (together(EXCLUDING, AWAY), 4.5, "exclusions"),
    "join without cursor": (together(KEEPING, AWAY), 5.5, "contiguous"),
    "id used twice": (KEEPING, 5.5, "one message an id"),
    "position after the handler": (KEEPING, 5.5, "one copy"),
}
PROVOKED_TOGETHER = (
    (together(EXCLUDING, AWAY), 4.5),
    (together(KEEPING, AWAY), 5.5),
    (together(KEEPING, STALE), 6.0),
)
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
    history = await chaos(plan(SEED, LASTS_S, clients=150, followers=0))
    assert violations(history) == [], f"python -m tests.chaos --seed {SEED}"
    # The run had enough faults and messages to prove something.
    assert len(history.faults) > 5
    assert sum(len(socket.got) for socket in history.sockets) > 1000


@pytest.mark.timeout(150)
async def test_followers_of_logs_miss_nothing_that_they_are_not_told() -> None:
    history = await chaos(plan(SEED, FOLLOWED_S, clients=20))
    assert broken_logs(history) == [], f"python -m tests.chaos --seed {SEED} --clients 20"
    assert sum(heard.resumed is True for follower in history.followers for heard in follower.heard) > 20


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_was_sown_is_named(fault: str) -> None:
    steps, lasts_s, invariant = PROVOKED[fault]
    schedule = Schedule(0, lasts_s, replicas=2, clients=CROWD, steps=tuple(steps))
    history = await chaos(schedule, sown=fault, settled_s=SOON_S)
    assert invariant in {violation.partition(":")[0] for violation in violations(history)}


@pytest.mark.timeout(150)
@pytest.mark.parametrize("fault", [*OF_LOGS, *OF_CLIENTS])
async def test_a_fault_of_logs_that_was_sown_is_named(fault: str) -> None:
    steps, lasts_s, promise = PROVOKED_LOGS[fault]
    schedule = Schedule(0, lasts_s, replicas=2, clients=2, steps=tuple(steps), followers=FOLLOWERS)
    history = await chaos(schedule, sown=fault, settled_s=SOON_S)
    assert promise in {violation.partition(":")[0] for violation in violations(history)}


@pytest.mark.timeout(150)
async def test_what_provokes_faults_of_logs_breaks_no_promise_of_sound_logs() -> None:
    steps, lasts_s = [], 0.0
    for provoking, takes_s in PROVOKED_TOGETHER:
        steps += [replace(step, at_s=lasts_s + step.at_s) for step in provoking]
        lasts_s += takes_s
    schedule = Schedule(0, lasts_s, replicas=2, clients=2, steps=tuple(steps), followers=FOLLOWERS)
    history = await chaos(schedule)
    assert broken_logs(history) == []
    assert sum(len(follower.heard) for follower in history.followers) > 500


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
