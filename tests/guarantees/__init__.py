"""Measures the time of recovery from each fault: ``python -m tests.guarantees`` writes ``docs/guarantees.md``."""
