"""One row of the page: the fault, the promise, and the time of recovery in one trial."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from .world import ServerWorld, World

Trial = Callable[[Any], Awaitable[dict[str, float]]]
"""Injects the fault once into a world of the row's kind; returns seconds by the event that ended each.

It leaves the world complete.
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
    """Add a trial to the page, under its own name."""

    def add(trial: Trial) -> Trial:
        name = trial.__name__.replace("_", "-")
        ROWS[name] = Row(name, fault, promise, world, trial)
        return trial

    return add
