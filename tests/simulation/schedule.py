"""The schedule of one simulation, which depends only on the seed."""

import random
from dataclasses import dataclass
from typing import Literal

LEASE_S = 1.5
BEAT_S = 0.5
LASTS_S = 4.0
"""Seconds of operations and faults. After that all faults are mended and the registry settles."""

Policy = Literal["degrade", "refuse"]
POLICIES: tuple[Policy, ...] = ("degrade", "refuse")
"""Values of ``on_backend_loss``, with the default first."""
CANCELLED_WITHIN_S = 0.15
"""Longest time in seconds until a connect is cancelled, about the duration of its commands."""
OPERATIONS = {
    "connect": 7, "resume": 4, "cancel": 2, "close": 2, "join": 3, "leave": 1, "direct": 3, "broadcast": 3, "room": 2,
}  # fmt: skip
FAULTS = {
    "freeze": 5, "crash": 3, "cut": 3, "swallow": 2, "break": 2, "lose_bus": 2, "flush": 1, "restart_empty": 1,
    "step_clock": 1, "drain": 4, "stop": 2,
}  # fmt: skip

FOLLOWED = 16
"""One schedule of so many has followers. It takes three times as long as one without."""
FOLLOWERS = 2
OF_FOLLOWERS = {"go_away": 4, "keep": 12, "keep_both": 3}
LOGS = ("k0", "k1")
"""Rooms with a history, in which all followers are."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation or fault on a node. ``lasts_s`` is the duration of faults that end."""

    at_s: float
    kind: str
    node: int
    client: str = ""
    room: str = ""
    lasts_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """All steps of a run, in order of time. ``followers`` are clients of ``stabilizer.v1`` that read logs."""

    seed: int
    nodes: int
    steps: tuple[Step, ...]
    policy: Policy = "degrade"
    followers: int = 0


def _pick(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def plan(seed: int, policy: Policy = "degrade") -> Schedule:
    """Return the schedule of a seed, with the policy of its nodes."""
    rng = random.Random(seed)
    nodes = rng.choice((2, 2, 3))
    steps = [_operation(rng, nodes) for _ in range(rng.randint(4, 12))]
    steps += [_fault(rng, nodes) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    followers = FOLLOWERS if seed % FOLLOWED == 0 else 0
    steps += [_of_follower(rng, nodes) for _ in range(rng.randint(8, 24) if followers else 0)]
    return Schedule(seed, nodes, tuple(sorted(steps, key=lambda step: step.at_s)), policy, followers)


def _operation(rng: random.Random, nodes: int) -> Step:
    at_s, node = rng.uniform(0, LASTS_S), rng.randrange(nodes)
    kind, client, room = _pick(rng, OPERATIONS), f"c{rng.randrange(3)}", f"r{rng.randrange(2)}"
    return Step(
        at_s, kind, node, client, room, rng.uniform(0, CANCELLED_WITHIN_S) if kind == "cancel" else 0.0
    )


def _of_follower(rng: random.Random, nodes: int) -> Step:
    """Return a step about a follower, or about a log."""
    at_s, client, room = rng.uniform(0, LASTS_S), f"f{rng.randrange(FOLLOWERS)}", rng.choice(LOGS)
    return Step(at_s, _pick(rng, OF_FOLLOWERS), rng.randrange(nodes), client, room, rng.uniform(0.1, 2.0))


def _fault(rng: random.Random, nodes: int) -> Step:
    at_s, lasts_s = rng.uniform(0, LASTS_S), rng.uniform(0.1, 2.5 * LEASE_S)
    return Step(at_s, _pick(rng, FAULTS), rng.randrange(nodes), lasts_s=lasts_s)
