"""Redis servers for the tests: which ones there are, and which of them the run has really used."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.requirements import missing
from tests.support.servers import ROWS, Missing, RedisServer, default_server, find_row
from tests.support.topologies import TOPOLOGIES

_DEFAULT_SOURCE = pytest.StashKey[str]()
_DEFAULT_SOURCE_OF_WORKER = "default_redis"


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
