"""Run all checks of a change, several at once: ``python -m tests.lanes``, as ``.ci/run`` does.

A lane is one command with an output of its own. Most tests wait most of the time, so lanes share the cores. Tests
with the marker ``alone`` measure time or memory, and run when the other lanes have ended. What only computes runs in
the time that the others leave. The second job repeats what the first has tried, elsewhere (on other servers, in
browsers) or with more values. It computes what only a change of an algorithm breaks, and ends with chaos.
``docs/decisions/0022-checks-run-in-lanes.md`` has the reasons.
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.pythons import other_pythons

PROJECT = Path(__file__).parents[1]
PACKAGE = "fastapi_websocket_stabilizer"
SLOTS = 4
"""Lanes beside one another. Three use both cores for three quarters of the time."""
LIMIT_S = 1500.0
"""Longest time of a lane in seconds; several times the usual time of all."""
CLIENT_SCHEDULES = "clients/python/tests/test_schedules.py"
INTEGRATION_LANES = 3
OWN_LANE = "test_drain_processes"
"""A file of tests/integration with a lane of its own, where coverage of child processes is measured, too."""
DEMO_LANES = ("test_demo", "test_demo_page")
"""The same in the second job."""
ELSEWHERE = (
    "test_topologies",
    "test_history_topologies",
    "test_servers_smoke",
    "test_browser_faults",
    "test_admin_page",
    "test_client_kills",
    "test_stream_example",
    "test_benchmarks",
    "test_benchmark_browsers",
)
"""Files of tests/integration that repeat others on other servers or in a browser. They are in the second job."""
SLOW_FILES_S = {
    "test_sessions": 125,
    "test_cluster_changes": 50,
    "test_startup": 49,
    "test_redis_away": 42,
    "test_doctor": 29,
    "test_presence_events": 28,
    "test_freeze": 27,
    "test_faults": 26,
    "test_invariants": 20,
}
"""Seconds that the slowest files of tests/integration take, by which they are distributed. They need not be exact."""
OTHER_FILES_S = 7
MODULE = (sys.executable, "-m")
PYTEST = ("pytest", "-p", "no:cacheprovider", "-q", "--timeout=300", "--durations=10", "--durations-min=3")
THIS_PROCESS = ("--rcfile=/dev/null", "--branch", "--parallel-mode", f"--source={PACKAGE}")
"""The settings of coverage in pyproject.toml, without the patch for child processes."""
CLIENT_PROCESS = (*THIS_PROCESS[:-1], f"--source={PACKAGE}_client")
"""The same for the Python client."""
TOGETHER = ("-m", "not alone and not later")
CONTRACT = ("tests/contract", "tests/faults")
FIRST, SECOND = ("-m", "not later"), ("-m", "later")
OTHER_ROWS = "redis-7 or redis-6 or unix or tls or debian or classic or rights"
"""Rows of tests/contract that run the same code of the library as others. Coverage is not measured in them."""
SHOWN_LINES = 400
"""Last lines of the output that are printed of a lane that failed."""
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
"""A variable that images of containers set. With it, each of some hundred servers compiles for 3 s when it starts."""
PATIENT = (f"--timeout={LIMIT_S:g}",)
"""For tests that run only while no other wants the core: one of ten seconds may take as long as the stage."""
IDLE = ("chrt", "--idle", "0")
"""The scheduling class of processes that run only while no other wants the core."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One command. It shares no file with other lanes."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All lanes. Those of a stage begin when the stage before has ended; ``idle`` ones run in any stage."""

    idle: Sequence[Lane]
    together: Sequence[Lane]
    alone: Sequence[Lane]
    second_job: Sequence[Lane]
    """Other Pythons, servers and browsers, other releases of what we depend on, and foreign suites."""
    last: Sequence[Lane]
    """What strains the machine and repeats others."""

    def lanes(self) -> list[Lane]:
        return [*self.idle, *self.together, *self.alone, *self.second_job, *self.last]

    def only(self, names: Sequence[str]) -> "Plan":
        """Return the plan with the named lanes only, or with those of a group: "integration" has several."""

        def chosen(lanes: Sequence[Lane]) -> list[Lane]:
            return [lane for lane in lanes if lane.name in names or lane.name.split()[0] in names]

        return Plan(*map(chosen, (self.idle, self.together, self.alone, self.second_job, self.last)))


def distribute(files: Iterable[str], lanes: int) -> list[list[str]]:
    """Distribute test files over lanes that take about the same time, the slowest file first."""
    found: list[list[str]] = [[] for _ in range(lanes)]
    taken_s = [0.0] * lanes
    for file in sorted(files, key=lambda file: (-_seconds_of(file), file)):
        shortest = taken_s.index(min(taken_s))
        found[shortest].append(file)
        taken_s[shortest] += _seconds_of(file)
    return found


def _files(folder: str) -> set[str]:
    return {str(path.relative_to(PROJECT)) for path in PROJECT.glob(f"{folder}/test_*.py")}


def _seconds_of(file: str) -> float:
    return SLOW_FILES_S.get(Path(file).stem, OTHER_FILES_S)


def _pytest(name: str, *arguments: str) -> Lane:
    return Lane(name, (*MODULE, *PYTEST, *arguments))


def _measured(
    name: str, *arguments: str, with_children: bool = False, source: tuple[str, ...] = THIS_PROCESS
) -> Lane:
    """Measure coverage. Tracing child processes takes as long as their start, so few lanes do it."""
    coverage = ("coverage", "run") if with_children else ("coverage", "run", *source)
    return Lane(name, (*MODULE, *coverage, "-m", *PYTEST, *arguments))


def plan(pythons: Sequence[str]) -> Plan:
    """Return the lanes of a whole run, with those of other Pythons.

    The longest are first, because they decide. Those that compute are beside those that wait.
    """
    files = {
        path.stem: str(path.relative_to(PROJECT)) for path in PROJECT.glob("tests/integration/test_*.py")
    }
    client_files = sorted(_files("clients/python/tests") - {CLIENT_SCHEDULES})
    own_lane, *demo_lanes = (
        _measured(name.removeprefix("test_"), files.pop(name), *TOGETHER, with_children=True)
        for name in (OWN_LANE, *DEMO_LANES)
    )
    elsewhere = [files.pop(name) for name in ELSEWHERE]
    integration = [
        _measured(f"integration {number}", *chosen, *TOGETHER)
        for number, chosen in enumerate(distribute(files.values(), INTEGRATION_LANES), start=1)
    ]
    return Plan(
        idle=[
            Lane("types", (*MODULE, "mypy")),
            Lane("public types", (*MODULE, "pyright", "--verifytypes", PACKAGE, "--ignoreexternal")),
            _pytest("simulation", "tests/simulation", *FIRST, *PATIENT),
        ],
        together=[
            *integration,
            _measured("unit", "tests/unit", "tests/compat"),
            _pytest("wire", "tests/wire", *TOGETHER),  # its servers are processes that are not measured
            own_lane,
            _measured("contract", *CONTRACT, "-k", f"not ({OTHER_ROWS})"),
            _measured("client", *client_files, source=CLIENT_PROCESS),
        ],
        alone=[_pytest("alone", "tests/integration", "tests/wire", "-m", "alone and not later")],
        second_job=[
            Lane("oldest releases", (*MODULE, "tests.floors")),
            _measured("elsewhere", *elsewhere, *TOGETHER),
            *(Lane(f"python {release}", (*MODULE, "tests.pythons", release)) for release in pythons),
            *demo_lanes,
            _pytest("contract of others", *CONTRACT, "-k", OTHER_ROWS),
            _pytest("later wire", "tests/wire", "-m", "later and not alone"),
            # Traced, these would compute for minutes.
            _pytest("model", "tests/model"),
            _pytest("client schedules", CLIENT_SCHEDULES, "clients/javascript/tests"),
            _pytest("later schedules", "tests/simulation", *SECOND),
            _pytest("later faults", "tests/integration", "-m", "later and not alone"),
            Lane("suite of uvicorn", (*MODULE, "tests.suites", "uvicorn", "--loops", "asyncio")),
            Lane("suite of autobahn", (*MODULE, "tests.suites", "autobahn", "--quick")),
            Lane("npm", (*MODULE, "tests.npm")),
        ],
        last=[
            _pytest("chaos", "tests/chaos", "-n", "3", "--dist", "worksteal"),
            _pytest("later alone", "tests/integration", "-m", "later and alone"),
        ],
    )


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a lane."""

    lane: Lane
    took_s: float
    cpu_s: float
    """CPU time of all its processes that have ended. With two busy cores, only this makes a run longer."""
    code: int
    output: str

    def __str__(self) -> str:
        lines = self.output.strip().splitlines() or ["no output"]
        outcome = "passed" if self.code == 0 else f"FAILED ({self.code})"
        took = f"{self.took_s:6.1f} s, {self.cpu_s:6.1f} s of CPU"
        return f"{self.lane.name:<18} {took}  {outcome}: {lines[-1].strip('= ')}"


