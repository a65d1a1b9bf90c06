"""Faults on real processes: each verb a fixture, each promise a test."""
