"""The command line: ``python -m tests.guarantees --help``."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from . import one_server, several_servers  # noqa: F401 - both fill ROWS
from .page import Results, page
from .resumes import RESUMES, Counts, trial
from .rows import ROWS, Row
from .world import CLIENTS, World


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.guarantees", description=__doc__)
    names = [*ROWS, *RESUMES]
    parser.add_argument("--only", choices=names, action="append", help="a row; may be given several times")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--worlds", type=int, default=4, help="number of parallel trials")
    parser.add_argument("--lease", type=float, default=10.0, help="lease_ttl_s; a beat is 0.3 of it")
    parser.add_argument("--output", type=Path, help="file of the page; printed if omitted")
    parser.add_argument("--json", type=Path, help="file for the figures of every trial")
    options = parser.parse_args()
    chosen = options.only or names
    rows = [ROWS[name] for name in chosen if name in ROWS]
    results = asyncio.run(measure(rows, options.trials, options.worlds, options.lease))
    counts = asyncio.run(resume([name for name in chosen if name in RESUMES], options.trials, options.worlds))
    text = page(results, counts, clients=CLIENTS, lease_s=options.lease, beat_s=0.3 * options.lease)
    if options.json is not None:
        counted = {name: list(map(asdict, trials)) for name, trials in counts.items()}
        options.json.write_text(json.dumps(results | counted, indent=1))
    if options.output is not None:
        options.output.write_text(text)
    else:
        print(text)


async def measure(rows: list[Row], trials: int, worlds: int, lease_s: float) -> Results:
    """Return the seconds of ``trials`` trials of each row."""
    results: Results = {row.name: {} for row in rows}
    for kind in dict.fromkeys(row.world for row in rows):
        todo = iter([row for row in rows if row.world is kind for _ in range(trials)])
        async with asyncio.TaskGroup() as group:
            for _ in range(worlds):
                group.create_task(_work(kind, todo, results, lease_s))
    return results


async def resume(names: list[str], trials: int, worlds: int) -> Counts:
    """Return what clients missed in ``trials`` trials of each row."""
    counts: Counts = {name: [] for name in names}
    todo = iter([name for name in names for _ in range(trials)])

    async def work() -> None:
        for name in todo:
            counts[name].append(await trial(RESUMES[name]))
            print(f"{name}: {counts[name][-1]}", file=sys.stderr)

    async with asyncio.TaskGroup() as group:
        for _ in range(worlds):
            group.create_task(work())
    return counts


async def _work(kind: type[World], todo: Iterator[Row], results: Results, lease_s: float) -> None:
    async with kind.open(lease_s, 0.3 * lease_s) as world:
        for row in todo:
            for waited_for, seconds in (await row.trial(world)).items():
                results[row.name].setdefault(waited_for, []).append(seconds)
                print(f"{row.name}: {waited_for} {seconds:.3f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
