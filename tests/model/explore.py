"""Visits every state of a family, breadth first, each once."""

import gc
from collections import deque
from dataclasses import dataclass

from fastapi_websocket_stabilizer.registry.feed import Feed

from .world import RIGHT, Action, Family, Rules, Violation, World


@dataclass(frozen=True)
class Found:
    """A violation and the steps that lead to it."""

    what: str
    steps: tuple[Action, ...]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {' '.join(map(str, step))}" for step in self.steps)])


@dataclass
class Result:
    states: int = 0
    steps: int = 0
    settled: int = 0
    deepest: int = 0
    is_complete: bool = True
    found: Found | None = None


def explore(
    family: Family, rules: Rules = RIGHT, make: type[Feed[int]] = Feed, most: int = 10_000_000
) -> Result:
    """Visit the states of ``family`` until one violates the promise, or ``most`` are visited."""
    was_enabled = gc.isenabled()
    gc.disable()  # nothing is garbage: half of the time would go into looking for some
    try:
        return _Search(World(family, rules, make), most).run()
    finally:
        if was_enabled:
            gc.enable()


class _Search:
    def __init__(self, start: World, most: int) -> None:
        self._start, self._most = start, most
        self._result = Result()
        self._came: dict[int, tuple[int, Action]] = {}
        self._next: dict[int, int] = {}  # the state after the first step that happens by itself

    def run(self) -> Result:
        start, result = self._start, self._result
        key = hash(start.key())
        self._seen = {key}
        self._line = deque([(start, key, 0)])
        while self._line and result.found is None:
            if len(self._seen) > self._most:
                result.is_complete = False
                break
            self._visit(*self._line.popleft())
        result.states = len(self._seen)
        if result.found is None:
            self._find_circle()
        return result

    def _visit(self, world: World, key: int, depth: int) -> None:
        result, action = self._result, ("settle",)
        result.deepest = max(result.deepest, depth)
        try:
            by_itself = next(world.progress(), None)
            if by_itself is None:
                result.settled += 1
                world.settle()
            if depth >= world.family.depth:
                result.is_complete = False
                return
            for action in tuple(world.actions()):
                other = world.after(action)
                result.steps += 1
                other_key = hash(other.key())
                if action == by_itself:
                    self._next[key] = other_key
                if other_key not in self._seen:
                    self._seen.add(other_key)
                    self._came[other_key] = key, action
                    self._line.append((other, other_key, depth + 1))
        except Violation as violation:
            result.found = Found(str(violation), (*self._way(key), action))

    def _find_circle(self) -> None:
        """Find steps that happen by themselves and lead back to where they began: the system never rests."""
        rests: set[int] = set()
        for start in self._next:
            way: dict[int, None] = {}
            key: int | None = start
            while key in self._next and key not in rests:
                if key in way:
                    self._result.found = Found("never comes to rest", self._way(start))
                    return
                way[key] = None
                key = self._next[key]
            rests.update(way)

    def _way(self, key: int) -> tuple[Action, ...]:
        steps: list[Action] = []
        while key in self._came:
            key, action = self._came[key]
            steps.append(action)
        return tuple(reversed(steps))
