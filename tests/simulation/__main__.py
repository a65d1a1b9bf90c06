"""``python -m tests.simulation SEED [refuse]`` prints one schedule and its violations."""

import argparse
import logging

from tests.simulation.loop import VirtualLoop
from tests.simulation.run import violations_of
from tests.simulation.schedule import POLICIES, plan

parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
parser.add_argument("seed", type=int)
parser.add_argument("policy", nargs="?", choices=POLICIES, default=POLICIES[0], help="on_backend_loss")
given = parser.parse_args()

logging.disable(logging.CRITICAL)
schedule = plan(given.seed, given.policy)
for step in schedule.steps:
    print(f"{step.at_s:6.3f} {step.kind} node {step.node} {step.client} {step.room} {step.lasts_s:.2f} s")
print(*(violations_of(given.seed, given.policy, VirtualLoop()) or ["nothing is violated"]), sep="\n")
