"""The compiled half of the load generator, from Python.

Ten thousand sockets at twenty messages a second are 200,000 reads a second: a loop in Python would take a whole
core from the servers that it measures, and its own delay would be most of the latency.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("receiver.c")
BIN_S = 10e-6
BINS = 2_000_000


class Counters(ctypes.Structure):
    """What arrived since the last reset; mirrors ``struct counters``."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("messages", "sequences", "bytes", "compressed", "others", "pings", "closed", "latest_ns")
    ]
    messages: int
    sequences: int
    bytes: int
    compressed: int
    others: int
    pings: int
    closed: int
    latest_ns: int


def compiler() -> str | None:
    """Return the C compiler of this machine."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the receiver into ``folder``."""
    library = folder / "receiver.so"
    command = [compiler() or "cc", "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


class Receiver:
    """Many sockets, read by one loop."""

    def __init__(self, library: Path, control_fd: int) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.receiver_counters.restype = ctypes.POINTER(Counters)
        self._library.receiver_bins.restype = ctypes.POINTER(ctypes.c_uint32)
        self._library.receiver_poll.restype = ctypes.c_int64
        if self._library.receiver_open(control_fd):
            raise OSError("epoll is not available")
        self.counters: Counters = self._library.receiver_counters().contents

    def add(self, fd: int, early: bytes, *, is_lined: bool) -> None:
        """Read this socket from now on; ``early`` was read from it already.

        ``is_lined``: a frame has a reply on each line, and each reply any number of messages.
        """
        if self._library.receiver_add(fd, int(is_lined), early, ctypes.c_size_t(len(early))):
            raise OSError("a socket could not be polled")

    def dial(self, fd: int, then: bytes, *, is_lined: bool) -> None:
        """Read the answer to a handshake from this socket, send ``then``, and read messages from then on."""
        if self._library.receiver_dial(fd, int(is_lined), then, ctypes.c_size_t(len(then))):
            raise OSError("a socket could not be polled")

    def poll(self, timeout_s: float = 0.0) -> int:
        """Read what is there, or what comes in time, and return how many handshakes have no answer yet.

        Raises:
            ConnectionError: one was refused.
        """
        waiting = int(self._library.receiver_poll(ctypes.c_int(int(timeout_s * 1000))))
        if waiting < 0:
            raise ConnectionError("a client that came back was refused")
        return waiting

    def run(self, messages: int = 0, ends: int = 0, timeout_s: float | None = None) -> bool:
        """Read until so many messages and ends were seen, or the control connection is readable, or it is late.

        Without numbers: until the control connection is readable. Returns whether the numbers were reached.
        """
        forever = not messages and not ends
        limit = ctypes.c_uint64(2**63 if forever else messages)
        timeout = ctypes.c_int64(-1 if timeout_s is None else int(timeout_s * 1000))
        return bool(self._library.receiver_run(limit, ctypes.c_uint64(ends), timeout) == 0)

    def incomplete(self, messages: int, sequences: int) -> int:
        """Return how many sockets have not had exactly these messages; ``sequences`` is their sum, 0 any."""
        return int(self._library.receiver_incomplete(ctypes.c_uint64(messages), ctypes.c_uint64(sequences)))

    def reset(self) -> None:
        """Count from zero."""
        self._library.receiver_reset()

    def clear(self) -> None:
        """Forget all sockets; the caller closes them."""
        self._library.receiver_clear()

    def percentiles(self, shares: list[float]) -> list[float]:
        """Return latencies in seconds, one for each share of 0 to 1."""
        bins = self._library.receiver_bins()
        counts = [(index, number) for index, number in enumerate(bins[:BINS]) if number]
        total = sum(number for _, number in counts)
        return [_at(counts, share * total) for share in shares]


def _at(counts: list[tuple[int, int]], rank: float) -> float:
    seen = 0
    for index, number in counts:
        seen += number
        if seen >= rank:
            return (index + 1) * BIN_S
    return 0.0
