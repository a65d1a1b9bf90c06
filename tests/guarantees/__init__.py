"""Measures how long each fault is felt: ``python -m tests.guarantees`` writes ``docs/guarantees.md``."""
