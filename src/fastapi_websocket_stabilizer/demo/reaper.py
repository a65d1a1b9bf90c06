"""Ends the processes of the demo when the supervisor ends, even by ``kill -9``.

This script is the leader of a process group that every other process of the demo joins. Only the supervisor can
write to its standard input, a pipe. So EOF means that the supervisor has ended. This needs no timer, works on Linux
and macOS, and also ends processes that are stopped or hang.
"""

import os
import shutil
import signal
import sys


def main(directory: str) -> None:
    """Wait for EOF on standard input, then remove ``directory`` and kill the process group of this script."""
    for catchable in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(catchable, signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    shutil.rmtree(directory, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
