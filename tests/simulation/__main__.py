"""``python -m tests.simulation SEED``: show one schedule and what it violates."""

import logging
import sys

from tests.simulation.loop import VirtualLoop
from tests.simulation.run import violations_of
from tests.simulation.schedule import plan

logging.disable(logging.CRITICAL)
seed = int(sys.argv[1])
schedule = plan(seed)
for step in schedule.steps:
    print(f"{step.at_s:6.3f} {step.kind} node {step.node} {step.client} {step.room} {step.lasts_s:.2f} s")
print(*(violations_of(seed, VirtualLoop()) or ["nothing is violated"]), sep="\n")
