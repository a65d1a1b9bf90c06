"""Child processes that cannot outlive the test run, with faults on demand."""

import atexit
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

# The kernel sends PR_SET_PDEATHSIG when the *thread* that forked ends, not when the process does. A test may start a
# server from a short-lived worker thread, so every fork happens on this thread, which stays.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

STOP_TIMEOUT_S = 5.0


class ChildProcess:
    """One running process, which ends with the block or with the interpreter.

    If this process is killed, the kernel ends the child (where ``setpriv`` is installed).

    Args:
        command: The program and its arguments.
        environment: Variables in addition to those of this process.
        directory: Working directory; None for that of this process.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        self._output = ""
        self._popen = _SPAWNER.submit(self._spawn, command, environment or {}, directory).result()
        atexit.register(self.kill)

    def _spawn(
        self, command: Sequence[str | Path], environment: Mapping[str, str], directory: Path | None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*_tied_to_us(), *map(str, command)],
            env={**os.environ, **environment},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            process_group=0,  # its children can be killed with it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended. A frozen process is running."""
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code, None while the process is running, or the negative number of the signal that ended it."""
        return self._popen.poll()

    @property
    def output(self) -> str:
        """Complete output (stdout and stderr) so far, also after the end of the process."""
        if not self._log.closed:
            size = os.fstat(self._log.fileno()).st_size
            # pread does not move the file offset, which the child shares and writes at.
            self._output = os.pread(self._log.fileno(), size, 0).decode(errors="replace")
        return self._output

    def freeze(self) -> None:
        """Pause the process as a hypervisor would (SIGSTOP). It has stopped when this returns."""
        self._popen.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Continue a frozen process (SIGCONT)."""
        self._popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once (SIGKILL), without its shutdown."""
        self._popen.kill()
        self._reap()

    def stop(self) -> None:
        """End the process by SIGTERM, even if it is frozen, or by SIGKILL after ``STOP_TIMEOUT_S``."""
        self._popen.terminate()
        self.thaw()
        try:
            self._popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
        self._reap()

    def _reap(self) -> None:
        self._popen.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its remaining children
        atexit.unregister(self.kill)
        self._output = self.output
        self._log.close()


def _tied_to_us() -> list[str]:
    """Return the command prefix that makes the kernel kill the child with this process, if it is available."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now.

    No other call of the same user on this machine returns it while this process or a process that it forked lives.
    A program that chooses its port in another way may still take it first.
    """
    while True:
        # Below the ephemeral range (32768 on Linux). Otherwise a client that reconnects to a killed server could get
        # the server's port as its own, and would be connected to itself.
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0 and _can_bind(port) and _reserve(port):
                return port


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _reserve(port: int) -> bool:
    """Reserve a port until this process ends: until its server starts, it still looks free."""
    directory = Path(tempfile.gettempdir(), f"fastapi-websocket-stabilizer-ports-{os.getuid()}")
    directory.mkdir(exist_ok=True)
    reservation = os.open(directory / str(port), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(reservation, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(reservation)
        return False
    return True  # the descriptor stays open, because the lock ends with it
