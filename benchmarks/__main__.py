"""The command line: ``python -m benchmarks --help``."""

import argparse
import dataclasses
import datetime
import functools
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.servers import Missing, RedisServer, find_row

from .loads import LOADS, Load
from .plan import Part, parts, run_all
from .processes import raise_file_limit
from .receiver import compiler
from .report import Page
from .results import Results
from .systems import ALL, MissingError, Stage
from .systems.ours import sending_path

LETTERS = "abcdefghijklmn"
SERVER = "valkey-9.1"
SPARE_FILES = 1000


def main(given: list[str] | None = None) -> int:
    """Run what was asked for and return the exit status: 1 if a sample failed."""
    options = _parser().parse_args(given)
    if options.render:
        first, *later = [Results.load(path) for path in options.render]
        Page(functools.reduce(Results.updated, later, first)).write(options.output)
        return 0
    load = LOADS["quick" if options.quick else options.load]
    load = dataclasses.replace(load, runs=options.runs or load.runs)
    valkey = find_row(SERVER)
    if isinstance(valkey, Missing) or compiler() is None:
        print(valkey.reason if isinstance(valkey, Missing) else "no C compiler: install gcc", file=sys.stderr)
        return 2
    _check_file_limit(load)
    results = Results({"load": dataclasses.asdict(load), "command": _command(given)})
    versions, missing = _look_for(options.systems)
    results.about |= {
        "versions": versions,
        "missing": missing,
        "date": f"{datetime.datetime.now(datetime.UTC):%F}",
    }
    results.about["machine"] = _machine()
    there = {name for name in options.systems if name not in missing}
    chosen = [
        part.of(there)
        for part in parts(load)
        if part.system in there and set(part.letters) & set(options.only)
    ]
    _measure(results, chosen, load, RedisServer(valkey), options.json)
    Page(results).write(options.output)
    print(f"{len(results.samples)} samples, {len(results.failed())} failed: {options.output}")
    return 1 if results.failed() else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_letters, default=LETTERS, help="measures, such as a,b")
    parser.add_argument("--systems", type=_systems, default=list(ALL), help=f"of: {','.join(ALL)}")
    parser.add_argument("--runs", type=int, help="how often each sample is taken")
    parser.add_argument("--load", choices=LOADS, default="full", help="how much is done")
    parser.add_argument("--quick", action="store_true", help="the same as --load quick")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks.md"), help="the page")
    parser.add_argument("--json", type=Path, help="write the raw samples too")
    parser.add_argument(
        "--render",
        type=Path,
        nargs="+",
        help="only write the page, from such files; what a later one has replaces that of an earlier one",
    )
    return parser


def _letters(text: str) -> str:
    wanted = text.replace(",", "")
    if not wanted or set(wanted) - set(LETTERS):
        raise argparse.ArgumentTypeError(f"measures are {','.join(LETTERS)}")
    return wanted


def _systems(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := set(wanted) - set(ALL):
        raise argparse.ArgumentTypeError(f"unknown: {','.join(sorted(unknown))}; there are {','.join(ALL)}")
    return wanted


def _command(given: list[str] | None) -> str:
    """Return the command, without the paths in it."""
    words = sys.argv[1:] if given is None else given
    return shlex.join(["python", "-m", "benchmarks", *(Path(word).name for word in words)])


def _check_file_limit(load: Load) -> None:
    wanted = load.large_clients + SPARE_FILES
    if raise_file_limit(wanted) < wanted:
        print(
            f"ulimit -n allows fewer than {wanted} files: measures with more clients will fail",
            file=sys.stderr,
        )


def _look_for(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the versions of all that is there, and how to install what is not."""
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            versions |= ALL[name].versions()
        except MissingError as error:
            missing[name] = str(error)
            print(f"{name} is missing and left out: {error}", file=sys.stderr)
    return versions, missing


def _measure(results: Results, chosen: list[Part], load: Load, valkey: RedisServer, raw: Path | None) -> None:
    began = time.monotonic()

    def keep() -> None:
        results.about["minutes"] = (time.monotonic() - began) / 60
        if raw:
            results.save(raw)

    keep()
    with valkey:
        results.about["machine"]["Valkey"] = valkey.version
        results.about["paths"] = _paths(valkey, {part.system for part in chosen})
        run_all(results, chosen, load, valkey, keep)


def _paths(valkey: RedisServer, systems: set[str]) -> str:
    """Return what ours and ours on stock uvicorn say of the way they write."""
    said = []
    for name in sorted(systems & {"ours", "ours-stock"}):
        with ExitStack() as stack:
            cluster = ALL[name].start(Stage(valkey.url, "benchmarks-path", replicas=1), stack)
            said.append(f"{name}: {sending_path(cluster)}")
    return "; ".join(said)


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
    return {
        "processor": f"{os.cpu_count()} cores, {model}",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }


if __name__ == "__main__":
    # As Ctrl-C: every server is ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
