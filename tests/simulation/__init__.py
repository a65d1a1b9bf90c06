"""Nodes of one registry in virtual time: every wait is over at once, and a seed says all that happens."""
