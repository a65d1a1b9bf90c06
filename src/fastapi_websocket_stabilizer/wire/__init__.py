"""Bytes and values: what goes to sockets, between nodes, and into tokens. Untyped data is handled here only."""
