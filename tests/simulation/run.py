"""The run of one seed: its schedule, with or without the inspection of keys."""

from contextlib import nullcontext

from tests.chaos.seeded import without_inspection
from tests.simulation.loop import VirtualLoop
from tests.simulation.schedule import Policy, plan
from tests.simulation.world import simulate


def violations_of(seed: int, policy: Policy, loop: VirtualLoop) -> list[str]:
    """Return the violations of a seed under a policy.

    Every second seed runs without the inspection of keys, which would hide defects by its repairs with each beat.
    """
    with without_inspection() if seed % 2 else nullcontext():
        return simulate(loop, plan(seed, policy))
