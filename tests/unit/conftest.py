"""Hypothesis for unit tests: no deadline on shared machines, and the same examples on every CI run."""

import os

from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None, derandomize="CI" in os.environ)
settings.load_profile("unit")
