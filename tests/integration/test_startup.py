"""What the log and /readyz have about a process that starts, under the servers' own logging configurations."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support import http
from tests.support.process import ChildProcess, free_port
from tests.support.waiting import eventually_sync

PROJECT = Path(__file__).parents[2]
APPLICATION = "tests.integration.startup_app:app"
GUNICORN = f"gunicorn {APPLICATION} --bind 127.0.0.1:PORT --workers 2 --worker-class"
COMMANDS = {
    "uvicorn": f"uvicorn {APPLICATION} --port PORT",
    "uvicorn-workers": f"uvicorn {APPLICATION} --port PORT --workers 2",
    "gunicorn": f"{GUNICORN} uvicorn_worker.UvicornWorker",
    "gunicorn-asgi": f"{GUNICORN} asgi",
    "fastapi": "fastapi run tests/integration/startup_app.py --port PORT",
}
OURS = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - fastapi_websocket_stabilizer\.\w+ - (\w+) - (.*)$", re.MULTILINE
)
WEBSOCKETS = "WebSockets go through fastapi_websocket_stabilizer.uvicorn:WebSocketProtocol"


class Started:
    """A running server, and what its log has of ours."""

    def __init__(self, process: ChildProcess, port: int) -> None:
        self.process, self.port = process, port

    def lines(self) -> list[tuple[str, str]]:
        """Return the level and the message of each line of ours."""
        return OURS.findall(self.process.output)

    def eventually_has(self, level: str, part: str, times: int = 1) -> list[str]:
        """Return the messages of that level with ``part`` in them, once there are so many."""

        def found() -> list[str]:
            found = [message for found, message in self.lines() if found == level and part in message]
            return found if len(found) == times else []

        return eventually_sync(found, what=f"{times} x {level} {part} in {self.process.output}")

    def readyz(self) -> Any:
        return http.get(f"http://127.0.0.1:{self.port}/readyz").json()


@contextmanager
def started(command: str, **environment: str) -> Iterator[Started]:
    port = free_port()
    words = COMMANDS[command].replace("PORT", str(port)).split()
    environment = {"WS_REDIS_URL": "", "WS_NODE_NAME": "web-1", **environment}
    with ChildProcess([sys.executable, "-m", *words], environment=environment, directory=PROJECT) as process:
        server = Started(process, port)
        eventually_sync(lambda: not process.is_running or server.readyz(), 30.0, f"answer of {command}")
        assert process.is_running, process.output
        yield server


def test_start_in_memory_is_one_line_with_level_time_and_logger() -> None:
    with started("uvicorn") as server:
        [line] = server.eventually_has("INFO", "started")
        node_id = server.readyz()["node_id"]
        expected = f'started: one process in memory, namespace "fws", node web-1 ({node_id}), workers 1; {WEBSOCKETS}'
        assert line == expected
        assert [level for level, _ in server.lines()] == ["INFO"]


def test_start_on_redis_has_its_address_without_the_password(redis_url: str, namespace: str) -> None:
    host = redis_url.removeprefix("redis://").rpartition("@")[2]
    environment = {"WS_REDIS_URL": f"redis://default:@{host}", "WS_NAMESPACE": namespace}
    with started("uvicorn", **environment) as server:
        [line] = server.eventually_has("INFO", "started")
        assert line.startswith(
            f'started: Redis at redis://***:***@{host}, namespace "{namespace}", node web-1 ('
        )
        facts = {"status": "ready", "mode": "redis", "namespace": namespace, "node": "web-1", "workers": 1}
        assert facts.items() <= server.readyz().items()
        assert host not in str(server.readyz())


@pytest.mark.parametrize("command", ["uvicorn-workers", "gunicorn", "gunicorn-asgi"])
def test_workers_without_redis_are_warned_about_by_each_of_them(command: str) -> None:
    if command.startswith("gunicorn"):
        pytest.importorskip("gunicorn", reason="pip install gunicorn uvicorn-worker")
    with started(command) as server:
        server.eventually_has("WARNING", "2 workers and no redis_url: each is a registry of its own", times=2)
        assert all("workers 2;" in line for line in server.eventually_has("INFO", "started", times=2))


def test_workers_with_redis_are_no_reason_to_warn(redis_url: str, namespace: str) -> None:
    with started("uvicorn-workers", WS_REDIS_URL=redis_url, WS_NAMESPACE=namespace) as server:
        server.eventually_has("INFO", "workers 2;", times=2)
        assert {level for level, _ in server.lines()} == {"INFO"}


def test_fastapi_run_shows_the_same_line() -> None:
    pytest.importorskip("fastapi_cli", reason="pip install fastapi-cli")
    with started("fastapi") as server:
        [line] = server.eventually_has("INFO", "started")
        assert line.endswith(f"workers 1; {WEBSOCKETS}")


def test_application_that_configures_logging_has_each_line_once_and_in_its_format() -> None:
    with started("uvicorn-workers", STARTUP_LOGGING="own", WS_REDISURL="redis://r") as server:
        printed = ["OWN INFO started: one process", "OWN WARNING 2 workers and no redis_url"]
        eventually_sync(lambda: [server.process.output.count(line) for line in printed] == [2, 2])
        assert server.process.output.count("started: one process") == 2
        assert server.lines() == []


def test_misnamed_variable_is_in_the_log_of_the_server() -> None:
    with started("uvicorn", WS_REDIS_URI="redis://r") as server:
        server.eventually_has("WARNING", "did you mean WS_REDIS_URL?")


def test_doubtful_setting_is_in_the_log_of_the_server() -> None:
    with started("uvicorn", WS_HEARTBEAT_TYPE="custom") as server:
        server.eventually_has("WARNING", 'heartbeat_type is "custom" without a heartbeat_message')


def test_lifespan_of_release_1_1_is_why_sockets_are_served_the_slow_way() -> None:
    with started("uvicorn", STARTUP_LIFESPAN="1.1") as server:
        [line] = server.eventually_has("INFO", "started")
        assert line.endswith("WebSockets go through asgi (start() was called without manager.lifespan)")


def test_forgotten_lifespan_is_named_in_the_log_at_the_first_refused_socket(redis_url: str) -> None:
    with started("uvicorn", STARTUP_LIFESPAN="none", WS_REDIS_URL=redis_url) as server:
        for _ in range(2):
            with pytest.raises(InvalidStatus), connect(f"ws://127.0.0.1:{server.port}/ws/ann", proxy=None):
                pass
        [line] = server.eventually_has("WARNING", "refused")
        assert "FastAPI(lifespan=manager.lifespan)" in line


def test_forgotten_lifespan_in_memory_is_named_in_the_log_at_the_first_socket() -> None:
    with started("uvicorn", STARTUP_LIFESPAN="none") as server:
        for client_id in ("ann", "bob"):
            with connect(f"ws://127.0.0.1:{server.port}/ws/{client_id}", proxy=None):
                pass
        [line] = server.eventually_has("WARNING", "before start()")
        assert "FastAPI(lifespan=manager.lifespan)" in line


def test_line_of_a_failed_hook_names_hook_and_level_under_uvicorn() -> None:
    with started("uvicorn") as server:
        with connect(f"ws://127.0.0.1:{server.port}/ws/ann", proxy=None) as socket:
            socket.send("hello")
            [line] = server.eventually_has("ERROR", "hook")
        assert "hook fail failed for client 'ann'" in line
        assert "RuntimeError: the hook's own trouble" in server.process.output
        assert "WS_CONNECTION" not in server.process.output


def test_replicas_whose_settings_must_agree_and_do_not_name_each_other(
    redis_url: str, namespace: str
) -> None:
    common = {"WS_REDIS_URL": redis_url, "WS_NAMESPACE": namespace, "WS_RENEW_INTERVAL_S": "0.3"}
    one, two = {"WS_NODE_NAME": "web-1"}, {"WS_NODE_NAME": "web-2", "WS_MAX_CONNECTIONS_PER_CLIENT": "5"}
    with started("uvicorn", **common, **one) as first, started("uvicorn", **common, **two) as second:
        first.eventually_has(
            "WARNING", "max_connections_per_client is 1 on this node ('web-1') and 5 on node 'web-2'"
        )
        second.eventually_has(
            "WARNING", "max_connections_per_client is 5 on this node ('web-2') and 1 on node 'web-1'"
        )
