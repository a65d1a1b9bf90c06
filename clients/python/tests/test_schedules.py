"""Any order of events keeps the promise, and each broken rule is found."""

import random
from collections.abc import Sequence

import pytest
from clients.python.tests.mutations import MUTATIONS, Mutation
from clients.python.tests.world import Picks, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastapi_websocket_stabilizer_client.machine import Machine

STEPS = 120
PICKS_PER_STEP = 6
MOST_SCHEDULES = 4000
"""Schedules after which a broken rule counts as not found. The slowest one needs a quarter of them."""


def run(seed: int, make: type[Machine] = Machine, often: Sequence[str] = ()) -> None:
    numbers = random.Random(seed)
    picks = Picks([numbers.randrange(5040) for _ in range(STEPS * PICKS_PER_STEP)])
    World(picks, make, often).run(STEPS)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 5039), max_size=400))
def test_promise_is_kept_in_short_schedules(numbers: list[int]) -> None:
    World(Picks(numbers)).run(60)


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_promise_is_kept_in_long_schedules(first: int) -> None:
    for seed in range(first, first + 100):
        run(seed)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_broken_rule_is_found(mutation: Mutation) -> None:
    with mutation.applied():
        for seed in range(MOST_SCHEDULES):
            try:
                run(seed, mutation.make, mutation.often)
            except Exception:  # noqa: BLE001 - any failure shows the broken rule
                return
    pytest.fail("no schedule found the broken rule")
