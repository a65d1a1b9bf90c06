"""pytest fixtures for a real Redis: ``pytest_plugins = ["fastapi_websocket_stabilizer.testing.fixtures"]``.

If there is no server, the fixtures fail with a list of packages to install. They never fall back to a fake.
"""

import secrets
from collections.abc import Iterator

import pytest

from .servers import RedisServer, shared_redis


@pytest.fixture(scope="session")
def stabilizer_redis_url() -> Iterator[str]:
    """URL of a real server that all tests of the run share. Use a separate ``namespace``, and do not flush it."""
    with shared_redis() as server:
        yield server.url


@pytest.fixture
def stabilizer_redis() -> Iterator[RedisServer]:
    """A real server for this test only, which the test may kill, freeze or restart empty."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def stabilizer_namespace() -> str:
    """A unique key prefix for ``WebSocketConfig(namespace=…)``."""
    return f"test-{secrets.token_hex(8)}"
