"""What the harness needs of a system: whether it is here, how a replica is started, how it is asked to send."""

import http.client
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests.support.process import ChildProcess, free_port

from ..processes import cpu_ns, rss_bytes, tree

PROJECT = Path(__file__).parents[2]
READY_TIMEOUT_S = 20.0
CONTROL_TIMEOUT_S = 300.0


class MissingError(RuntimeError):
    """A system is not on this machine; says which command installs it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a cluster is started with."""

    redis_url: str
    namespace: str
    replicas: int = 2
    is_compressed: bool = False


class Cluster:
    """The running replicas of one system."""

    def __init__(self, processes: Sequence[ChildProcess], ports: Sequence[int]) -> None:
        self.processes, self.ports = list(processes), list(ports)
        self.pids = [pid for process in processes for pid in tree(process.pid)]

    def cpu_ns(self) -> int:
        """Return the CPU time of all processes of all replicas.

        Raises:
            RuntimeError: one has died; says what it printed.
        """
        for process in self.processes:
            if not process.is_running:
                raise RuntimeError(f"a replica died:\n{process.output}")
        return cpu_ns(self.pids)

    def rss_bytes(self) -> int:
        """Return the resident memory of all processes of all replicas."""
        return rss_bytes(self.pids)

    def order(self, **order: Any) -> dict[str, float]:
        """Have the first replica send; returns what it says when its calls have returned."""
        answer: dict[str, float] = json.loads(
            post(self.ports[0], "/control", json.dumps(order).encode()) or "{}"
        )
        return answer


class System(ABC):
    """One way to reach WebSocket clients through several replicas."""

    name: ClassVar[str]
    title: ClassVar[str]
    dialect: ClassVar[str] = "plain"
    """What its clients say beside messages: a key of ``benchmarks.dialects.DIALECTS``."""
    can_send: ClassVar[bool] = True
    takes_messages: ClassVar[bool] = True
    """Whether clients may send."""
    everybody_path: ClassVar[str] = "/ws?client_id={id}"
    """Where a client connects that is only broadcast to."""
    client_path: ClassVar[str] = "/ws?client_id={id}"
    """Where a client connects that is sent to by its id."""
    room_path: ClassVar[str] = "/ws?client_id={id}&rooms={rooms}"
    """Where a client connects that is in rooms."""
    everybody_channel: ClassVar[str] = ""
    """Where a client subscribes that is only broadcast to, if clients subscribe by themselves."""
    client_channel: ClassVar[str] = ""
    """Where a client subscribes that is sent to by its id."""
    room_channel: ClassVar[str] = ""
    """Where a client subscribes that is in rooms; several are separated by commas."""
    has_rooms: ClassVar[bool] = False
    """Whether it is measured with rooms only."""
    records: ClassVar[bool] = False
    """Whether messages to rooms are stored whose names begin with ``re:``."""
    resumes: ClassVar[bool] = False
    """Whether clients that come back are sent what they missed."""
    ready_path: ClassVar[str] = "/control"

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return what it is made of.

        Raises:
            MissingError: it is not on this machine.
        """

    @abstractmethod
    def launch(self, port: int, stage: Stage, stack: ExitStack) -> ChildProcess:
        """Start one replica; what must outlive it goes on ``stack``."""

    def start(self, stage: Stage, stack: ExitStack) -> Cluster:
        """Start all replicas and return once they answer."""
        ports = [free_port() for _ in range(stage.replicas)]
        processes = [stack.enter_context(self.launch(port, stage, stack)) for port in ports]
        for process, port in zip(processes, ports, strict=True):
            self._wait_until_ready(process, port)
        return self.cluster(processes, ports)

    def cluster(self, processes: Sequence[ChildProcess], ports: Sequence[int]) -> Cluster:
        """Return the handle on running replicas."""
        return Cluster(processes, ports)

    def _wait_until_ready(self, process: ChildProcess, port: int) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                get(port, self.ready_path)
                return
            except (OSError, http.client.HTTPException):
                if not process.is_running or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.title} did not start:\n{process.output}") from None
            time.sleep(0.05)


class PythonSystem(System):
    """An ASGI application under uvicorn, one process a replica."""

    application: ClassVar[str]
    packages: ClassVar[Sequence[str]] = ()
    variant: ClassVar[str] = ""
    install: ClassVar[str] = "pip install -e '.[benchmarks]'"

    @property
    def interpreter(self) -> str:
        """The Python that runs it."""
        return sys.executable

    def versions(self) -> dict[str, str]:
        """Return the versions of its packages."""
        try:
            return {name: importlib.metadata.version(name) for name in self.packages}
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingError(f"{error.name}: {self.install}") from error

    def launch(self, port: int, stage: Stage, stack: ExitStack) -> ChildProcess:
        """Start uvicorn with its faster loop and parser, as its documentation recommends for production."""
        options = ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
        application = f"benchmarks.apps.{self.application}:app"
        command = [self.interpreter, "-m", "uvicorn", application, "--port", str(port), *options]
        return ChildProcess(command, environment=self.told(stage), directory=PROJECT)

    def told(self, stage: Stage) -> Mapping[str, str]:
        """Return what its application is told."""
        return environment(stage, self.variant)


def environment(stage: Stage, variant: str) -> Mapping[str, str]:
    """Return what an application is told."""
    return {
        "BENCHMARKS_REDIS_URL": stage.redis_url,
        "BENCHMARKS_NAMESPACE": stage.namespace,
        "BENCHMARKS_VARIANT": variant,
    }


def post(port: int, path: str, body: bytes) -> str:
    """POST and return the answer's body."""
    return _request(port, "POST", path, body, {"Content-Type": "application/json"})


def get(port: int, path: str) -> str:
    """GET and return the answer's body."""
    return _request(port, "GET", path, None, {})


def _request(port: int, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CONTROL_TIMEOUT_S)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        text = response.read().decode()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {text[:500]}")
        return text
    finally:
        connection.close()


def output_of(command: Sequence[str], parse: Callable[[str], str]) -> str:
    """Return something a program prints.

    Raises:
        OSError: it cannot be run.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
    return parse(done.stdout + done.stderr)


def variable(name: str) -> str | None:
    """Return an environment variable, None if it is unset or empty."""
    return os.environ.get(name) or None
