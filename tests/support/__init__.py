"""Shared tools of the tests: real servers, faults on demand, and waiting for conditions."""
