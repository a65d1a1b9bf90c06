"""Ends the demo's processes, however the supervisor ended.

Run as a script, as the leader of a process group that every other process of the demo joins. Its standard
input is a pipe that only the supervisor can write to: end of file means that the supervisor is gone, by
``kill -9`` too. No timer, nothing specific to Linux, and a stopped or wedged process goes as well.
"""

import os
import shutil
import signal
import sys


def main(directory: str) -> None:
    """Wait for the end of standard input, then remove ``directory`` and kill the own process group."""
    for catchable in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(catchable, signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    shutil.rmtree(directory, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
