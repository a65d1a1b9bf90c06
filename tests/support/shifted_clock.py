"""A real Redis server with a wall clock that can be stepped, by a C shim that is compiled here and preloaded."""

import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.requirements import missing
from tests.support.servers import RedisServer
from tests.support.waiting import eventually_sync

SHIM = Path(__file__).with_name("shifted_clock.c")


class SteppedServer(RedisServer):
    """A server with a wall clock that ``step`` changes."""

    def __init__(self, binary: Path, directory: Path) -> None:
        library, self._shift = directory / "shifted_clock.so", directory / "seconds"
        compiler = shutil.which("gcc") or missing("no gcc, so no server with another clock")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
        wrapper = directory / "server"
        preload = f"LD_PRELOAD='{library}' SHIFTED_CLOCK='{self._shift}'"
        wrapper.write_text(f"#!/bin/sh\n{preload} exec '{binary}' \"$@\"\n")
        wrapper.chmod(0o755)
        self.step(0)
        super().__init__(wrapper)

    def time_s(self) -> int:
        """Return the server's wall time in seconds since the epoch."""
        with self.client() as client:
            return int(client.time()[0])

    def step(self, seconds: int) -> None:
        """Set the difference of the server's wall clock from this machine's to ``seconds``."""
        data = struct.pack("l", seconds)
        with self._shift.open("r+b" if self._shift.exists() else "wb") as file:
            file.write(data)


@contextmanager
def stepped_server(binary: Path, directory: Path) -> Iterator[SteppedServer]:
    """Start a server with a clock that can be stepped, or skip the test if this machine cannot do that."""
    with SteppedServer(binary, directory) as server:
        server.step(-3600)
        try:
            eventually_sync(lambda: time.time() - server.time_s() > 3000, timeout_s=2)  # noqa: TID251 - of day
        except AssertionError:
            missing(f"{binary} does not ask the C library for the time")
        server.step(0)
        eventually_sync(lambda: time.time() - server.time_s() < 3000)  # noqa: TID251 - of day
        yield server
