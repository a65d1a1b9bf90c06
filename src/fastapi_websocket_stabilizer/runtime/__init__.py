"""Shared parts of the process: the running loop, tasks, turns, logs, counters, the garbage collector."""
