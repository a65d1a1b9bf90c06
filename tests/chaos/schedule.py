"""The schedule of a chaos run. It depends only on the seed, not on the course of the run."""

import random
from dataclasses import dataclass

from tests.chaos.history import Bounds

ROOMS = [f"room-{number}" for number in range(5)]
KEPT, BRIEF = "kept-", "brief-"
LOGS = {KEPT: Bounds(300, 60), BRIEF: Bounds(15, 6)}
"""Bounds of the logs of rooms, by prefix. The log of everybody has those of ``KEPT``."""
LOGGED = ["kept-0", "kept-1", "kept-2", "brief-0"]
"""Rooms with a log."""
ABRUPT = 0.02
FOLLOWERS = 30
"""Number of clients of ``stabilizer.v1``."""
FAULTS = {
    "kill": 4, "freeze": 4, "cut": 3, "blackhole": 3, "throttle": 2, "restart empty": 1, "flush": 1,
    "kill pubsub": 3, "freeze redis": 1, "slow reader": 4, "roll": 3,
    "restart stale": 0,
}  # fmt: skip
ACTIONS = {
    "move": 9, "hasty": 2, "hang up": 2, "join": 5, "leave": 2, "direct": 14, "all": 6, "room": 8,
    "keep": 10, "keep both": 2, "keep for all": 2,
}  # fmt: skip
OF_FOLLOWERS = {"go away": 4, "admit": 2, "revoke": 1, "doze": 1, "keep box": 8}
HASTY = 20
"""Number of clients that always connect with a time limit."""
PER_SECOND = 55.0
LONGEST_AWAY_S = 150.0
AWAY_S = 4.0
"""Usual longest time in seconds that a follower is away. One in ten is away for up to ``LONGEST_AWAY_S``."""


@dataclass(frozen=True, slots=True)
class Step:
    """One action or fault.

    ``lasts_s`` is the duration of what ends, ``size`` the padding of a message. ``follower`` is a number as well.
    """

    at_s: float
    kind: str
    replica: int = 0
    client: int = 0
    room: str = ""
    lasts_s: float = 0.0
    size: int = 0
    follower: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole run: actions and faults for ``lasts_s`` seconds. After that the registry settles.

    ``abrupt`` is the share of messages whose handler connects again while it handles them.
    """

    seed: int
    lasts_s: float
    replicas: int
    clients: int
    steps: tuple[Step, ...]
    followers: int = 0
    abrupt: float = ABRUPT


def plan(
    seed: int, lasts_s: float, *, replicas: int = 3, clients: int = 200, followers: int = FOLLOWERS
) -> Schedule:
    """Return the schedule of a seed."""
    rng = random.Random(seed)
    steps = [_action(rng, lasts_s, replicas, clients, followers) for _ in range(int(lasts_s * PER_SECOND))]
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
    ordered = tuple(sorted(steps, key=lambda step: step.at_s))
    return Schedule(seed, lasts_s, replicas, clients, ordered, followers)


def _action(rng: random.Random, lasts_s: float, replicas: int, clients: int, followers: int) -> Step:
    weights = ACTIONS | (OF_FOLLOWERS if followers else {})
    kind = rng.choices(list(weights), list(weights.values()))[0]
    at_s, is_long = rng.uniform(0, lasts_s), kind == "go away" and rng.random() < 0.1
    rooms = {"keep": LOGGED, "admit": LOGGED, "revoke": LOGGED, "join": [*ROOMS, *LOGGED]}
    return Step(
        at_s,
        kind,
        rng.randrange(replicas),
        rng.randrange(clients),
        rng.choice(rooms.get(kind, ROOMS)),
        rng.uniform(0.1, LONGEST_AWAY_S if is_long else AWAY_S) if kind in ("go away", "doze") else 0.0,
        rng.choice((0, 0, 0, 0, 30_000)) if kind == "direct" else 0,
        rng.randrange(followers or 1),
    )