@dataclass(slots=True)
class Runner:
    """Runs lanes, and prints how each ended."""

    directory: Path
    results: list[Result] = field(default_factory=list)
    _waiting: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=64))
    """One thread for each lane, since only a wait of our own for the process has its CPU time."""

    async def run(self, lanes: Iterable[Lane], slots: int, prefix: Sequence[str] = ()) -> None:
        """Run all lanes, ``slots`` at once, in their order."""
        free = asyncio.Semaphore(slots)

        async def run_one(lane: Lane) -> None:
            async with free:
                result = await self._run(lane, prefix)
                self.results.append(result)
                print(result, flush=True)

        async with asyncio.TaskGroup() as tasks:
            for lane in lanes:
                tasks.create_task(run_one(lane))

    async def _run(self, lane: Lane, prefix: Sequence[str]) -> Result:
        began_s, output = time.monotonic(), self.directory / lane.name.replace(" ", "-")
        process = _start([*prefix, *lane.command], output)
        ended = asyncio.get_running_loop().run_in_executor(self._waiting, os.wait4, process.pid, 0)
        try:
            await asyncio.wait([ended], timeout=LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it, and what it has left behind
            _, status, used = await ended
            process.returncode = os.waitstatus_to_exitcode(status)
        took_s, cpu_s = time.monotonic() - began_s, used.ru_utime + used.ru_stime
        return Result(lane, took_s, cpu_s, process.returncode, output.read_text(errors="replace"))


def _start(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != NO_BYTECODE}
    with output.open("wb") as file:
        return subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0,
            env=environment,
        )  # fmt: skip


