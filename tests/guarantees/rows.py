"""One row of the page: the fault, the promise, and the time of recovery in one trial."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from .world import ServerWorld, World

Trial = Callable[[Any], Awaitable[dict[str, float]]]
"""Function that injects the fault once into a world, and returns the seconds until each measured event.

The world is complete again when the function returns.
"""


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    name: str
    fault: str
    promise: str
    world: type[World]
    trial: Trial


ROWS: dict[str, Row] = {}


def row(fault: str, promise: str, world: type[World] = ServerWorld) -> Callable[[Trial], Trial]:
    """Return a decorator that adds a trial to the page, under the name of its function."""

    def add(trial: Trial) -> Trial:
        name = trial.__name__.replace("_", "-")
        ROWS[name] = Row(name, fault, promise, world, trial)
        return trial

    return add
