"""Run the Autobahn test suite (RFC 6455 and 7692) against our class, plain, registered and parked.

Every case is run against uvicorn's class in the same session; ours must do at least as well.
"""

import json
import subprocess
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.suites.judge import Rank, Results, regressions, violations
from tests.suites.python27 import find_python27, install_autobahn
from tests.wire.servers import STOCK_ROW, UVLOOP, Server, running

PATHS = {"plain": "raw", "registered": "loop", "parked": "parked"}
"""The endpoint of ``tests.wire.app`` that echoes on such a socket."""
QUICK = (
    "1.*",
    "2.*",
    "3.*",
    "4.*",
    "5.*",
    "6.2.*",
    "6.4.*",
    "7.*",
    "9.3.1",
    "9.4.2",
    "10.*",
    "12.1.1",
    "13.3.1",
)
"""Cases that need a few seconds in all: each rule of the protocol, a message in many fragments, compression."""
ALL = ("*",)
LARGEST_MESSAGE = {"WS_MAX_MESSAGE_SIZE": str(16 * 1024 * 1024)}
"""Cases 9.* send up to 16 MiB, which is uvicorn's own limit."""
RANKS = {
    "OK": Rank.PASSED,
    "NON-STRICT": Rank.TOLERATED,
    "INFORMATIONAL": Rank.TOLERATED,
    "UNIMPLEMENTED": Rank.SKIPPED,
}
RUN_DEADLINE_S = 3600
REPETITIONS = 2


def run(ways: Iterable[str], loops: Iterable[str], cases: Iterable[str] = ALL) -> list[str]:
    """Run the cases in each way on each event loop, print a table, and return what is wrong."""
    found = []
    with TemporaryDirectory(prefix="fws-autobahn-") as directory:
        python = find_python27()
        suite = AutobahnSuite(python, Path(directory))
        print("Autobahn test suite", flush=True)
        for loop in loops:
            # At once, because the cases wait most of the time.
            with ThreadPoolExecutor() as pool:
                first = {way: pool.submit(suite.run, way, loop, cases) for way in ("stock", *ways)}
            stock = first["stock"].result()
            print(_row("stock", loop, stock), flush=True)
            for way in ways:
                ours = suite.run_again(stock, way, loop, first[way].result())
                print(_row(way, loop, ours), flush=True)
                found += [f"{way}, {loop}: {line}" for line in violations(stock, ours, ())]
    return found


def _row(way: str, loop: str, results: Results) -> str:
    counts = Counter(results.values())
    return f"{way:<11} {loop:<8}" + ", ".join(
        f"{counts[rank]:>4} {rank.name.lower()}" for rank in reversed(Rank)
    )


class AutobahnSuite:
    """The installed suite."""

    def __init__(self, python: Path, directory: Path) -> None:
        self._directory = directory
        self._environment = install_autobahn(python, directory)
        wstest = directory / "bin" / "wstest"
        self._command = [str(python), "-u", str(wstest), "--mode", "fuzzingclient", "--spec"]

    def run(self, way: str, loop: str, cases: Iterable[str]) -> Results:
        """Return the result of each case, and that of its closing handshake as ``<case> close``."""
        kind = STOCK_ROW if way == "stock" else UVLOOP
        row = kind.but(
            f"autobahn-{way}-{loop}", loop=loop, environment={**kind.environment, **LARGEST_MESSAGE}
        )
        with running(row) as server:
            results = self._fuzz(server, PATHS.get(way, "raw"), cases)
            server.forgive(
                ""
            )  # the echoing handler of a socket without a manager fails when its peer is gone
        return results

    def run_again(self, stock: Results, way: str, loop: str, ours: Results) -> Results:
        """Run what went worse than with uvicorn's class up to twice more, and return the best of each.

        Several cases are "OK" or "NON-STRICT" by whether an echo is written before a later frame ends the
        connection; with uvicorn's class they vary, too.
        """
        for _ in range(REPETITIONS):
            worse = {name.removesuffix(" close") for name in regressions(stock, ours)}
            if not worse:
                break
            again = self.run(way, loop, sorted(worse))
            ours = {name: max(rank, again.get(name, rank)) for name, rank in ours.items()}
        return ours

    def _fuzz(self, server: Server, path: str, cases: Iterable[str]) -> Results:
        directory = self._directory / server.row.name
        directory.mkdir(exist_ok=True)
        specification, reports = directory / "spec.json", directory / "reports"
        target = {"agent": "server", "url": server.url(f"{path}/client")}
        choice = {"cases": list(cases), "exclude-cases": [], "exclude-agent-cases": {}}
        specification.write_text(json.dumps({"outdir": str(reports), "servers": [target], **choice}))
        ran = subprocess.run(
            [*self._command, str(specification)],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=RUN_DEADLINE_S,
        )
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
        found = json.loads((reports / "index.json").read_text())["server"]
        return {
            name: RANKS.get(case[behavior], Rank.FAILED)
            for number, case in found.items()
            for name, behavior in ((number, "behavior"), (f"{number} close", "behaviorClose"))
        }
