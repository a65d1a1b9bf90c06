"""Examples in a uvicorn of their own."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.support import http
from tests.support.process import ChildProcess, free_port
from tests.support.waiting import eventually_sync

PROJECT = Path(__file__).parents[2]
START_S = 60.0


@contextmanager
def running_example(
    name: str, *options: str, environment: Mapping[str, str], directory: Path = PROJECT
) -> Iterator[tuple[ChildProcess, str]]:
    """Run ``examples.<name>:app`` until it answers; yield its process, and its URL without a slash at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", f"examples.{name}:app", "--port", str(port), *options]
    with ChildProcess(command, environment=dict(environment), directory=directory) as process:

        def is_ready() -> bool:
            assert process.is_running, process.output
            try:
                return http.get(f"{url}/docs").is_success
            except httpx2.TransportError:
                return False

        eventually_sync(is_ready, START_S, f"an answer of {name}")
        yield process, url