async def run(chosen: Plan, directory: Path) -> list[Result]:
    """Run the lanes of a plan stage by stage. A stage in which a lane fails is the last one."""
    runner, task = Runner(directory), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        prefix = IDLE if shutil.which(IDLE[0]) else ("nice", "-n", "19")
        computing = tasks.create_task(runner.run(chosen.idle, len(chosen.idle) or 1, prefix))
        stages = (chosen.together, SLOTS), (chosen.alone, 1), (chosen.second_job, SLOTS), (chosen.last, 1)
        for stage, slots in stages:
            if not any(result.code for result in runner.results):
                await runner.run(stage, slots)
                print(f"---- after {time.monotonic() - began_s:.0f} s", flush=True)
        await computing
    return runner.results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lanes", description=__doc__)
    parser.add_argument("lanes", nargs="*", help="names of lanes; without any, all of them")
    parser.add_argument("--list", action="store_true", help="print the lanes and their commands")
    given = parser.parse_args()
    pythons = other_pythons()
    chosen = plan([release for release, found in pythons.items() if found])
    if given.lanes:
        chosen = chosen.only(given.lanes)
        if not chosen.lanes():
            parser.error(f"no lane is named {' or '.join(given.lanes)}; --list prints all")
    if given.list:
        print(*(f"{lane.name}: {' '.join(lane.command)}" for lane in chosen.lanes()), sep="\n")
        return 0
    for release in [name for name, found in pythons.items() if not found]:
        print(f"python {release}: not found, so not tested", flush=True)
    began_s = time.monotonic()
    with TemporaryDirectory(prefix="fws-lanes-") as directory:
        results = asyncio.run(run(chosen, Path(directory)))
    failed = [result for result in results if result.code]
    for result in failed:
        print(f"\n=== {result.lane.name}: {' '.join(result.lane.command)}\n")
        print(*result.output.splitlines()[-SHOWN_LINES:], sep="\n")
    print(f"\n{time.monotonic() - began_s:.0f} s in all")
    print(f"lanes: {len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
