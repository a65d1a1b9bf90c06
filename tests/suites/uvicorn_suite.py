"""Run uvicorn's own WebSocket tests against our class, plain, registered and parked.

The tests come from the source distribution of the installed uvicorn, which pip downloads.
"""

import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from tests.suites.judge import Difference, Rank, Results, load_differences, regressions, violations

WAYS = ("plain", "registered", "parked")
LOOPS = ("asyncio", "uvloop")
FILES = (
    "tests/protocols/test_websocket.py",
    "tests/middleware/test_logging.py",
    "tests/middleware/test_proxy_headers.py",
)
CHOICE = "(sansio or test_websocket) and not wsproto and not zttp"
TEST_DEADLINE_S = 15
RUN_DEADLINE_S = 300
PROCESSES = 4
"""The tests wait most of the time, so several processes fit on a core."""


class SuiteUnavailableError(Exception):
    """The foreign suite cannot be had on this machine; the message names the reason."""


def run(ways: Iterable[str] = WAYS, loops: Iterable[str] = LOOPS) -> list[str]:
    """Run the suite in each way on each event loop, print a table, and return what is wrong."""
    differences = load_differences(Path(__file__).with_name("differences.toml"))
    found = []
    with TemporaryDirectory(prefix="fws-uvicorn-") as directory:
        suite = UvicornSuite(_download(Path(directory)))
        print(f"uvicorn {version('uvicorn')}, its own WebSocket tests", flush=True)
        for loop in loops:
            stock = suite.run("stock", loop)
            print(_row("stock", loop, stock), flush=True)
            for way in ways:
                known = [each for each in differences if way in each.ways]
                ours = suite.run(way, loop)
                ours = suite.repeat(way, loop, ours, _unexpected(stock, ours, known))
                print(_row(way, loop, ours), flush=True)
                found += [f"{way}, {loop}: {line}" for line in violations(stock, ours, known)]
    return found


def _unexpected(stock: Results, ours: Results, known: Sequence[Difference]) -> list[str]:
    return [name for name in regressions(stock, ours) if not any(each.covers(name) for each in known)]


def _row(way: str, loop: str, results: Results) -> str:
    counts = Counter(results.values())
    return f"{way:<11} {loop:<8}" + ", ".join(
        f"{counts[rank]:>4} {rank.name.lower()}" for rank in (Rank.PASSED, Rank.FAILED, Rank.SKIPPED)
    )


def _download(directory: Path) -> Path:
    """Unpack the source of the installed uvicorn, and return its directory."""
    release = f"uvicorn=={version('uvicorn')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    fetched = subprocess.run(
        [*command, "--no-binary", "uvicorn", "--dest", directory, release], capture_output=True, text=True
    )
    if fetched.returncode:
        raise SuiteUnavailableError(f"pip cannot download the source of {release}: {fetched.stderr.strip()}")
    (archive,) = directory.glob("uvicorn-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    return directory / archive.name.removesuffix(".tar.gz")


class UvicornSuite:
    """The unpacked tests."""

    def __init__(self, source: Path) -> None:
        self._source = source
        # Its directory and not the package: in the child process, ``tests`` is uvicorn's.
        self._environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    def run(self, way: str, loop: str, tests: Sequence[str] = FILES) -> Results:
        """Return the result of each test; a test that hangs ends its process and is a failure."""
        report = self._source / "report.xml"
        report.unlink(missing_ok=True)
        words = f"-p stand_in --way {way} --loop {loop} -p no:asyncio -p no:cacheprovider -o addopts= -n {PROCESSES}"
        deadline = f"--timeout {TEST_DEADLINE_S} --timeout-method thread --junitxml {report}"
        command = [sys.executable, "-m", "pytest", *words.split(), *deadline.split(), "-k", CHOICE, *tests]
        ran = subprocess.run(
            command,
            cwd=self._source,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=RUN_DEADLINE_S,
        )
        if not report.exists():
            raise SuiteUnavailableError(f"uvicorn's tests do not run:\n{ran.stdout}\n{ran.stderr}")
        return dict(_result(case) for case in ElementTree.parse(report).iter("testcase"))

    def repeat(self, way: str, loop: str, results: Results, names: Sequence[str]) -> Results:
        """Run tests once more: some of them wait for a fixed time, which is too short on a busy machine."""
        return {**results, **self.run(way, loop, names)} if names else results


def _result(case: ElementTree.Element) -> tuple[str, Rank]:
    name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
    if case.find("failure") is not None or case.find("error") is not None:
        return name, Rank.FAILED
    return name, Rank.SKIPPED if case.find("skipped") is not None else Rank.PASSED
