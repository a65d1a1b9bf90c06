"""Replicas, clients and random faults on a real Redis, and a checker of the recorded history."""
