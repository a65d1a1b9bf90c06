"""Replicas, clients and faults at random on a real Redis, and a checker that reads what happened."""
