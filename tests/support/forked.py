"""Server processes that are forked from one that has imported what they need."""

import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.process import ChildProcess
from tests.support.waiting import eventually_sync

PROJECT = Path(__file__).parents[2]
START_S = 60.0
START, WARN = [sys.executable, "-m", "uvicorn"], [sys.executable, "-W", "default", "-m", "uvicorn"]


class ForkServer:
    """The process that forks. It ends with this one."""

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="fws-forks-")
        path = Path(self._directory.name, "socket")
        self._process = ChildProcess(
            [sys.executable, "-m", "tests.support.fork_server", path], directory=PROJECT
        )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        eventually_sync(lambda: self._connect(str(path)), START_S, "a connection to the process that forks")

    def _connect(self, path: str) -> bool:
        assert self._process.is_running, self._process.output
        return self._socket.connect_ex(path) == 0

    def ask(self, request: Mapping[str, Any], *files: int) -> int:
        """Send a request with these file descriptors, and return the answer.

        Raises:
            OSError: The process that forks has ended, and its children with it.
        """
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            answer = self._socket.recv(64)
        if not answer:
            raise ConnectionResetError(f"the process that forks has ended: {self._process.output}")
        return int(answer)


@functools.cache
def fork_server() -> ForkServer:
    return ForkServer()


class Forked(subprocess.Popen[bytes]):
    """A process that is not our child, with the methods of one that is."""

    def __init__(self, server: ForkServer, request: Mapping[str, Any], output: int) -> None:
        self.returncode: int | None = None
        self._server = server
        self.pid = server.ask(request, output)
        self._file = os.pidfd_open(self.pid)
        self._is_reaping = threading.Lock()  # only the first request for the exit code has an answer
        weakref.finalize(self, os.close, self._file)  # not before: another thread may wait for it

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("uvicorn", timeout)
        return code

    def _ended(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and self._has_ended(timeout_s):
            with self._is_reaping:
                if self.returncode is None:
                    try:
                        self.returncode = self._server.ask({"wait": self.pid})
                    except OSError:  # as at the end of the interpreter
                        self.returncode = -signal.SIGKILL
        return self.returncode

    def _has_ended(self, timeout_s: float | None) -> bool:
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


class ForkedServer(ChildProcess):
    """A server, with the methods of ``ChildProcess``.

    It is forked if it is uvicorn's and nothing is special about its interpreter. Coverage of child processes begins
    with the interpreter, so then it is not.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        fork_server()  # which is a child process itself, and one cannot be started while another is
        super().__init__(command, environment=environment, directory=directory)

    def _spawn(
        self, command: Sequence[str | Path], environment: Mapping[str, str], directory: Path | None
    ) -> subprocess.Popen[bytes]:
        words = [str(word) for word in command]
        start = next((start for start in (START, WARN) if words[: len(start)] == start), None)
        everything = {**os.environ, **environment}
        if start is None or any(name.startswith("COVERAGE_PROCESS") for name in everything):
            return super()._spawn(command, environment, directory)
        request = {
            "module": "uvicorn",
            "arguments": words[len(start) :],
            "warns": start is WARN,
            "environment": everything,
            "directory": str(directory or Path.cwd()),
        }
        return Forked(fork_server(), request, self._log.fileno())

    def freeze(self) -> None:
        """Do as ``ChildProcess`` does. It can only wait for a child."""
        self._popen.send_signal(signal.SIGSTOP)
        state = Path("/proc", str(self.pid), "stat")
        eventually_sync(
            lambda: state.read_text().rpartition(")")[2].split()[0] in "TtZX", what="it is stopped"
        )
