"""Servers with the protocol class, kept for the whole run, and a look at their logs after every test."""

import secrets
from collections.abc import Iterator

import pytest

from tests.wire.servers import ASYNCIO, UVLOOP, Fleet, Row, Server

ROWS = [
    pytest.param(UVLOOP, id=UVLOOP.name),
    pytest.param(ASYNCIO, id=ASYNCIO.name, marks=pytest.mark.later),
]


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Servers by row; the first test that asks for one starts it."""
    fleet = Fleet()
    yield fleet
    fleet.stop()


@pytest.fixture(autouse=True)
def _clean_logs(fleet: Fleet) -> Iterator[None]:
    yield
    fleet.check_logs()


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Row:
    """Each event loop, with one of the two HTTP parsers."""
    chosen: Row = request.param
    return chosen


@pytest.fixture
def server(fleet: Fleet, row: Row) -> Server:
    """A server with the default settings, shared by all: leave nobody connected."""
    return fleet.get(row)


@pytest.fixture(params=["parked", "loop"])
def way(request: pytest.FixtureRequest) -> str:
    """A socket that the protocol keeps, and one whose handler iterates."""
    return str(request.param)


@pytest.fixture
def client_id() -> str:
    """Return a client that no other test has."""
    return f"ada-{secrets.token_hex(4)}"
