"""What every part of the process uses: the running loop, tasks, turns, logs, counters, the garbage collector."""
