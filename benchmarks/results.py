"""What was seen: samples, and their medians and spreads."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self


@dataclass(slots=True)
class Sample:
    """One measure of one system in one run."""

    system: str
    measure: str
    connections: int
    replicas: int
    run: int
    values: dict[str, float] = field(default_factory=dict)
    expected: int = 0
    received: int = 0
    wrong: int = 0
    """Clients that had not exactly the messages that they were sent."""
    error: str = ""

    @property
    def lost(self) -> int:
        """Messages that were sent and did not arrive."""
        return self.expected - self.received

    @property
    def is_valid(self) -> bool:
        """Whether it counts: nothing failed, nothing was lost, nothing came twice."""
        return not self.error and self.lost == 0 and self.wrong == 0


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several samples, and their extremes."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """Return it, None if there are no values."""
        ordered = sorted(values)
        return cls(median(ordered), ordered[0], ordered[-1]) if ordered else None


@dataclass(slots=True)
class Results:
    """A whole run of the benchmarks."""

    about: dict[str, Any] = field(default_factory=dict)
    """Machine, date, command, load, versions, systems that were missing."""
    samples: list[Sample] = field(default_factory=list)

    def select(self, **wanted: Any) -> Iterator[Sample]:
        """Yield the samples whose fields have these values."""
        for sample in self.samples:
            if all(getattr(sample, name) == value for name, value in wanted.items()):
                yield sample

    def spread(self, value: str, **wanted: Any) -> Spread | None:
        """Return median and extremes of one value, over the valid samples."""
        valid = (sample for sample in self.select(**wanted) if sample.is_valid)
        return Spread.of(sample.values[value] for sample in valid if value in sample.values)

    def failed(self) -> list[Sample]:
        """Return the samples that do not count."""
        return [sample for sample in self.samples if not sample.is_valid]

    def save(self, path: Path) -> None:
        """Write all of it as JSON."""
        content = {"about": self.about, "samples": [asdict(sample) for sample in self.samples]}
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote."""
        content = json.loads(path.read_text())
        return cls(content["about"], [Sample(**sample) for sample in content["samples"]])

    def updated(self, later: Self) -> Self:
        """Return these results with what was measured again later, and in addition."""
        again = {(sample.system, sample.measure) for sample in later.samples}
        kept = [sample for sample in self.samples if (sample.system, sample.measure) not in again]
        measured = {system for system, _ in again}
        missing = self.about["missing"].items()
        about = {
            **self.about,
            "load": {**later.about["load"], **self.about["load"]},
            "versions": {**self.about["versions"], **later.about["versions"]},
            "missing": {name: command for name, command in missing if name not in measured},
            "again": [*self.about.get("again", []), _run_of(later)],
        }
        return type(self)(about, kept + later.samples)


def _run_of(results: Results) -> str:
    about = results.about
    return f"{about['date']}, `{about['command']}`, {about['minutes']:.0f} minutes"
