"""What the harness tells an application, by environment variables."""

import os

REDIS_URL = os.environ.get("BENCHMARKS_REDIS_URL", "redis://127.0.0.1:6379/0")
NAMESPACE = os.environ.get("BENCHMARKS_NAMESPACE", "benchmarks")
VARIANT = os.environ.get("BENCHMARKS_VARIANT", "")
