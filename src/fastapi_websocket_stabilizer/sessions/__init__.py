"""Connections of ``stabilizer.v1``: their first frame, the frames of their clients, and their end."""
