"""The schedule of a chaos run. It depends only on the seed, not on the course of the run."""

import random
from dataclasses import dataclass

ROOMS = [f"room-{number}" for number in range(5)]
FAULTS = {
    "kill": 4, "freeze": 4, "cut": 3, "blackhole": 3, "throttle": 2, "restart empty": 1, "flush": 1,
    "kill pubsub": 3, "freeze redis": 1, "slow reader": 4, "roll": 3,
}  # fmt: skip
ACTIONS = {
    "move": 9, "hasty": 2, "hang up": 2, "join": 5, "leave": 2, "direct": 14, "all": 6, "room": 8,
}  # fmt: skip
HASTY = 20
"""Number of clients that always connect with a time limit."""
PER_SECOND = 40.0


@dataclass(frozen=True, slots=True)
class Step:
    """One action or fault. ``lasts_s`` is the duration of faults that end, ``size`` the padding of a message."""

    at_s: float
    kind: str
    replica: int = 0
    client: int = 0
    room: str = ""
    lasts_s: float = 0.0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole run: actions and faults for ``lasts_s`` seconds. After that the registry settles."""

    seed: int
    lasts_s: float
    replicas: int
    clients: int
    steps: tuple[Step, ...]


def plan(seed: int, lasts_s: float, *, replicas: int = 3, clients: int = 200) -> Schedule:
    """Return the schedule of a seed."""
    rng = random.Random(seed)
    steps = [_action(rng, lasts_s, replicas, clients) for _ in range(int(lasts_s * PER_SECOND))]
    at_s = rng.uniform(1, 3)
    while at_s < lasts_s:
        kind = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
        lasts = rng.uniform(0.2, 5.0)
        steps.append(
            Step(
                at_s,
                kind,
                rng.randrange(replicas),
                rng.randrange(clients),
                lasts_s=min(lasts, lasts_s - at_s),
            )
        )
        at_s += rng.uniform(0.5, 4.0)
    return Schedule(seed, lasts_s, replicas, clients, tuple(sorted(steps, key=lambda step: step.at_s)))


def _action(rng: random.Random, lasts_s: float, replicas: int, clients: int) -> Step:
    kind = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
    size = rng.choice((0, 0, 0, 0, 30_000)) if kind == "direct" else 0
    return Step(
        rng.uniform(0, lasts_s),
        kind,
        rng.randrange(replicas),
        rng.randrange(clients),
        rng.choice(ROOMS),
        size=size,
    )
