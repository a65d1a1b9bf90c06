"""``python -m tests.simulation SEED``: show one schedule and what it violates."""

import logging
import sys

from tests.simulation.loop import VirtualLoop
from tests.simulation.schedule import plan
from tests.simulation.world import simulate

logging.disable(logging.CRITICAL)
schedule = plan(int(sys.argv[1]))
for step in schedule.steps:
    print(f"{step.at_s:6.3f} {step.kind} node {step.node} {step.client} {step.room} {step.lasts_s:.2f} s")
print(*(simulate(VirtualLoop(), schedule) or ["nothing is violated"]), sep="\n")
