"""The lanes of CI: no test is left out, no lane fails unseen, and each ends in time."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests import lanes
from tests.lanes import PROJECT, Lane, Plan, distribute, main, plan, run
from tests.pythons import NOT_NEEDED, named_pythons, requirements
from tests.support.waiting import eventually, eventually_sync

TESTS = sorted(
    str(path.relative_to(PROJECT))
    for pattern in ("tests/**/test_*.py", "clients/*/tests/**/test_*.py")
    for path in PROJECT.glob(pattern)
)
PLAN = plan(pythons=[])
ALONE = re.compile(r"^(@|pytestmark = \[?)pytest\.mark\.alone", re.MULTILINE)
LATER = re.compile(r"pytest\.mark\.later")


def lane(name: str, code: str = "") -> Lane:
    return Lane(name, (sys.executable, "-c", code or f"print('{name}')"))


def lanes_of(file: str, *, is_alone: bool) -> list[str]:
    """Return the lanes that run the tests of a file which are, or are not, to run alone, but not those of "later"."""
    found = []
    for each in PLAN.lanes():
        _, _, arguments = " ".join(each.command).partition(" pytest ")
        marker = "not alone" if "-m not alone" in arguments else "alone" if "-m alone" in arguments else ""
        if f"-k {lanes.OTHER_ROWS}" in arguments or "-m later" in arguments:
            continue  # the rest of another lane
        is_of_file = any(file == word or file.startswith(f"{word}/") for word in arguments.split())
        if is_of_file and marker in ("", "alone" if is_alone else "not alone"):
            found.append(each.name)
    return found


@pytest.mark.parametrize("file", TESTS)
def test_tests_of_a_file_are_in_one_lane(file: str) -> None:
    assert len(lanes_of(file, is_alone=False)) == 1


@pytest.mark.parametrize("file", [file for file in TESTS if ALONE.search((PROJECT / file).read_text())])
def test_tests_that_need_the_machine_are_in_one_lane_of_the_quiet_stage(file: str) -> None:
    assert lanes_of(file, is_alone=True) in (["chaos"], ["alone"])


def test_tests_of_the_second_job_are_in_a_lane_of_it_and_in_no_other() -> None:
    files = {file for file in TESTS if LATER.search((PROJECT / file).read_text())}
    commands = {each.name: " ".join(each.command) for each in PLAN.lanes()}
    second = [command for name, command in commands.items() if "-m later" in command]
    assert {Path(file).stem for file in files} == {
        "test_simulation",
        "test_react_example",
        "test_browser_faults",
        "test_other_browsers",
        "test_alerts",
        "test_rolling_restart",
        "test_return",
        "test_causes",
    }
    for file in files:
        (first,) = lanes_of(file, is_alone=False)
        assert "not later" in commands[first]
        assert "not later" in commands[(lanes_of(file, is_alone=True) or [first])[0]]
        of_file = [
            command.partition(" -m later")[2] for command in second if f" {Path(file).parent} " in command
        ]
        assert sorted(of_file) in ([""], [" and not alone"], [" and alone", " and not alone"])


def test_two_lanes_share_the_contracts_and_leave_none_out() -> None:
    commands = {each.name: each.command for each in PLAN.lanes()}
    assert commands["contract"][-4:] == (*lanes.CONTRACT, "-k", f"not ({lanes.OTHER_ROWS})")
    assert commands["contract of others"][-4:] == (*lanes.CONTRACT, "-k", lanes.OTHER_ROWS)


def test_files_that_are_named_as_slow_exist() -> None:
    found = {Path(file).stem for file in TESTS if file.startswith("tests/integration/")}
    assert set(lanes.SLOW_FILES_S) <= found


def test_files_are_distributed_by_what_they_take() -> None:
    files = ["tests/integration/test_sessions.py", *(f"tests/integration/test_{n}.py" for n in range(15))]
    first, second = distribute(files, 2)
    assert sorted(first + second) == sorted(files)
    assert first == files[:1]


def test_other_pythons_are_those_of_pyproject() -> None:
    assert named_pythons() == ["3.11", "3.12", "3.13"]


def test_other_pythons_get_what_these_tests_need() -> None:
    names = [line.partition(">=")[0] for line in requirements()]
    assert {"pytest", "hypothesis", "uvloop"} <= set(names)
    assert not NOT_NEEDED & set(names)


def a_plan(**stages: list[Lane]) -> Plan:
    return Plan(**{"idle": [], "together": [], "alone": [], "second_job": [], "last": []} | stages)


def names_of_run(chosen: Plan, directory: Path) -> dict[str, bool]:
    results = asyncio.run(run(chosen, directory))
    return {result.lane.name: result.code == 0 for result in results}


def test_every_lane_of_a_plan_runs(tmp_path: Path) -> None:
    stages = {"idle": "i", "together": "ab", "alone": "c", "second_job": "d", "last": "e"}
    chosen = a_plan(**{stage: [lane(name) for name in names] for stage, names in stages.items()})
    assert names_of_run(chosen, tmp_path) == dict.fromkeys("iabcde", True)


def test_after_a_stage_with_a_failure_no_other_begins(tmp_path: Path) -> None:
    chosen = a_plan(together=[lane("a", "raise SystemExit(3)"), lane("b")], alone=[lane("c")])
    assert names_of_run(chosen, tmp_path) == {"a": False, "b": True}


def test_lane_that_takes_too_long_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LIMIT_S", 0.05)
    assert names_of_run(a_plan(idle=[lane("a", "import time; time.sleep(60)")]), tmp_path) == {"a": False}


def test_servers_of_a_lane_do_not_compile_at_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(lanes.NO_BYTECODE, "1")
    (result,) = asyncio.run(
        run(a_plan(together=[lane("a", "import sys; print(sys.dont_write_bytecode)")]), tmp_path)
    )
    assert result.output == "False\n"


def test_nothing_that_a_lane_started_is_left(tmp_path: Path) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"
    (result,) = asyncio.run(run(a_plan(together=[lane("a", code)]), tmp_path))
    left = Path("/proc", result.output.strip(), "stat")
    eventually_sync(lambda: not left.exists() or left.read_text().rpartition(")")[2].split()[0] == "Z")


def test_lanes_end_with_the_run(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    code = f"import os, time, pathlib; pathlib.Path({str(marker)!r}).write_text(str(os.getpid())); time.sleep(60)"

    async def cancelled() -> None:
        running = asyncio.create_task(run(a_plan(together=[lane("a", code)]), tmp_path))
        await eventually(lambda: marker.exists() and marker.read_text())
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(cancelled())
    assert not Path("/proc", marker.read_text()).exists()


@pytest.mark.parametrize(("code", "ends_with"), [("print(1)", 0), ("raise SystemExit('bad luck')", 1)])
def test_exit_code_and_output_tell_what_failed(
    code: str, ends_with: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lanes, "plan", lambda _: a_plan(together=[lane("a", code), lane("b")]))
    monkeypatch.setattr(sys, "argv", ["lanes", "a"])
    assert main() == ends_with
    said = capsys.readouterr().out
    assert re.search(r"^a +\d+\.\d s", said, re.MULTILINE)
    assert ("bad luck" in said, "\nb " in said) == (bool(ends_with), False)


def test_name_that_is_no_lane_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lanes", "unitt"])
    with pytest.raises(SystemExit):
        main()
