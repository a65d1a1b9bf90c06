"""Hypothesis for unit tests: no deadline on shared machines, and the same examples on every CI run."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit",
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],  # it measures the machine, which other lanes use as well
)
settings.load_profile("unit")
