"""Servers that number their messages, each on two replicas and one that only sends."""
