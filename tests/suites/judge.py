"""Compare our results in a foreign test suite with those of uvicorn's own class. Pure."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Rank(IntEnum):
    """How well a test went, the best last."""

    FAILED = 0
    SKIPPED = 1
    TOLERATED = 2  # Autobahn: not strictly what the RFC asks for, or for information only
    PASSED = 3


Results = Mapping[str, Rank]
"""The result of each test or case, by its name."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that our class fails on purpose, in the named ways of serving a socket."""

    test: str
    ways: frozenset[str]
    reason: str

    def covers(self, name: str) -> bool:
        """Whether ``name`` is this test, with any parameters."""
        return name.partition("[")[0].rpartition("::")[2] == self.test


def load_differences(path: Path) -> list[Difference]:
    """Read the list of known differences."""
    rows = tomllib.loads(path.read_text())["difference"]
    return [Difference(row["test"], frozenset(row["ways"]), row["reason"]) for row in rows]


def regressions(stock: Results, ours: Results) -> list[str]:
    """Return the tests that go worse with our class than with uvicorn's, a missing result being a failure."""
    return [name for name, rank in stock.items() if ours.get(name, Rank.FAILED) < rank]


def violations(stock: Results, ours: Results, differences: Iterable[Difference]) -> list[str]:
    """Return one line for each regression that is not listed, and one for each line of the list that is stale."""
    listed = {name: each for each in differences for name in stock if each.covers(name)}
    worse = [
        f"{name}: worse than with uvicorn's class" for name in regressions(stock, ours) if name not in listed
    ]
    stale = [f"{name}: passes, but is listed" for name in listed if ours.get(name) is Rank.PASSED]
    unknown = [
        f"{each.test}: listed, but not in the suite" for each in differences if each not in listed.values()
    ]
    return worse + stale + unknown
