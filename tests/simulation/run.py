"""One seed: a schedule, and the product with or without what repairs keys that were lost."""

from contextlib import nullcontext

from tests.chaos.seeded import without_inspection
from tests.simulation.loop import VirtualLoop
from tests.simulation.schedule import Policy, plan
from tests.simulation.world import simulate


def violations_of(seed: int, policy: Policy, loop: VirtualLoop) -> list[str]:
    """Return what a seed violates under a policy.

    Every second seed runs without the inspection of keys: with each beat it would also repair what the protocol did
    wrong.
    """
    with without_inspection() if seed % 2 else nullcontext():
        return simulate(loop, plan(seed, policy))
