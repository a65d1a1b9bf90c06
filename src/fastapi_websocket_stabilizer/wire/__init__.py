"""Conversion between bytes and values: frames, envelopes, tokens. The only package that handles untyped data."""
