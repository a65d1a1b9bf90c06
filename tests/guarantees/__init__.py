"""Measures the recovery time of each fault. ``python -m tests.guarantees`` writes ``docs/guarantees.md``."""
