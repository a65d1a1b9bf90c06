"""Redis servers for the tests: which ones there are, and which of them the run has really used.

``pytest`` without arguments runs what a newcomer wants to see in minutes, and prints how to run the rest.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.requirements import missing
from tests.support.servers import ROWS, Missing, RedisServer, default_server, find_row
from tests.support.topologies import TOPOLOGIES

BRIEF_ROW = "valkey-9.1"
"""The only server of the contract suites in a brief run."""
REST = "pytest tests (all levels, one after the other), or .ci/run (all checks, in lanes)"

# Images of containers set this. Each server of a test would then compile for 3 s when it starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_DEFAULT_SOURCE = pytest.StashKey[str]()
_DEFAULT_SOURCE_OF_WORKER = "default_redis"


def pytest_addoption(parser: pytest.Parser) -> None:
    why = f"run the contract suites in memory and on {BRIEF_ROW} only; pytest without arguments does so"
    parser.addoption("--brief", action="store_true", help=why)


def pytest_configure(config: pytest.Config) -> None:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        config.option.brief = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.brief:
        left_out = [item for item in items if _is_of_other_row(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _is_of_other_row(item)]


def _is_of_other_row(item: pytest.Item) -> bool:
    """Tell a test of a server or topology that a brief run leaves out."""
    parameters = (
        item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    )
    rows = [each for each in parameters.values() if isinstance(each, str) and each in TOPOLOGIES]
    return "contract" in item.path.parts and any(row != BRIEF_ROW for row in rows)


@pytest.fixture(scope="session")
def redis_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """URL of a real server, shared by the whole run: keep to your ``namespace`` and do it no harm."""
    with default_server() as server:
        pytestconfig.stash[_DEFAULT_SOURCE] = server.source
        if (output := getattr(pytestconfig, "workeroutput", None)) is not None:
            output[_DEFAULT_SOURCE_OF_WORKER] = server.source
        yield server.url


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what an xdist worker used, for the summary."""
    if (source := getattr(node, "workeroutput", {}).get(_DEFAULT_SOURCE_OF_WORKER)) is not None:
        node.config.stash[_DEFAULT_SOURCE] = source


@pytest.fixture(scope="session", params=ROWS)
def redis_row(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each named server in turn, shared by all tests of it: keep to your ``namespace``, do it no harm."""
    with _server_of_row(request.param) as server:
        yield server


@pytest.fixture(params=ROWS)
def own_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each named server in turn, started for this test alone: kill it, freeze it, empty it."""
    with _server_of_row(request.param) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    """Return a key prefix that no other test has."""
    return f"test-{secrets.token_hex(8)}"


def _server_of_row(name: str) -> RedisServer:
    found = find_row(name)
    return missing(found.reason) if isinstance(found, Missing) else RedisServer(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.section("Redis servers", sep="-")
    terminalreporter.line(f"default: {config.stash.get(_DEFAULT_SOURCE, 'not used')}")
    if config.option.brief:
        terminalreporter.line(f"only memory and {BRIEF_ROW}; for the rest: {REST}")
        return
    for row, topology in TOPOLOGIES.items():
        terminalreporter.line(f"{row}: {_what_ran(row, topology.find(), terminalreporter)}")


def _what_ran(row: str, found: Path | Missing, terminalreporter: pytest.TerminalReporter) -> str:
    counts = {
        outcome: sum(_is_of_row(report, row) for report in terminalreporter.getreports(outcome))
        for outcome in ("passed", "failed", "error", "skipped")
    }
    ran = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    why = f" ({found.reason})" if isinstance(found, Missing) else ""
    return (ran or "no test of it was selected") + why


def _is_of_row(report: object, row: str) -> bool:
    """Tell a test of this row by its id, the only thing that also arrives from xdist's workers."""
    if not isinstance(report, pytest.TestReport):
        return False
    return row in report.nodeid.partition("[")[2]
