"""CPU time and memory of running processes, read from outside."""

import resource
import time
from pathlib import Path

PROC = Path("/proc")
CPU_CLOCK = 2
"""CPUCLOCK_SCHED of the kernel's per-process clocks: nanoseconds, ended threads included."""


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    threads = (PROC / str(pid) / "task").glob("*/children")
    children = [int(child) for thread in threads for child in thread.read_text().split()]
    return [pid, *(found for child in children for found in tree(child))]


def cpu_ns(pids: list[int]) -> int:
    """Return the CPU time that whole processes have used, in nanoseconds."""
    return sum(time.clock_gettime_ns((~pid << 3) | CPU_CLOCK) for pid in pids)


def rss_bytes(pids: list[int]) -> int:
    """Return the resident memory of processes."""
    return sum(_rss(pid) for pid in pids)


def _rss(pid: int) -> int:
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


def raise_file_limit(wanted: int) -> int:
    """Let this process and its children open as many files as they may, up to ``wanted``; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    elif soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
