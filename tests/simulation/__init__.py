"""Nodes of one registry in virtual time. No wait takes real time, and a seed determines the whole run."""
