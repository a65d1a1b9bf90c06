"""benchmarks/: the harness runs, loses nothing, and writes its page; what it measures here means nothing."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from benchmarks.receiver import compiler
from benchmarks.results import Results, Sample

from tests.support.process import ChildProcess
from tests.support.requirements import missing
from tests.support.servers import Missing, find_row
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.timeout(240)

PROJECT = Path(__file__).parents[2]
LIMIT_S = 220.0
"""Seconds; 110 on a machine at load 18."""
FASTER = ("uvloop", "httptools")
SYSTEMS = "ours,ours-rooms,ours-v1,bare,1.1+glue"
ABSENT = {"BENCHMARKS_OLD_PYTHON": "", "BENCHMARKS_NODE_MODULES": ""}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the smallest load on our own systems, and return the page; the samples are beside it."""
    if compiler() is None:
        missing("the benchmarks need a C compiler")
    if isinstance(valkey := find_row("valkey-9.1"), Missing):
        missing(valkey.reason)
    if absent := [name for name in FASTER if importlib.util.find_spec(name) is None]:
        missing(f"the benchmarks need {' and '.join(absent)}: pip install -e '.[benchmarks]'")
    page = tmp_path_factory.mktemp("benchmarks") / "page.md"
    command = [sys.executable, "-m", "benchmarks", "--load", "tiny", "--systems", SYSTEMS]
    command += ["--only", "b,e,k,l,m,n", "--output", str(page), "--json", str(page.with_suffix(".json"))]
    with ChildProcess(command, environment=ABSENT, directory=PROJECT) as process:
        eventually_sync(lambda: not process.is_running, LIMIT_S, "the end of the benchmarks")
        assert page.exists(), process.output
    return page


def test_every_message_arrives(page: Path) -> None:
    results = Results.load(page.with_suffix(".json"))
    assert results.failed() == []
    assert all(sample.received == sample.expected for sample in results.samples)
    measured = {(sample.system, sample.measure) for sample in results.samples}
    assert {("ours", "burst"), ("ours", "paced"), ("ours", "direct"), ("bare", "memory_used")} <= measured
    assert {("ours-rooms", "room"), ("ours-v1", "room_recorded"), ("ours-v1", "memory_rooms")} <= measured
    assert {("ours-rooms", "storm"), ("ours-v1", "storm"), ("ours-v1", "away")} <= measured
    assert sum(sample.received for sample in results.select(system="ours", measure="burst")) >= 400


def test_the_page_has_goals_tables_and_charts(page: Path) -> None:
    text = page.read_text()
    assert "| goal | bound |" in text
    assert "received, 0 lost" in text
    assert "Failed samples\n\n0 of" in text
    assert (page.with_suffix("") / "burst.svg").read_text().startswith("<svg")


def test_a_missing_peer_is_named_with_its_command(page: Path) -> None:
    assert "**Not here, so not measured: 1.1+glue.** `python -m venv" in page.read_text()


def test_the_page_does_not_tell_where_it_was_made(page: Path) -> None:
    text = page.read_text()
    assert os.uname().nodename not in text
    assert str(PROJECT) not in text
    assert str(page.parent) not in text


def test_later_results_replace_what_they_have_measured() -> None:
    about = {"versions": {}, "date": "2026-11-30", "command": "python -m benchmarks", "minutes": 2.0}
    first = Results({**about, "load": {"clients": 20}, "missing": {"nchan": "apt", "hubcast": "pip"}})
    first.samples += [Sample("ours", "burst", 1, 2, 1), Sample("ours", "paced", 1, 2, 1)]
    later = Results(
        {**about, "load": {"clients": 9, "missed": 5}, "missing": {}, "versions": {"nginx": "1.22"}}
    )
    later.samples += [Sample("ours", "burst", 1, 2, run) for run in (2, 3)] + [
        Sample("nchan", "burst", 1, 2, 2)
    ]
    both = first.updated(later)
    assert [(s.measure, s.run) for s in both.select(system="ours")] == [
        ("paced", 1),
        ("burst", 2),
        ("burst", 3),
    ]
    assert both.about["missing"] == {"hubcast": "pip"}
    assert both.about["load"] == {"clients": 20, "missed": 5}
    assert both.about["versions"] == {"nginx": "1.22"}
    assert both.about["again"] == ["2026-11-30, `python -m benchmarks`, 2 minutes"]
