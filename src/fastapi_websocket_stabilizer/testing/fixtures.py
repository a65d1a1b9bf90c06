"""pytest fixtures for a real Redis; ``pytest_plugins = ["fastapi_websocket_stabilizer.testing.fixtures"]``.

Without any server they fail and say what to install: a test that wants the real thing never gets a fake.
"""

import secrets
from collections.abc import Iterator

import pytest

from .servers import RedisServer, shared_redis


@pytest.fixture(scope="session")
def stabilizer_redis_url() -> Iterator[str]:
    """URL of a real server for the whole run; use a ``namespace`` of your own, and do it no harm."""
    with shared_redis() as server:
        yield server.url


@pytest.fixture
def stabilizer_redis() -> Iterator[RedisServer]:
    """A real server for this test alone: kill it, freeze it, restart it empty."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def stabilizer_namespace() -> str:
    """A key prefix that no other test has, for ``WebSocketConfig(namespace=…)``."""
    return f"test-{secrets.token_hex(8)}"
